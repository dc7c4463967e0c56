"""Attack one policy: `python -m mir2bench.attack --help`."""

from __future__ import annotations

import dataclasses
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mir2bench.cli import run

DESCRIPTION = """Find a worst case for one frozen team and one partition, and print clean and attacked return.

Examples:
  python -m mir2bench.attack --policy runs/maddpg-3/bundle --phi 3
  python -m mir2bench.attack --policy runs/maddpg-3/bundle --phi 0001000000 --attacker flee
  python -m mir2bench.attack --policy runs/maddpg-3/bundle --phi 3 --attacker sb3-ppo --set gamma=0.99
  python -m mir2bench.attack --policy scripted:centroid --env Rendezvous10-adv2-v0 --phi 2,5 --budget 200000
  python -m mir2bench.attack --policy scripted:gallop --env MAMujoco-HalfCheetah2x3-adv1-v0 --phi 0 --reward forward"""


@dataclass(frozen=True)
class Options:
    """What to attack, and how."""

    policy: str
    """Policy bundle of the team, or scripted:TEAM."""
    phi: str
    """Adversarial agents: indices as in 3 or 2,5, or N zeros and ones."""
    env: str | None = None
    """Variant; the default is what the policy was trained on."""
    attacker: str = "learned"
    """Attacker: learned, sb3-ppo, greedy, random, idle, a scripted traitor of the family, or package.module:Class."""
    reward: str | None = None
    """Reward channel of the world that the attacker minimizes; the default is the variant's."""
    seed: int = 0
    """Determines everything that the attacker draws."""
    budget: str = "quick"
    """Environment steps of the attack, or the name of a budget: smoke, quick, standard or paper."""
    out: Path | None = None
    """Folder to write; the default is runs/<date-time>-<attacker>."""
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="KEY=VALUE")] = ()
    """Settings that differ from the attacker's defaults."""


def main(options: Annotated[Options, tyro.conf.arg(name="")]) -> None:
    """Run the attack that the options describe."""
    from mir2bench.attackers import make_attacker
    from mir2bench.attackers.checks import check_attack
    from mir2bench.cli import parse_phi
    from mir2bench.errors import ConfigError
    from mir2bench.evaluation.jobs import phi_text
    from mir2bench.evaluation.protocol import get_budget, validation_seeds
    from mir2bench.evaluation.single import check_seed, claim_folder, load_team, parse_steps, show_progress
    from mir2bench.evaluation.work import Recorder, save
    from mir2bench.learning.rollout import rollout
    from mir2bench.partition import Partition

    variant, team = load_team(options.policy, options.env)
    if options.reward is not None:
        variant = dataclasses.replace(variant, attack_reward=options.reward)
    phi = parse_phi(options.phi, variant.n_agents, variant.n_adversaries)
    check_attack(options.attacker, variant, phi)
    steps = parse_steps(options.budget, lambda name: get_budget(name).attack_steps)
    chosen = [setting.partition("=") for setting in options.settings]
    for key, equals, _ in chosen:
        if not key or not equals:
            raise ConfigError(f"a setting must look like KEY=VALUE, but it is {key + equals!r}.")
    attacker = make_attacker(options.attacker, variant, {key: value for key, _, value in chosen})
    trained = getattr(attacker, "trains", True)
    check_seed(options.seed)
    out = claim_folder(options.out, options.attacker)
    started = time.monotonic()
    with show_progress(f"{options.attacker} on {options.policy}, phi {phi.label}") as report:
        with Recorder(out / "curve.json", out / "logs", report) as recorder:
            adversary = attacker.attack(variant, team, phi, seed=options.seed, budget=steps, callback=recorder)
        seconds = time.monotonic() - started
        if trained:
            config = dataclasses.asdict(attacker.config) if hasattr(attacker, "config") else {}  # type: ignore[attr-defined]
            save(adversary, out / "bundle", variant, options.attacker, config, options.seed, {"phi": phi_text(phi)})
        seeds = validation_seeds(32)
        clean = rollout(variant, team, Partition.of(variant.n_agents), None, seeds).returns
        attacked = rollout(variant, team, phi, adversary, seeds).returns
    if trained:
        print(f"{steps:,} environment steps in {seconds:.1f} s: {steps / seconds:,.0f} steps/s")
        print(f"adversary's bundle: {out / 'bundle'}")
    print(f"clean team return over 32 validation episodes:    {clean.mean():.2f}")
    print(f"attacked team return over the same episodes:      {attacked.mean():.2f}")


if __name__ == "__main__":
    sys.exit(run(main, prog="python -m mir2bench.attack", description=DESCRIPTION))
