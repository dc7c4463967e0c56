"""Evaluate defenders under worst-case attack: `python -m mir2bench.evaluate --help`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mir2bench.cli import run

if TYPE_CHECKING:
    from mir2bench.evaluation.study import Study

DESCRIPTION = """Train (or load) defenders, train adversaries against them, and report how they hold up.

Examples:
  python -m mir2bench.evaluate
  python -m mir2bench.evaluate --algo maddpg mir2 --budget standard --out runs/comparison
  python -m mir2bench.evaluate --algo maddpg mir2 --protocol suite-v1
  python -m mir2bench.evaluate --algo mir2 scripted:centroid --env Rendezvous5-adv2-v0 --seeds 3
  python -m mir2bench.evaluate --policy runs/a/bundle runs/b/bundle
  python -m mir2bench.evaluate --algo mir2 --set lam=0.001
  python -m mir2bench.evaluate --algo mir2 --budget standard --submit my-mir2
  python -m mir2bench.evaluate --algo maddpg mir2 --budget standard --out runs/comparison --resume"""


@dataclass(frozen=True)
class Options:
    """What to evaluate, and how."""

    algo: tuple[str, ...] = ()
    """Defenders to train: names, package.module:Class, or scripted:TEAM. Without --policy the default is mir2."""
    env: tuple[str, ...] = ()
    """Variants; the default is Rendezvous10-adv1-v0, or what the policies were trained on."""
    policy: tuple[Path, ...] = ()
    """Policy bundles to evaluate as they are; bundles that differ in their seed alone count as one defender."""
    budget: str = "quick"
    """How much work: smoke, quick, standard or paper."""
    protocol: str = "paper-v1"
    """Attackers and partitions: paper-v1 (the learned attacker counts) or suite-v1 (the worst of a whole suite)."""
    seeds: int | None = None
    """Training seeds per defender; the default is the budget's number."""
    partitions: int | None = None
    """Most partitions attacked per variant, for a cheaper look; the default is the protocol's number."""
    workers: int | None = None
    """Processes, or most jobs at once on a Ray cluster; the default is one per core. Results do not depend on it."""
    executor: str = "local"
    """Where jobs run: local (processes on this machine) or ray (a Ray cluster)."""
    ray_address: str | None = None
    """The Ray cluster's head, HOST:PORT or auto; without it --executor ray starts a cluster on this machine."""
    job_minutes: float | None = None
    """A job that takes longer is ended and fails; by default it may take any time."""
    job_memory: float | None = None
    """A job that holds more memory is ended and fails, in GB; by default it may hold any."""
    out: Path | None = None
    """Study folder; the default is runs/<date-time>-<algorithms>."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Continue the study in --out where it stopped."""
    submit: str | None = None
    """Enter the result into the leaderboards' folder under this short name; for one defender on one variant."""
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="KEY=VALUE")] = ()
    """Settings that differ from an algorithm's defaults; ALGORITHM.KEY=VALUE for one algorithm alone."""


def main(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
    """Run the study that the options describe; return 1 if it is incomplete since jobs failed."""
    from mir2bench.errors import StudyError
    from mir2bench.evaluation.limits import Limits
    from mir2bench.evaluation.single import default_out
    from mir2bench.evaluation.study import DEFAULT_ALGORITHM, Study
    from mir2bench.evaluation.tables import shortfall

    if options.resume and options.out is None:
        raise StudyError("--resume needs --out: the folder of the study to continue.")
    limits = Limits(options.job_minutes, options.job_memory)
    study = Study.resolve(
        options.algo,
        variants=options.env,
        policies=options.policy,
        budget=options.budget,
        protocol=options.protocol,
        seeds=options.seeds,
        partitions=options.partitions,
        settings=options.settings,
    )
    if options.submit is not None:
        check_submission(study, options.submit)
    names = options.algo or (("policies",) if options.policy else (DEFAULT_ALGORITHM,))
    out = options.out or default_out(names)
    summary = study.run(
        out,
        workers=options.workers,
        resume=options.resume,
        command=command_line(options),
        limits=limits,
        executor=options.executor,
        address=options.ray_address,
    )
    if summary["failures"]:
        print(f"error: {shortfall(summary)}", file=sys.stderr)
        return 1
    if options.submit is not None:
        from mir2bench.leaderboard.new import submit_run

        print(f"Entry: {submit_run(out, options.submit, policies=options.policy)}")
    return 0


def check_submission(study: Study, name: str) -> None:
    """Find out before any work is done what a study cannot be entered for; see `--submit`.

    Raises:
        ConfigError: it has several defenders or variants.
        EntryError: the name is no short name or taken, or there is no folder to enter it into.
    """
    from mir2bench.errors import ConfigError
    from mir2bench.leaderboard.new import About, free_folder

    if len(study.contenders) * len(study.variants) != 1:
        raise ConfigError(
            "--submit enters one defender on one variant. Enter the others with `python -m mir2bench.leaderboard new`."
        )
    free_folder(study.variants[0].id, About(name).name)


def command_line(options: Options) -> str:
    """Return the command that does the same work; where and how fast it runs is left out."""
    words = ["python", "-m", "mir2bench.evaluate"]
    for flag, value in (
        ("--algo", options.algo),
        ("--env", options.env),
        ("--policy", options.policy),
        ("--budget", (options.budget,)),
        ("--protocol", (options.protocol,)),
        ("--seeds", () if options.seeds is None else (options.seeds,)),
        ("--partitions", () if options.partitions is None else (options.partitions,)),
        ("--set", options.settings),
    ):
        if value:
            words += [flag, *map(str, value)]
    return shlex.join(words)


if __name__ == "__main__":
    sys.exit(run(main, prog="python -m mir2bench.evaluate", description=DESCRIPTION))
