"""What a study costs: jobs per hour, the share of each stage, and hours of wall time on any number of cores."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mir2bench.errors import ConfigError, StudyError
from mir2bench.speed import Figure, Options

_SAMPLE = 16_000
"""Environment steps of the trainings and attacks from which the cost of longer ones is foretold."""
_HOUR = 3600.0
Stage = tuple[str, str]
"""Kind of a job, and the defender that it is for."""


@dataclass(frozen=True)
class Protocol(Options):
    """Jobs per hour, cost of each stage, and planned hours on several numbers of cores.

    From a study that was run (--study), or foretold from a short one: each stage is run once at a small budget, and its
    time per environment step counts for all jobs of the whole study. `--rounds` is ignored.
    """

    study: Path | None = None
    """Folder of a study; its finished jobs are counted."""
    algo: tuple[str, ...] = ("maddpg", "mir2")
    """Defenders of a foretold study."""
    env: str = "Rendezvous10-adv1-v0"
    """Its variant."""
    budget: str = "standard"
    """Its budget."""
    protocol: str = "paper-v1"
    """Its protocol."""
    cores: tuple[int, ...] = (1, 2, 16, 64, 1000)
    """Numbers of cores to plan for, one job on each."""

    def check(self) -> None:
        """See `Options.check`."""
        super().check()
        if not self.cores or min(self.cores) < 1:
            raise ConfigError(f"--cores takes numbers of 1 or more, but they are {self.cores}.")

    def measure(self) -> list[Figure]:
        """Return processor seconds of each stage, jobs per hour, and planned hours."""
        costs = foretell(self) if self.study is None else finished(self.study)
        return [*_stages(costs), *(_planned(costs, cores) for cores in self.cores)]


def finished(folder: Path) -> dict[Stage, list[float]]:
    """Return the processor seconds of all finished jobs of a study, by stage.

    Raises:
        StudyError: there are none.
    """
    costs: dict[Stage, list[float]] = {}
    for card in _cards(folder):
        defender = card["label"].split("/")[1].rpartition("-seed")[0]
        costs.setdefault((card["kind"], defender), []).append(card["cpu_s"])
    if not costs:
        raise StudyError(f"{folder} holds no finished job. Name the folder that `mir2bench.evaluate --out` wrote.")
    return costs


def foretell(wanted: Protocol) -> dict[Stage, list[float]]:
    """Run each stage once at a small budget; return the processor seconds of all jobs of the wanted study."""
    from rich.console import Console

    from mir2bench.evaluation.protocol import get_budget
    from mir2bench.evaluation.study import Study

    def resolve(budget: Any, partitions: int | None, seeds: int | None) -> Study:
        return Study.resolve(
            wanted.algo,
            variants=[wanted.env],
            budget=budget,
            protocol=wanted.protocol,
            partitions=partitions,
            seeds=seeds,
        )

    short = replace(get_budget("smoke"), train_steps=_SAMPLE, attack_steps=_SAMPLE)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "study"
        resolve(short, 1, 1).run(folder, workers=1, console=Console(file=io.StringIO()), show=False)
        spent: dict[str, float] = {card["key"]: card["cpu_s"] for card in _cards(folder)}
    rates: dict[Stage, list[float]] = {}
    for job in resolve(short, 1, 1).jobs():
        if job.key in spent:
            rates.setdefault((job.kind, job.defender), []).append(spent[job.key] / max(1, job.steps))
    costs: dict[Stage, list[float]] = {}
    for job in resolve(wanted.budget, None, None).jobs():
        stage = (job.kind, job.defender)
        if stage in rates:
            costs.setdefault(stage, []).append(float(np.mean(rates[stage])) * job.steps)
    return costs


def _cards(folder: Path) -> Iterator[Mapping[str, Any]]:
    for path in sorted(folder.glob("jobs/*/job.json")):
        try:
            yield json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StudyError(f"{path} cannot be read: {error}. Continue the study with --resume first.") from error


def _stages(costs: Mapping[Stage, Sequence[float]]) -> Iterator[Figure]:
    total = sum(sum(seconds) for seconds in costs.values())
    jobs = sum(len(seconds) for seconds in costs.values())
    for (kind, defender), seconds in sorted(costs.items()):
        yield Figure.of(f"{kind} {defender}, {len(seconds)} jobs, {sum(seconds) / total:.1%}", "CPU s", list(seconds))
    yield Figure.of(f"all {jobs} jobs", "CPU h", [total / _HOUR])
    yield Figure.of("per core", "jobs/h", [jobs / total * _HOUR])


def _planned(costs: Mapping[Stage, Sequence[float]], cores: int) -> Figure:
    """Return the hours that jobs take on a number of cores.

    Each stage waits for the one before it here, which is more than a study does, and the longest jobs go first.
    """
    hours = 0.0
    for kind in ("train", "attack", "rollout"):
        busy = np.zeros(cores)
        for seconds in sorted((s for stage, jobs in costs.items() if stage[0] == kind for s in jobs), reverse=True):
            busy[busy.argmin()] += seconds
        hours += busy.max() / _HOUR
    return Figure.of(f"planned on {cores} cores", "h", [hours])
