"""From one world to a harder one: `python -m mir2bench.transfer --help`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from mir2bench.analysis.matches import Matches, MatchOptions, Team, load_matches
from mir2bench.cli import run
from mir2bench.errors import ConfigError, SpecError
from mir2bench.partition import Partition
from mir2bench.registration import VariantSpec, spec

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from mir2bench.policies import Policy

DESCRIPTION = """Play policies and attackers of one world unchanged in another, at levels of its noise (Fig. 6b, 7).

Examples:
  python -m mir2bench.transfer --policy baselines/{maddpg,mir2}/Rendezvous10-adv1-v0/seed* --attacker flee
  python -m mir2bench.transfer --policy scripted:centroid --env Rendezvous10-adv1-v0 --attacker dodge --levels 0 1"""

CLEAN, ATTACKED = "clean", "attacked"
_SHOWN = {
    "return": "team return per episode",
    "reached": "share of episodes it gathers in",
    "steps": "steps until it gathers",
}


@dataclass(frozen=True)
class Options(MatchOptions):
    """Who plays, and where to."""

    to: str = "RendezvousArena10-adv1-v0"
    """Variant to play in. It must be read and acted in like the one that the policies were trained in."""
    levels: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    """Factors on the target's noise; a target whose engine has no argument `noise` is played as it is."""
    episodes: int = 32
    """Episodes for each policy, level and arm."""


def main(options: Annotated[Options, tyro.conf.arg(name="")]) -> None:
    """Play everything and write tables and figures."""
    import pandas as pd

    from mir2bench.analysis.output import Output, drawing
    from mir2bench.evaluation.protocol import evaluation_seeds

    matches = load_matches(options)
    worlds = targets(matches.variant, options)
    if options.episodes < 1:
        raise ConfigError(f"--episodes must be 1 or more, but it is {options.episodes}.")
    output = Output("transfer", options)
    seeds = evaluation_seeds(options.episodes)
    adversaries = [matches.attack(team) for team in matches.teams]
    parts = [
        play_cell(variant, world, matches, team, adversary, arm, seeds)
        for world, variant in worlds.items()
        for team, adversary in zip(matches.teams, adversaries, strict=True)
        for arm in (CLEAN, ATTACKED)
    ]
    episodes = pd.concat(parts, ignore_index=True)
    table = tabulate(episodes)
    output.table("episodes", episodes)
    output.table("transfer", table)
    with drawing():
        output.figure("bars", draw_bars(table))
        harder = worlds.get(_level(1.0), list(worlds.values())[-1])
        output.figure("trajectories", draw_paths(matches, adversaries, harder, seeds[:1]))
    for arm in (CLEAN, ATTACKED):
        rows: Any = table[table["arm"] == arm]
        output.show(rows[["policy", "world", "return", "low", "high", "reached", "steps"]], f"{arm}: team return")
    words = ["python", "-m", "mir2bench.transfer"]
    output.summary(
        {
            "command": " ".join(words + _arguments(options)),
            **matches.to_dict(),
            "to": spec(options.to).to_dict(),
            "levels": list(options.levels),
            "results": table.to_dict("records"),
        }
    )


def _arguments(options: Options) -> list[str]:
    from mir2bench.analysis.options import command_line

    return command_line("transfer", options).split()[4:]


def targets(source: VariantSpec, options: Options) -> dict[str, VariantSpec]:
    """Return what to play: the world of training, then the target at each level of noise.

    Raises:
        ConfigError: no levels, levels of a noise that the target does not have, or a target of other sizes.
    """
    target = spec(options.to)
    sizes = [(v.n_agents, v.n_adversaries, v.observation_fields, v.layout.action_fields) for v in (source, target)]
    if sizes[0] != sizes[1]:
        raise ConfigError(
            f"policies of {source.id} cannot play {target.id}: its agents, observations or actions differ."
        )
    if not options.levels or len(set(options.levels)) < len(options.levels):
        raise ConfigError(f"--levels must be different numbers, one or more, but they are {options.levels}.")
    noisy = {
        _level(x): dataclasses.replace(target, engine_args={**target.engine_args, "noise": x}) for x in options.levels
    }
    try:
        for variant in noisy.values():
            _ = variant.layout  # raises if the engine cannot take it
    except SpecError as error:
        if tuple(options.levels) != Options.levels:
            raise ConfigError(f"--levels cannot be set for {target.id}: {error}") from error
        noisy = {"target": target}
    return {"training": source, **noisy}


def _level(factor: float) -> str:
    return f"noise x {factor:g}"


def play_cell(
    variant: VariantSpec, world: str, matches: Matches, team: Team, adversary: Policy, arm: str, seeds: Sequence[int]
) -> pd.DataFrame:
    """Return one row per episode: its return, whether the team reached its goal, and after how many steps.

    The team counts without the adversaries. Where it never gathers, the steps are the whole horizon.
    """
    import numpy as np
    import pandas as pd

    from mir2bench.learning.rollout import rollout

    together: list[np.ndarray] = []

    def watch(worlds: Any) -> None:
        together.append(worlds.engine.reached(worlds.phi).copy())

    attacked = arm == ATTACKED
    phi = matches.phi if attacked else Partition.of(variant.n_agents)
    has_goal = hasattr(variant.engine_class, "reached")
    played = rollout(
        variant, team.policy, phi, adversary if attacked else None, seeds, watch=watch if has_goal else None
    )
    reached = np.stack(together) if has_goal else np.zeros((1, len(seeds)), dtype=bool)
    # A world that ended early plays on as another episode, which does not count; by ending it reached its goal.
    reached &= np.arange(len(reached))[:, None] < played.lengths
    early = played.lengths < variant.horizon
    ever = reached.any(axis=0) | early
    first = np.where(reached.any(axis=0), reached.argmax(axis=0), np.where(early, played.lengths, variant.horizon))
    return pd.DataFrame(
        {
            "policy": team.name.rsplit(" seed ", 1)[0],
            "team": team.name,
            "world": world,
            "arm": arm,
            "seed": seeds,
            "return": played.returns,
            "reached": ever if has_goal else np.nan,
            "steps": first if has_goal else np.nan,
        }
    )


def tabulate(episodes: pd.DataFrame) -> pd.DataFrame:
    """Return one row per policy, world and arm: means with 95% intervals over seeds, or over a lone seed's episodes."""
    import pandas as pd

    from mir2bench.evaluation.statistics import clustered_interval

    rows = []
    groups: Any = episodes.groupby(["policy", "world", "arm"], sort=False)
    for (policy, world, arm), part in groups:
        row: dict[str, Any] = {"policy": policy, "world": world, "arm": arm}
        for value, low, high in (
            ("return", "low", "high"),
            ("reached", "reached low", "reached high"),
            ("steps", "steps low", "steps high"),
        ):
            cells = part.astype({value: float}).groupby("team", sort=False)[value].mean().to_numpy()
            lone = part[value].to_numpy(dtype=float) if len(cells) == 1 else None
            row[value] = float(cells.mean())
            (row[low], row[high]), row["interval over"] = clustered_interval(cells[:, None], lone)
        rows.append({**row, "teams": int(part["team"].nunique()), "episodes": len(part)})
    return pd.DataFrame(rows)


def draw_bars(table: pd.DataFrame) -> Figure:
    """Draw returns, gathering rates and times of every policy in every world, clean and attacked (paper, Fig. 6b)."""
    import numpy as np
    from matplotlib.figure import Figure

    from mir2bench.evaluation.figures import PALETTE

    worlds, policies = list(dict.fromkeys(table["world"])), list(dict.fromkeys(table["policy"]))
    has_goal = np.isfinite(table["reached"].to_numpy(dtype=float)).any()
    known = list(_SHOWN) if has_goal else ["return"]
    figure = Figure(figsize=(10.0, 2.5 * len(known) + 1.0))
    panels = figure.subplots(len(known), 2, sharex=True, sharey="row", squeeze=False)
    width = 0.8 / len(policies)
    floor = 1.1 * float(table["return"].min())
    for column, arm in enumerate((CLEAN, ATTACKED)):
        for line, value in enumerate(known):
            low, high = ("low", "high") if value == "return" else (f"{value} low", f"{value} high")
            axes = panels[line, column]
            bottom = floor if value == "return" else 0.0
            for k, policy in enumerate(policies):
                rows = table[(table["policy"] == policy) & (table["arm"] == arm)].set_index("world").loc[worlds]
                x = [i + (k - (len(policies) - 1) / 2) * width for i in range(len(worlds))]
                errors = [(rows[value] - rows[low]).clip(lower=0), (rows[high] - rows[value]).clip(lower=0)]
                axes.bar(
                    x,
                    rows[value] - bottom,
                    0.92 * width,
                    bottom=bottom,
                    yerr=errors,
                    capsize=2,
                    color=PALETTE[k % len(PALETTE)],
                    label=policy,
                    error_kw={"linewidth": 1.0},
                )
            axes.grid(axis="x", visible=False)
            axes.set_xticks(range(len(worlds)), worlds)
            if line == 0:
                axes.set_title(arm, fontsize=10)
                axes.set_ylim(bottom=floor)
            if column == 0:
                axes.set_ylabel(_SHOWN[value], fontsize=8.5)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(policies))
    return figure


def draw_paths(matches: Matches, adversaries: Sequence[Policy], harder: VariantSpec, seeds: Sequence[int]) -> Figure:
    """Draw the same attacked start in both worlds, for the first team of each policy (paper, Fig. 7)."""
    from mir2bench.analysis.behavior import draw_episodes, play

    there = dataclasses.replace(matches, variant=harder)
    shown: dict[str, tuple[Team, Policy]] = {}
    for team, adversary in zip(matches.teams, adversaries, strict=True):
        shown.setdefault(team.name.rsplit(" seed ", 1)[0], (team, adversary))
    pairs = []
    for team, adversary in shown.values():
        pairs += play(matches, team, "training world", matches.phi, adversary, seeds)
        pairs += play(there, team, "target", matches.phi, adversary, seeds)
    return draw_episodes(pairs, matches)


if __name__ == "__main__":
    sys.exit(run(main, prog="python -m mir2bench.transfer", description=DESCRIPTION))
