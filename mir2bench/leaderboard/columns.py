"""The columns of the board's tables: what each shows, how it sorts, and the words that explain it.

The same list gives the tables their heads and `columns.html` its text, so that no column goes without an explanation.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mir2bench.evaluation import tables
from mir2bench.evaluation.protocol import TRANSFER
from mir2bench.leaderboard.charts import gauge, signed
from mir2bench.leaderboard.check import all_partitions
from mir2bench.leaderboard.entry import Aggregate, Entry, Score, Scores
from mir2bench.leaderboard.standing import Comparison, Runs
from mir2bench.registration import spec

MOST_ATTACKERS = 24
"""More attackers than these have no column of their own; they stand on the entry's page."""
_CHALLENGE = "challenge:"


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        entry: what was entered.
        table: "verified" or "reported".
        scores: those of the table.
        runs: the same as a matrix.
        setting: label of how it was attacked.
        group: label of its tie group; "" if it has none.
        top: how it compares with the first row that was attacked in the same way.
        first: whether it is that row.
    """

    entry: Entry
    table: str
    scores: Scores
    runs: Runs
    setting: str
    group: str
    top: Comparison
    first: bool

    @property
    def failed(self) -> bool:
        """Whether the policy failed in some evaluation; such a row has no rank."""
        return self.scores.failures > 0

    @property
    def page(self) -> str:
        """Path of its page from the variant's."""
        return f"{self.entry.entry}/index.html"


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table: text, a smaller second line, and the value it sorts by ("" sorts last)."""

    text: str
    small: str = ""
    order: float | str = ""
    bar: Mapping[str, Any] | None = None
    title: str = ""
    warn: bool = False

    @property
    def key(self) -> str:
        """What the page sorts by."""
        return f"{self.order:.6g}" if isinstance(self.order, float) else str(self.order)


NOTHING = Cell("n/a")


@dataclass(frozen=True)
class Column:
    """A column: its head, the words that explain it, and how a row fills it.

    Attributes:
        key: names it in the page and in `columns.html`.
        title: its head.
        help: what it means.
        fill: makes the cell of a row.
        part: "score", "attackers" or "details"; readers can hide the last two.
        kind: "number", "text" or "method".
        wanted: whether a table with these rows has it.
    """

    key: str
    title: str
    help: str
    fill: Callable[[Row], Cell]
    part: str = "score"
    kind: str = "number"
    wanted: Callable[[Sequence[Row]], bool] = field(default=lambda rows: True)

    def cell(self, row: Row) -> Cell:
        """Return the cell of a row; numbers of rows that failed sort behind all others."""
        found = self.fill(row)
        return replace(found, order="") if row.failed and self.kind == "number" and self.key != "group" else found


def measured(score: Score | Aggregate | None, digits: int | None = None) -> Cell:
    """Return the cell of a value with its interval."""
    if score is None:
        return NOTHING
    value = score.value if isinstance(score, Aggregate) else score.mean
    bounds = tables.interval(score.ci or (None, None), digits)
    return Cell(signed(tables.number(value, digits)), signed(bounds), value)


def share(value: float | None, interval: Sequence[float] | None, digits: int = 3) -> Cell:
    """Return the cell of a share or a normalized score."""
    if value is None or math.isnan(value):
        return NOTHING
    bounds = tables.interval(interval or (None, None), digits)
    return Cell(signed(tables.number(value, digits)), signed(bounds), value)


def _iqm(row: Row) -> Cell:
    iqm = row.scores.iqm
    cell = share(iqm.value, iqm.ci)
    return Cell(cell.text, cell.small, cell.order, bar=gauge(iqm.value, iqm.ci))


def _group(row: Row) -> Cell:
    if row.failed:
        return Cell("failed", order="~", warn=True, title="the policy failed in some evaluation")
    letter = row.group.rstrip("0123456789")
    order = f"{letter:0>3}{row.group[len(letter) :]:0>5}" if row.group else ""
    return Cell(row.group or "none", order=order)


def _beats(row: Row) -> Cell:
    if row.first:
        return Cell("first", order=1.0, title="the row that the others are compared with")
    return share(row.top.probability, None, 2)


def _curve(row: Row) -> Cell:
    curves = row.scores.curves
    if not curves:
        return NOTHING
    falling = [curve.attacker for curve in curves if curve.falling]
    if falling:
        return Cell("still falls", ", ".join(falling), 1, warn=True)
    return Cell("flat", order=0)


def _other(row: Row) -> Cell:
    other = row.entry.verified if row.table == "reported" else row.entry.reported
    if other is None:
        return Cell("not yet" if row.table == "reported" else "none")
    claimed, found = (row.scores, other) if row.table == "reported" else (other, row.scores)
    gap = claimed.iqm.value - found.iqm.value
    return Cell(signed(tables.number(other.iqm.value, 3)), order=other.iqm.value, warn=gap > 0.05)


def _cells(row: Row) -> Cell:
    everyone = len(all_partitions(row.scores.protocol, spec(row.entry.variant)))
    count, total = len(row.scores.cells), (len(row.entry.training.seeds) or 1) * everyone
    failed = row.scores.failures
    return Cell(f"{count} of {total}", f"{failed} failed" if failed else "", count / total, warn=failed > 0)


def _seen(row: Row) -> Cell:
    names = row.entry.training.adversaries_seen
    return Cell(", ".join(names) if names else "none", order=", ".join(names))


def _attacker(name: str) -> Callable[[Row], Cell]:
    def fill(row: Row) -> Cell:
        score = row.scores.attackers.get(name)
        if score is None:
            return Cell("n/a", title=row.scores.not_applicable.get(name, "not played"))
        seen = name in row.entry.training.adversaries_seen
        cell = measured(score)
        return Cell(cell.text, "seen in training" if seen else "", cell.order)

    return fill


def _any(take: Callable[[Row], Any]) -> Callable[[Sequence[Row]], bool]:
    return lambda rows: any(take(row) is not None for row in rows)


_attacked = _any(lambda row: row.scores.worst)

GROUP = Column(
    "group",
    "Group",
    "Tie group, 1 is best. Rows of one group cannot be told apart from the group's first row: the 95% interval of "
    "their difference (Welch's, over training seeds, on the partitions that both were attacked on) includes zero. "
    "Within a group the order means nothing. Rows with a single training seed have no group. Where a table holds rows "
    "that were attacked in different ways, those of one way stand together, the strongest way first, and a letter "
    "tells which groups may be compared. A row in which the policy failed even once stands below all others, has no "
    'rank, and is marked "failed".',
    _group,
)
METHOD = Column(
    "method",
    "Method",
    "What was entered, and by whom. Sanity rows (scripted, random or idle teams of this package) stay on every board: "
    "a method that does not beat them has learned nothing worth defending.",
    lambda row: Cell(row.entry.method.name, ", ".join(row.entry.method.authors), row.entry.method.name.lower()),
    kind="method",
)
FIXED: tuple[Column, ...] = (
    GROUP,
    METHOD,
    Column(
        "iqm",
        "Score (IQM)",
        "The headline: interquartile mean, over training seeds and partitions, of the team return under the strongest "
        "attacker of each cell, on a scale where 0 is the variant's floor (a random team) and 1 its ceiling (a "
        "scripted team that nobody attacks). Where nobody is adversarial it is the return of the plain team. The 95% "
        "interval resamples whole training seeds. The bar shows the same from 0 to 1.",
        _iqm,
    ),
    Column(
        "worst",
        "Worst-case return",
        "Mean team return per episode, undiscounted, when in each cell (training seed and partition) the strongest "
        "of all attackers plays.",
        lambda row: measured(row.scores.worst),
        wanted=_attacked,
    ),
    Column(
        "clean",
        "Clean return",
        "Mean team return per episode with nobody adversarial, on the same starts.",
        lambda row: measured(row.scores.clean),
    ),
    Column(
        "change",
        "Change by attack",
        "Worst-case return minus clean return, paired by training seed. The closer to zero, the less an attack costs.",
        lambda row: measured(row.scores.difference),
        wanted=_any(lambda row: row.scores.difference),
    ),
    Column(
        "wins",
        "Win rate",
        "Share of episodes won under the strongest attacker of each cell (or of all episodes where nobody is "
        "adversarial), in families that know victory.",
        lambda row: _wins(row.scores),
        wanted=lambda rows: any((row.scores.worst or row.scores.clean).win_rate is not None for row in rows),
    ),
    Column(
        "beats",
        "P(beats first)",
        "Probability of improvement: how often a training run of this row scores higher than one of the table's first "
        "row, averaged over partitions; equal scores count one half. 0.5 means as good, 0 means never.",
        _beats,
    ),
    Column(
        "curve",
        "Attack curve",
        "Whether the trained attackers still gained at the end of their budget. If a curve still falls, a longer "
        "attack would find a lower score: read the row as an upper bound.",
        _curve,
        part="details",
        wanted=lambda rows: any(row.scores.curves for row in rows),
    ),
    Column(
        "other",
        "Other table",
        "In the verified table: the score that the authors reported. In the self-reported table: the verified score, "
        "or that there is none yet. A drop of more than 0.05 from reported to verified is marked.",
        _other,
        part="details",
    ),
    Column(
        "challenges",
        "Challenges",
        "Stronger attacks from others that were accepted. Each lowered the row, and stays part of its worst case.",
        lambda row: Cell(str(len(row.entry.challenges)), order=len(row.entry.challenges)),
        part="details",
        wanted=lambda rows: any(row.table == "verified" and row.entry.challenges for row in rows),
    ),
    Column(
        "cells",
        "Cells",
        "How many of the protocol's cells (training seed and partition) were attacked. Verifying a sample is the rule "
        "at first; a row is final once all of them were. An evaluation fails if the policy's answer cannot be played "
        "or takes too much processor time. Its episodes count as the lowest of the variant's floor, every return in "
        "the row's table and every return of the board's sanity rows, so failing never pays.",
        _cells,
        part="details",
    ),
    Column(
        "seeds",
        "Seeds",
        "Training seeds, each with its policy. All that were declared count, and each policy is the last of its "
        "training: no best of several.",
        lambda row: Cell(str(len(row.entry.training.seeds) or "fixed"), order=len(row.entry.training.seeds)),
        part="details",
    ),
    Column(
        "seen",
        "Seen in training",
        "Attackers that took part in training or tuning. Robustness against these says less: attackers in their own "
        "columns are marked where a team has seen them.",
        _seen,
        part="details",
        kind="text",
    ),
    Column(
        "setting",
        "Attacked by",
        "Protocol, budget, steps of each attack and partitions of the evaluation. Only rows that were attacked in the "
        "same way are compared.",
        lambda row: Cell(row.setting, order=row.setting),
        part="details",
        kind="text",
    ),
    Column(
        "date",
        "Date",
        "When the scores of the row were measured.",
        lambda row: Cell(row.scores.date.isoformat(), order=row.scores.date.isoformat()),
        part="details",
        kind="text",
    ),
)
ATTACKER_HELP = (
    "Mean team return per episode when this attacker alone plays. `transfer` is the strongest of the attackers that "
    'were trained against other teams. "n/a" means that it cannot play against this team. "Seen in training" marks '
    "attackers that the team met before."
)


def _wins(scores: Scores) -> Cell:
    score = scores.worst or scores.clean
    return share(score.win_rate, score.win_rate_ci, 2)


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """Return the columns of a table with these rows, those of single attackers before the details."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(name for name in row.scores.attackers if not name.startswith(_CHALLENGE))
    common = sorted(counts, key=lambda name: (-counts[name], name))[:MOST_ATTACKERS]
    attackers = [
        Column("attacker", name, ATTACKER_HELP, _attacker(name), part="attackers")
        for name in sorted(common, key=lambda name: (name == TRANSFER, -counts[name], name))
    ]
    fixed = [column for column in FIXED if column.wanted(rows)]
    return [
        *(c for c in fixed if c.part == "score"),
        *attackers,
        *(c for c in fixed if c.part == "details"),
    ]
