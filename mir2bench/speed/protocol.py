"""What a study costs: jobs per hour, the share of each stage, and hours of wall time on any number of cores."""

from __future__ import annotations

import heapq
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
Card = Mapping[str, Any]
"""A job: "key", "kind", "defender", "needs" (role -> key) and "cpu_s"."""


@dataclass(frozen=True)
class Protocol(Options):
    """Jobs per hour, cost of each stage, and planned hours on several numbers of cores.

    From a study that was run (--study), or foretold from two short ones: each stage is run at two small budgets, and
    the line through their times is drawn on to the whole study's. The hours are a plan, not a measurement: each job
    takes its processor time on a core of its own, as soon as one is free and what it needs is done. No `--rounds` here.

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
    copies: int = 1
    """So many such studies at once (further variants, defenders or seeds)."""

    def check(self) -> None:
        """See `Options.check`."""
        super().check()
        if self.copies < 1 or min(self.cores, default=0) < 1:
            raise ConfigError(f"--cores and --copies must be 1 or more, but they are {self.cores} and {self.copies}.")

    def measure(self) -> list[Figure]:
        """Return processor seconds of each stage, jobs per hour, and planned hours."""
        cards = foretell(self) if self.study is None else finished(self.study)
        planned = [(cores, schedule(cards, cores, self.copies) / _HOUR) for cores in self.cores]
        of = "" if self.copies == 1 else f"{self.copies} such studies "
        return [
            *_stages(cards),
            *(Figure.of(f"{of}planned on {cores} cores", "h", [hours]) for cores, hours in planned),
        ]


def finished(study: Path) -> list[Card]:
    """Return all finished jobs of a study, in the order in which studies plan them.

    Raises:
        StudyError: there are none, or one is damaged.
    """
    from mir2bench.evaluation.jobs import KINDS

    cards = []
    try:
        for path in sorted(study.glob("jobs/*/job.json")):
            card = json.loads(path.read_text(encoding="utf-8"))
            defender = card["label"].split("/")[1].rpartition("-seed")[0]
            cards.append({**{name: card[name] for name in ("key", "kind", "needs", "cpu_s")}, "defender": defender})
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise StudyError(
            f"{study} has a job whose job.json cannot be read: {error}. --resume does it again."
        ) from error
    if not cards:
        raise StudyError(f"{study} holds no finished job. Name the folder of a study, such as runs/comparison.")
    return sorted(cards, key=lambda card: KINDS.index(card["kind"]))


def foretell(wanted: Protocol) -> list[Card]:
    """Run each stage at two small budgets; return all jobs of the wanted study with the seconds foretold from them."""
    seen: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for steps in _SAMPLES:
        for stage, points in _short(wanted, steps).items():
            seen.setdefault(stage, []).extend(points)
    cards = []
    for job in _resolve(wanted, wanted.budget).jobs():
        points = seen.get((job.kind, job.defender), [])
        if points:
            about = {"key": job.key, "kind": job.kind, "defender": job.defender, "needs": dict(job.needs)}
            cards.append({**about, "cpu_s": _on_their_line(points, job.steps)})
    return cards


def _short(wanted: Protocol, steps: int) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """Run one seed and one partition of a study at a small budget; return the steps and seconds of its jobs."""
    from rich.console import Console

    from mir2bench.evaluation.protocol import get_budget

    budget = replace(get_budget("smoke"), train_steps=steps, attack_steps=steps, partitions=1, defender_seeds=1)
    study = _resolve(wanted, budget)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "study"
        study.run(folder, workers=1, console=Console(file=io.StringIO()), show=False)
        spent: dict[str, float] = {card["key"]: card["cpu_s"] for card in finished(folder)}
    points: dict[tuple[str, str], list[tuple[int, float]]] = {}
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


def _stages(cards: Sequence[Card]) -> Iterator[Figure]:
    costs: dict[tuple[str, str], list[float]] = {}
    for card in cards:
        costs.setdefault((card["kind"], card["defender"]), []).append(card["cpu_s"])
    total = sum(map(sum, costs.values()))
    for (kind, defender), seconds in sorted(costs.items()):
        yield Figure.of(f"{kind} {defender}, {len(seconds)} jobs, {sum(seconds) / total:.1%}", "CPU s", seconds)
    yield Figure.of(f"all {len(cards)} jobs", "CPU h", [total / _HOUR])
    yield Figure.of("per core", "jobs/h", [len(cards) / total * _HOUR])


def schedule(cards: Sequence[Card], cores: int, copies: int = 1) -> float:
    """Return the seconds that `copies` of these jobs take on so many cores, the first ready one first.

    What a job needs and is not among them costs nothing.
    """
    known = {card["key"] for card in cards}
    jobs = {(copy, card["key"]): card for card in cards for copy in range(copies)}
    unmet = {name: {(name[0], need) for need in job["needs"].values() if need in known} for name, job in jobs.items()}
    place = {name: number for number, name in enumerate(jobs)}
    needed_by: dict[tuple[int, str], list[tuple[int, str]]] = {}
    for name, needs in unmet.items():
        for need in needs:
            needed_by.setdefault(need, []).append(name)
    names = list(jobs)
    ready = [place[name] for name in names if not unmet[name]]  # ascending: a heap already
    busy: list[tuple[float, int]] = []
    now = 0.0
    while ready or busy:
        while ready and len(busy) < cores:
            number = heapq.heappop(ready)
            heapq.heappush(busy, (now + jobs[names[number]]["cpu_s"], number))
        now, number = heapq.heappop(busy)
        for name in needed_by.get(names[number], ()):
            unmet[name].remove(names[number])
            if not unmet[name]:
                heapq.heappush(ready, place[name])
    return now
