"""The order of a table: rows that cannot be told apart share a rank.

Two rows are compared over the partitions that both were attacked on: the difference of their mean worst returns, each
over its own training seeds, with Welch's 95% interval over seeds. Evaluation episodes, partitions and attackers are the
same on both sides. Where the interval includes zero, or there are too few seeds for one, the rows are tied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mir2bench.evaluation.statistics import CONFIDENCE, probability_of_improvement
from mir2bench.leaderboard.entry import Entry, Scores


@dataclass(frozen=True)
class Comparison:
    """How one row stands against another.

    Attributes:
        other: the other entry's short name.
        difference: mean worst return of this row minus the other's, over the common partitions; None without any.
        interval: its 95% interval; None if there are too few seeds.
        improvement: probability that a training seed of this row beats one of the other's, averaged over partitions.
        tied: whether they share a rank.
        same_attack: whether both were attacked by the same protocol, attackers and budget.
    """

    other: str
    difference: float | None
    interval: tuple[float, float] | None
    improvement: float | None
    tied: bool
    same_attack: bool


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        entry: whose.
        scores: what the table shows of it.
        rank: 1 for the best; tied rows share it. None for scripted teams, which are landmarks and not ranked.
        comparisons: with every other row of the table, by its short name.
    """

    entry: Entry
    scores: Scores
    rank: int | None
    comparisons: dict[str, Comparison]


def rank(entries: Sequence[Entry], table: Literal["verified", "reported"] = "verified") -> list[Row]:
    """Return the rows of one variant's table, best first.

    The best row leads a group that all rows tied with it belong to; the best row after that leads the next group.
    """
    listed = [(entry, scores) for entry in entries if (scores := getattr(entry, table)) is not None]
    listed.sort(key=lambda row: (-row[1].iqm.value, row[0].entry))
    ranks: dict[str, int] = {}
    leader: tuple[Entry, Scores] | None = None
    place = 0
    for entry, scores in listed:
        if entry.method.kind == "scripted":
            continue
        place += 1
        tied = leader is not None and compare(entry, scores, *leader).tied
        if leader is None or not tied:
            leader = (entry, scores)
            ranks[entry.entry] = place
        else:
            ranks[entry.entry] = ranks[leader[0].entry]
    return [
        Row(
            entry,
            scores,
            ranks.get(entry.entry),
            {o.entry: compare(entry, scores, o, theirs) for o, theirs in listed if o.entry != entry.entry},
        )
        for entry, scores in listed
    ]


def compare(entry: Entry, scores: Scores, other: Entry, theirs: Scores) -> Comparison:
    """Return how a row stands against another of the same variant and table."""
    same = (scores.attackers_sha256, scores.budget) == (theirs.attackers_sha256, theirs.budget)
    phis = sorted({cell.phi for cell in scores.cells} & {cell.phi for cell in theirs.cells})
    a, b = _matrix(scores, phis), _matrix(theirs, phis)
    if not a.size or not b.size:
        return Comparison(other.entry, None, None, None, True, same)
    interval = _welch(a.mean(axis=1), b.mean(axis=1), entry.method.kind, other.method.kind)
    tied = interval is None or interval[0] <= 0 <= interval[1]
    improvement = float(probability_of_improvement(a, b))
    return Comparison(other.entry, float(a.mean() - b.mean()), interval, improvement, tied, same)


def _matrix(scores: Scores, phis: Sequence[str]) -> np.ndarray:
    """Return (S, P) worst returns of the training seeds that have all of these partitions."""
    cells = {(cell.seed, cell.phi): cell.worst for cell in scores.cells}
    seeds = sorted({cell.seed for cell in scores.cells if all((cell.seed, phi) in cells for phi in phis)})
    return np.array([[cells[seed, phi] for phi in phis] for seed in seeds]).reshape(len(seeds), len(phis))


def _welch(x: np.ndarray, y: np.ndarray, *kinds: str) -> tuple[float, float] | None:
    """Return Welch's interval of mean(x) - mean(y); a scripted side is one team and does not vary with the seed."""
    from scipy import stats

    shares, freedom = [], 0.0
    for side, kind in zip((x, y), kinds, strict=True):
        if kind == "scripted":
            continue
        if len(side) < 2:
            return None
        shares.append((float(side.var(ddof=1)) / len(side), len(side) - 1))
    if not shares:
        return None
    error = math.sqrt(sum(share for share, _ in shares))
    difference = float(x.mean() - y.mean())
    if error == 0.0:
        return difference, difference
    freedom = error**4 / sum(share**2 / degrees for share, degrees in shares)
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, freedom)) * error
    return difference - half, difference + half
