"""Measure the floor and ceiling of each world's score scale: `python -m mir2bench.anchors`.

The floor is the worse of the idle and the random team, the ceiling the best scripted team of the family, both without
adversaries. The last lines printed for a world are those that its registry file needs.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from mir2bench.cli import run
from mir2bench.engines.base import ready_variants
from mir2bench.errors import ConfigError
from mir2bench.evaluation.contenders import make_scripted
from mir2bench.evaluation.protocol import validation_seeds
from mir2bench.learning.rollout import rollout
from mir2bench.partition import Partition
from mir2bench.registration import VariantSpec, spec

FLOOR_TEAMS = ("idle", "random")
_BATCH = 256  # episodes at once; bounds the memory that large teams need


@dataclass(frozen=True, slots=True)
class Measured:
    """The mean return of one scripted team without adversaries.

    Attributes:
        team: its name.
        score: mean team return per episode.
        won: share of episodes won; None in families that know no victory.
        error: standard error of the mean.
        episodes: how many were played.
        first_seed, last_seed: seeds of the episodes, inclusive.
    """

    team: str
    score: float
    won: float | None
    error: float
    episodes: int
    first_seed: int
    last_seed: int

    def text(self) -> str:
        """Return the row for people."""
        won = "" if self.won is None else f" ({100 * self.won:.1f}% won)"
        return f"{self.team} {self.score:.3f} +- {self.error:.3f}{won}"

    def toml(self, key: str) -> str:
        """Return the registry line for `key`, "floor" or "ceiling"."""
        origin = (
            f"{self.team} team, {self.episodes} episodes without adversaries, seeds {self.first_seed} to "
            f"{self.last_seed}, standard error {self.error:.3f}"
        )
        return f'{key} = {{ score = {self.score:.3f}, origin = "{origin}" }}'


def measure(variant: VariantSpec, team: str, episodes: int) -> Measured:
    """Play `episodes` episodes of a scripted team in the plain Dec-POMDP.

    Args:
        variant: any variant of the world; its adversaries stay out.
        team: name of one of the family's scripted teams.
        episodes: at least 2.

    Raises:
        UnknownNameError: no such team.
        ConfigError: too few episodes for a standard error.
    """
    if episodes < 2:
        raise ConfigError(f"episodes must be 2 or more, since a standard error is needed, but it is {episodes}.")
    policy = make_scripted(variant, team)
    seeds = validation_seeds(episodes)
    nobody = Partition.of(variant.n_agents)
    parts = [rollout(variant, policy, nobody, None, seeds[i : i + _BATCH]) for i in range(0, episodes, _BATCH)]
    returns = np.concatenate([part.returns for part in parts])
    victories = [part.won for part in parts if part.won is not None]
    won = float(np.concatenate(victories).mean()) if victories else None
    error = float(returns.std(ddof=1) / np.sqrt(episodes))
    return Measured(team, float(returns.mean()), won, error, episodes, seeds[0], seeds[-1])


def measure_world(variant: VariantSpec, episodes: int) -> tuple[Measured, Measured, list[Measured]]:
    """Return the floor, the ceiling, and all teams from worst to best; the planted one is no measure of anything."""
    planted = getattr(variant.engine_class, "planted", "")
    teams = [measure(variant, team, episodes) for team in variant.engine_class.scripted_teams if team != planted]
    teams.sort(key=lambda m: m.score)
    floor = min((m for m in teams if m.team in FLOOR_TEAMS), key=lambda m: m.score)
    return floor, teams[-1], teams


def main(env: tuple[str, ...] = (), episodes: int = 1024) -> None:
    """Measure floor and ceiling of the score scale and print them as registry lines.

    Examples:
        python -m mir2bench.anchors --env Rendezvous10-adv0-v0 --episodes 4096

    Args:
        env: variants whose worlds to measure; all that can be made here if none is given.
        episodes: episodes per scripted team.
    """
    worlds = {}
    for variant in map(spec, env or ready_variants()):
        worlds.setdefault(variant.id.rsplit("-adv", 1)[0], variant)
    for world, variant in worlds.items():
        floor, ceiling, teams = measure_world(variant, episodes)
        print(f"# {world}: " + ", ".join(m.text() for m in teams))
        print(floor.toml("floor"))
        print(ceiling.toml("ceiling"), flush=True)


if __name__ == "__main__":
    sys.exit(run(main, prog="python -m mir2bench.anchors"))
