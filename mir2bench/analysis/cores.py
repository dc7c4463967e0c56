"""How long a study would take on how many cores, planned from what its jobs cost when they were done."""

from __future__ import annotations

import heapq
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

from mir2bench.errors import ConfigError, StudyError
from mir2bench.evaluation.jobs import KINDS
from mir2bench.evaluation.monitor import default_console, duration

DESCRIPTION = """How long a study would take on 2, 16, 1,000 ... cores, planned from its jobs' measured costs.

A plan, not a measurement: each job takes the CPU time that it took here, on a core of its own, as soon as a core is
free and what it needs is done; handing jobs out, starting processes and the disk take no time.

Examples:
  python -m mir2bench.analyze cores --study runs/comparison
  python -m mir2bench.analyze cores --study runs/comparison --cores 64 1024 --copies 10"""


@dataclass(frozen=True)
class Options:
    """Which study, and how many cores."""

    study: Path
    """Folder of a study; what it has finished counts."""
    cores: tuple[int, ...] = (1, 2, 16, 64, 256, 1000)
    """How many cores."""
    copies: int = 1
    """So many such studies at once (further variants, defenders or seeds)."""


def run(options: Annotated[Options, tyro.conf.arg(name="")]) -> None:
    """Print the plan."""
    if options.copies < 1 or min(options.cores, default=0) < 1:
        raise ConfigError(f"--cores and --copies must be 1 or more, but they are {options.cores} and {options.copies}.")
    cards = read_cards(options.study)
    console = default_console()
    for kind in KINDS:
        costs = [card["cpu_s"] for card in cards if card["kind"] == kind]
        if costs:
            each = sum(costs) / len(costs)
            console.print(f"{kind}: {len(costs)} jobs, {each:.2f} s each, {sum(costs):,.0f} s in all", highlight=False)
    table = Table("cores", "time", "busy", title=f"{options.copies} x {options.study}")
    total = options.copies * sum(card["cpu_s"] for card in cards)
    for cores in options.cores:
        seconds = schedule(cards, cores, options.copies)
        table.add_row(f"{cores:,}", duration(seconds), f"{total / (cores * max(seconds, 1e-9)):.0%}")
    console.print(table)


def read_cards(study: Path) -> list[dict[str, Any]]:
    """Return "key", "kind", "needs" and "cpu_s" of all finished jobs, in the order in which a study plans them.

    Raises:
        StudyError: there are none, or one is damaged.
    """
    try:
        cards = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(study.glob("jobs/*/job.json"))]
        cards = [{name: card[name] for name in ("key", "kind", "needs", "cpu_s")} for card in cards]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"{study} has a job whose job.json cannot be read: {error}. --resume does it again."
        ) from error
    if not cards:
        raise StudyError(f"{study} holds no finished job. Name the folder of a study, such as runs/comparison.")
    return sorted(cards, key=lambda card: KINDS.index(card["kind"]))


def schedule(cards: Sequence[Mapping[str, Any]], cores: int, copies: int = 1) -> float:
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
