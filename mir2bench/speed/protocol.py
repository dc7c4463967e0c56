"""What a study costs: jobs per hour, the share of each stage, and hours of wall time on any number of cores."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mir2bench.errors import ConfigError, StudyError
from mir2bench.speed import Figure, Options

if TYPE_CHECKING:
    from mir2bench.evaluation.protocol import Budget
    from mir2bench.evaluation.study import Study

_SAMPLES = (12_000, 36_000)
"""Environment steps of the trainings and attacks from which the cost of longer ones is foretold."""
_HOUR = 3600.0
Stage = tuple[str, str]
"""Kind of a job, and the defender that it is for."""


@dataclass(frozen=True)
class Protocol(Options):
    """Jobs per hour, cost of each stage, and planned hours on several numbers of cores.

    From a study that was run (--study), or foretold from two short ones: each stage is run at two small budgets, and
    the line through their times is drawn on to the whole study's. `--rounds` is ignored.

    Examples:
        python -m mir2bench.bench protocol --algo maddpg m3ddpg romq mir2 --cores 2 64
        python -m mir2bench.bench protocol --study runs/comparison
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
    """Run each stage at two small budgets; return the processor seconds of all jobs of the wanted study."""
    seen: dict[Stage, list[tuple[int, float]]] = {}
    for steps in _SAMPLES:
        for stage, points in _short(wanted, steps).items():
            seen.setdefault(stage, []).extend(points)
    costs: dict[Stage, list[float]] = {}
    for job in _resolve(wanted, wanted.budget).jobs():
        points = seen.get((job.kind, job.defender), [])
        if points:
            costs.setdefault((job.kind, job.defender), []).append(_on_their_line(points, job.steps))
    return costs


def _short(wanted: Protocol, steps: int) -> dict[Stage, list[tuple[int, float]]]:
    """Run one seed and one partition of a study at a small budget; return the steps and seconds of its jobs."""
    from rich.console import Console

    from mir2bench.evaluation.protocol import get_budget

    budget = replace(get_budget("smoke"), train_steps=steps, attack_steps=steps, partitions=1, defender_seeds=1)
    study = _resolve(wanted, budget)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "study"
        study.run(folder, workers=1, console=Console(file=io.StringIO()), show=False)
        spent: dict[str, float] = {card["key"]: card["cpu_s"] for card in _cards(folder)}
    points: dict[Stage, list[tuple[int, float]]] = {}
    for job in study.jobs():
        if job.key in spent:
            points.setdefault((job.kind, job.defender), []).append((job.steps, spent[job.key]))
    return points


def _resolve(wanted: Protocol, budget: str | Budget) -> Study:
    from mir2bench.evaluation.study import Study

    return Study.resolve(wanted.algo, variants=[wanted.env], budget=budget, protocol=wanted.protocol)


def _on_their_line(points: Sequence[tuple[int, float]], steps: int) -> float:
    """Return where the line of least squares through (steps, seconds) stands; where all took as many, in proportion."""
    x, y = np.asarray(points, dtype=float).T
    if np.ptp(x) == 0:
        return float(y.mean() * steps / max(1.0, x.mean()))
    slope = max(0.0, float(np.polyfit(x, y, 1)[0]))
    return float(max(0.0, y.mean() + slope * (steps - x.mean())))


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
