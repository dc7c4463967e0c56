"""How the rows of one table stand to each other: tie groups, and the probability that one beats another.

Rows are compared on the partitions that both were attacked on, by the mean over partitions of each training seed's
normalized score. Training runs of two teams have nothing to do with each other, so the difference gets Welch's 95%
interval with training seeds as units. A scripted team is one team whatever the seed: it adds no variance, and two of
them are compared by the differences of their partitions. A trained team with one seed cannot be told from another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mir2bench.evaluation.statistics import CONFIDENCE, probability_of_improvement, t_interval
from mir2bench.leaderboard.entry import Scores


@dataclass(frozen=True)
class Runs:
    """Normalized headline scores of one row.

    Attributes:
        phis: P partitions, sorted.
        scores: (S, P); NaN in cells that were not played.
        fixed: whether it is a scripted team.
    """

    phis: tuple[str, ...]
    scores: np.ndarray
    fixed: bool

    @classmethod
    def of(cls, scores: Scores, fixed: bool) -> Runs:
        """Gather the cells of an entry's scores."""
        phis = tuple(sorted({cell.phi for cell in scores.cells}))
        seeds = sorted({cell.seed for cell in scores.cells})
        matrix = np.full((len(seeds), len(phis)), np.nan)
        for cell in scores.cells:
            share = (cell.worst - scores.floor) / (scores.ceiling - scores.floor)
            matrix[seeds.index(cell.seed), phis.index(cell.phi)] = share
        return cls(phis, matrix, fixed)

    def on(self, phis: Sequence[str]) -> np.ndarray:
        """Return the columns of some of its partitions, without seeds that were not attacked on any: (S', P')."""
        part = self.scores[:, [self.phis.index(phi) for phi in phis]]
        return part[~np.isnan(part).all(axis=1)] if phis else part


@dataclass(frozen=True)
class Comparison:
    """How a row differs from another.

    Attributes:
        difference: its mean normalized score minus the other's; NaN without a partition in common.
        interval: the 95% interval of that; None if it cannot be known.
        probability: that a run of the first beats one of the second, averaged over partitions; NaN as above.
    """

    difference: float
    interval: tuple[float, float] | None
    probability: float

    @property
    def verdict(self) -> str:
        """Return "higher", "lower", "tie", or "unknown"."""
        if self.interval is None:
            return "unknown"
        low, high = self.interval
        return "higher" if low > 0 else "lower" if high < 0 else "tie"


UNKNOWN = Comparison(math.nan, None, math.nan)
"""Of rows that cannot be compared."""


def compare(x: Runs, y: Runs) -> Comparison:
    """Compare two rows that were attacked in the same way."""
    phis = [phi for phi in x.phis if phi in y.phis]
    a, b = x.on(phis), y.on(phis)
    if not a.size or not b.size:
        return UNKNOWN
    return Comparison(float(_means(a).mean() - _means(b).mean()), _interval(x, y, a, b), _probability(a, b))


def _means(scores: np.ndarray) -> np.ndarray:
    return np.nanmean(scores, axis=1)


def _interval(x: Runs, y: Runs, a: np.ndarray, b: np.ndarray) -> tuple[float, float] | None:
    """Return Welch's interval of the difference of means; None if there are too few runs for one."""
    if x.fixed and y.fixed:
        low, high = t_interval(np.nanmean(a, axis=0) - np.nanmean(b, axis=0))
        return (low, high) if math.isfinite(low) else None
    if (len(a) < 2 and not x.fixed) or (len(b) < 2 and not y.fixed):
        return None
    from scipy import stats

    means = [(_means(side), runs.fixed) for side, runs in ((a, x), (b, y))]
    difference = float(means[0][0].mean() - means[1][0].mean())
    parts = [(values.var(ddof=1) / len(values), len(values) - 1) for values, fixed in means if not fixed]
    square = sum(part for part, _ in parts)
    if square <= 0:
        return difference, difference
    freedom = square**2 / sum(part**2 / n for part, n in parts)
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, freedom) * math.sqrt(square))
    return difference - half, difference + half


def _probability(a: np.ndarray, b: np.ndarray) -> float:
    found = []
    for mine, theirs in zip(a.T, b.T, strict=True):
        mine, theirs = mine[~np.isnan(mine)], theirs[~np.isnan(theirs)]
        if mine.size and theirs.size:
            found.append(float(probability_of_improvement(mine[:, None], theirs[:, None])))
    return float(np.mean(found)) if found else math.nan


def tie_groups(rows: Sequence[Runs]) -> list[int | None]:
    """Return the number of each row's tie group, from 1; None for rows that cannot be told from others.

    A group is led by its first row. The next rows belong to it as long as their difference to the leader includes 0;
    the first row that is lower leads the next group. Rows in between that cannot be compared with the leader have none.

    Args:
        rows: all rows that were attacked in the same way, best first.
    """
    groups: list[int | None] = []
    leader: Runs | None = None
    number = 0
    for row in rows:
        if len(row.scores) < 2 and not row.fixed:
            groups.append(None)
            continue
        verdict = "higher" if leader is None else compare(leader, row).verdict
        if verdict == "unknown":
            groups.append(None)
            continue
        if verdict == "higher":
            leader, number = row, number + 1
        groups.append(number)
    return groups
