"""Draw one episode: `python -m mir2bench.render --help`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from mir2bench.cli import parse_phi, run
from mir2bench.errors import ConfigError
from mir2bench.evaluation.films import SUFFIXES, write_film
from mir2bench.partition import Partition
from mir2bench.policies import Policy
from mir2bench.registration import VariantSpec

DESCRIPTION = """Draw one episode of a team, alone or under attack, as a GIF, an MP4 or a picture of its last moment.

Examples:
  python -m mir2bench.render --policy scripted:centroid --env Rendezvous10-adv1-v0 --out clean.gif
  python -m mir2bench.render --policy scripted:centroid --env Rendezvous5-adv1-v0 --attacker flee --phi 2 --out a.png
  python -m mir2bench.render --policy runs/maddpg-3/bundle --attacker runs/attack-3/bundle --out attack.gif"""


@dataclass(frozen=True)
class Options:
    """What to draw."""

    policy: str
    """Policy bundle of the team, or scripted:TEAM."""
    out: Path
    """File to write; its ending chooses the format: .gif, .mp4 or .png (the last frame)."""
    env: str | None = None
    """Variant; the default is what the team was trained on."""
    attacker: str | None = None
    """Policy bundle of adversaries, or an attacker without training: random, idle or a scripted traitor of the family.
    Without it nobody is adversarial."""
    phi: str | None = None
    """Adversarial agents: indices as in 3 or 2,5, or N zeros and ones. The default is what the attacker was trained
    for, else the first K agents."""
    seed: int = 0
    """Determines the start."""
    fps: int = 20
    """Frames per second of the film."""
    every: int = 1
    """Keep every n-th step, and the last."""


def main(options: Annotated[Options, tyro.conf.arg(name="")]) -> None:
    """Draw the episode that the options describe."""
    from mir2bench.evaluation.single import load_team
    from mir2bench.learning.rollout import rollout
    from mir2bench.views.common import load_drawing

    check_options(options)
    variant, team = load_team(options.policy, options.env)
    phi, adversary = load_adversary(variant, team, options.attacker, options.phi)
    draw = load_drawing(variant.engine_class.drawing)
    history: list[dict[str, np.ndarray]] = []
    result = rollout(
        variant,
        team,
        phi,
        adversary,
        [options.seed],
        watch=lambda worlds: history.append(worlds.engine.snapshot(0)),
    )
    steps = len(history) - 1
    kept = [steps] if options.out.suffix.lower() == ".png" else sorted({*range(0, steps, options.every), steps})
    write_film(options.out, [draw(history[: step + 1], phi.to_array(), variant) for step in kept], options.fps)
    print(f"team return {result.returns[0]:.2f} in {steps} steps, adversaries: {phi.label}")
    print(f"wrote {options.out}")


def check_options(options: Options) -> None:
    """Raise `ConfigError` for what is wrong before anything is played."""
    if options.out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out must end in {', '.join(SUFFIXES)}, but it is {str(options.out)!r}.")
    if not options.out.absolute().parent.is_dir():
        raise ConfigError(f"the folder of --out {options.out} does not exist. Make it first.")
    for name, value in (("fps", options.fps), ("every", options.every)):
        if value < 1:
            raise ConfigError(f"--{name} must be 1 or more, but it is {value}.")
    if options.seed < 0:
        raise ConfigError(f"--seed must be 0 or more, but it is {options.seed}.")


def load_adversary(
    variant: VariantSpec, team: Policy, attacker: str | None, phi: str | None
) -> tuple[Partition, Policy | None]:
    """Return the partition and the adversaries' policy; phi = 0 and None without an attacker.

    Args:
        variant: what is played.
        team: whom they play against.
        attacker: a bundle's folder, the name of an attacker that needs no training, or None.
        phi: see `Options.phi`.

    Raises:
        ConfigError: phi without attacker, an attacker but no adversaries, or a name that needs training.
        PolicyError, PartitionError: a damaged or unfitting bundle or phi.
    """
    from mir2bench.attackers import is_trained, list_attackers, make_attacker
    from mir2bench.evaluation.single import load_adversaries

    n, k = variant.n_agents, variant.n_adversaries
    given = None if phi is None else parse_phi(phi, n, k)
    if attacker is None:
        if given is not None and given.weight:
            raise ConfigError(f"--phi names adversaries ({given.label}), so say with --attacker how they behave.")
        return Partition.of(n), None
    ready = [name for name in list_attackers(variant) if not is_trained(name, variant)]
    if attacker in ready:
        partition = Partition.of(n, range(k)) if given is None else given
        policy = make_attacker(attacker, variant).attack(variant, team, partition, seed=0, budget=1)
    elif Path(attacker).is_dir():
        partition, policy = load_adversaries(Path(attacker), variant, given)
    else:
        raise ConfigError(f"--attacker must be the folder of a bundle or one of {', '.join(ready)}, not {attacker!r}.")
    if partition.weight == 0:
        raise ConfigError(f"--attacker {attacker} needs adversaries, but phi names none: choose a variant with some.")
    return partition, policy


if __name__ == "__main__":
    sys.exit(run(main, prog="python -m mir2bench.render", description=DESCRIPTION))
