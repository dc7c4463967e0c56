"""Train one defender: `python -m mir2bench.train --help`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mir2bench.cli import run

DESCRIPTION = """Train one defender and write its policy bundle, learning curve and TensorBoard logs.

Examples:
  python -m mir2bench.train --algo mir2
  python -m mir2bench.train --algo maddpg --env Rendezvous5-adv1-v0 --seed 3 --budget 1000000 --out runs/maddpg-3
  python -m mir2bench.train --algo mir2 --set lam=0.001
Interrupted? The same again with --resume and its --out ends with the same weights.
Then:
  python -m mir2bench.evaluate --policy runs/maddpg-3/bundle"""


@dataclass(frozen=True)
class Options:
    """What to train, and how."""

    algo: str = "mir2"
    """Defender: a name or package.module:Class."""
    env: str = "Rendezvous10-adv1-v0"
    """Variant to train on."""
    seed: int = 0
    """Determines weights, starts, exploration and sampling."""
    budget: str = "quick"
    """Environment steps, or the name of a budget: smoke, quick, standard or paper."""
    out: Path | None = None
    """Folder to write; the default is runs/<date-time>-<algorithm>."""
    resume: bool = False
    """Continue a training in --out that was interrupted, from its last checkpoint."""
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="KEY=VALUE")] = ()
    """Settings that differ from the algorithm's defaults."""


def main(options: Annotated[Options, tyro.conf.arg(name="")]) -> None:
    """Train the defender that the options describe."""
    from mir2bench.evaluation.contenders import resolve_configs
    from mir2bench.evaluation.protocol import get_budget, validation_seeds
    from mir2bench.evaluation.single import (
        CHECKPOINT,
        check_seed,
        claim_folder,
        parse_steps,
        reclaim_folder,
        show_progress,
    )
    from mir2bench.evaluation.work import Recorder, save, train
    from mir2bench.learning.rollout import rollout
    from mir2bench.partition import Partition
    from mir2bench.registration import spec

    variant = spec(options.env)
    steps = parse_steps(options.budget, lambda name: get_budget(name).train_steps)
    config = resolve_configs([options.algo], options.settings, variant)[options.algo]
    check_seed(options.seed)
    out = reclaim_folder(options.out) if options.resume else claim_folder(options.out, options.algo)
    checkpoint = out / CHECKPOINT
    with show_progress(f"{options.algo} on {variant.id}, seed {options.seed}") as report:
        with Recorder(out / "curve.json", out / "logs", report) as recorder:
            policy = train(
                options.algo,
                config,
                variant,
                seed=options.seed,
                steps=steps,
                recorder=recorder,
                checkpoint=checkpoint,
                anew=False,
            )
            seconds = recorder.seconds
        save(policy, out / "bundle", variant, options.algo, config, options.seed, {"steps": steps})
        checkpoint.unlink(missing_ok=True)
        played = rollout(variant, policy, Partition.of(variant.n_agents), None, validation_seeds(32))
    print(f"{steps:,} environment steps in {seconds:.1f} s: {steps / seconds:,.0f} steps/s")
    print(f"greedy team return over 32 validation episodes: {played.returns.mean():.2f}")
    print(f"policy bundle: {out / 'bundle'}")


if __name__ == "__main__":
    sys.exit(run(main, prog="python -m mir2bench.train", description=DESCRIPTION))
