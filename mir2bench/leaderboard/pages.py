"""What the pages of the site show, as plain data for the templates: tables, charts, comparisons, commands."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mir2bench.evaluation.figures import phi_label
from mir2bench.evaluation.protocol import TRANSFER
from mir2bench.leaderboard import charts
from mir2bench.leaderboard.columns import Row, columns_of, measured, share
from mir2bench.leaderboard.entry import ENTRY_FILE, Curve, Entry, Scores
from mir2bench.leaderboard.settings import Setting, labels, letters, strongest_first
from mir2bench.leaderboard.standing import UNKNOWN, Runs, compare, tie_groups
from mir2bench.registration import VariantSpec

TITLES = {"verified": "Verified", "reported": "Self-reported"}
ABOUT = {
    "verified": "Somebody else attacked these teams anew, with fresh attackers and on seeds that nobody knew before.",
    "reported": "What the authors found themselves. Nobody has checked these numbers yet.",
}
AT_ONCE = 100
"""Rows that a table shows at once. The others are in the page too, but nothing lays them out."""
_SHOWN = 6
"""Trained teams in a variant's charts; sanity rows come on top, up to `charts.SERIES`."""
_NEIGHBORS = 4
"""Rows above and below that an entry's page compares it with."""


@dataclass(frozen=True)
class Table:
    """One of a variant's two tables."""

    name: str
    rows: tuple[Row, ...]

    @property
    def settings(self) -> list[str]:
        """Labels of the ways in which its rows were attacked."""
        return list(dict.fromkeys(row.setting for row in self.rows))

    def view(self) -> dict[str, Any]:
        """Return what the table template draws."""
        columns = columns_of(self.rows)
        return {
            "name": self.name,
            "title": TITLES[self.name],
            "about": ABOUT[self.name],
            "columns": columns,
            "parts": [part for part in ("attackers", "details") if any(c.part == part for c in columns)],
            "settings": self.settings,
            "provisional": any(row.scores.provisional for row in self.rows),
            "scripted": any(row.entry.method.kind == "scripted" for row in self.rows),
            "rows": [(row, [column.cell(row) for column in columns]) for row in self.rows],
        }


def make_table(entries: Sequence[Entry], name: str) -> Table:
    """Return the table "verified" or "reported" of a variant's entries.

    Rows that were attacked in the same way stand together, the strongest way first, and in it the best first, with tie
    groups. Rows with failures of the policy come last and have no rank.
    """
    found: list[tuple[Entry, Scores, Setting]] = [
        (e, s, Setting.of(s)) for e in entries if (s := getattr(e, name)) is not None
    ]
    settings = strongest_first([setting for _, _, setting in found])
    found.sort(key=lambda row: (row[1].failures > 0, settings.index(row[2]), -row[1].iqm.value, row[0].entry))
    words = labels(settings)
    runs = [Runs.of(scores, entry.method.kind == "scripted") for entry, scores, _ in found]
    groups = [""] * len(found)
    tops: list[int | None] = [None] * len(found)
    for number, setting in enumerate(settings):
        places = [i for i, (_, scores, own) in enumerate(found) if own == setting and not scores.failures]
        letter = letters(number) if len(settings) > 1 else ""
        for i, group in zip(places, tie_groups([runs[i] for i in places]), strict=True):
            groups[i], tops[i] = "" if group is None else f"{letter}{group}", places[0]
    rows = [
        Row(
            entry,
            name,
            scores,
            mine,
            words[setting],
            group,
            UNKNOWN if top is None else compare(mine, runs[top]),
            i == top,
        )
        for i, ((entry, scores, setting), mine, group, top) in enumerate(zip(found, runs, groups, tops, strict=True))
    ]
    return Table(name, tuple(rows))


def variant_view(spec: VariantSpec, verified: Table, reported: Table) -> dict[str, Any]:
    """Return what a variant's page shows."""
    best = verified if verified.rows else reported
    return {
        "spec": spec,
        "short": short(spec.id),
        "at_once": AT_ONCE,
        "tables": [verified.view(), reported.view()],
        "basis": TITLES[best.name].lower(),
        "sanity": [row for row in best.rows if row.entry.method.kind == "scripted"],
        "profile": _profile_chart(best.rows),
        "curves": _curves_chart(best.rows),
        "improvement": _improvement(best.rows),
    }


def _shown(rows: Sequence[Row]) -> list[Row]:
    """Return the rows in the charts: the first of the first row's setting that did not fail, and its sanity rows."""
    rows = [row for row in rows if row.setting == rows[0].setting and not row.failed]
    trained = [row for row in rows if row.entry.method.kind == "trained"][:_SHOWN]
    sanity = [row for row in rows if row.entry.method.kind == "scripted"]
    return [*trained, *sanity][: charts.SERIES]


def _profile_chart(rows: Sequence[Row]) -> dict[str, Any] | None:
    lines = [charts.Line(r.entry.method.name, charts.profile(r.runs.scores), step=True) for r in _shown(rows)]
    chart = charts.line_chart(lines, "normalized score", "share of runs above", x_range=(0.0, 1.0), y_range=(0.0, 1.0))
    if chart is None:
        return None
    at = [0.1, 0.3, 0.5, 0.7, 0.9]
    shares = [[_percent((r.runs.scores[~np.isnan(r.runs.scores)] > t).mean()) for t in at] for r in _shown(rows)]
    names = [row.entry.method.name for row in _shown(rows)]
    return {**chart, "head": ["Method", *(f"above {t}" for t in at)], "body": list(zip(names, shares, strict=True))}


def _percent(value: Any) -> str:
    return f"{100 * float(value):.0f}%"


def _strongest(curves: Sequence[Curve]) -> Curve | None:
    return min(curves, key=lambda curve: (curve.points[-1].mean, curve.attacker), default=None)


def _curves_chart(rows: Sequence[Row]) -> dict[str, Any] | None:
    found = [(row, curve) for row in _shown(rows) if (curve := _strongest(row.scores.curves)) is not None]
    return _budget_chart([(f"{row.entry.method.name} under {curve.attacker}", curve) for row, curve in found], ())


def _budget_chart(curves: Sequence[tuple[str, Curve]], levels: Sequence[tuple[str, float]]) -> dict[str, Any] | None:
    lines = [
        charts.Line(
            name,
            [(p.steps, p.mean) for p in curve.points],
            [(p.ci[0], p.ci[1]) for p in curve.points if p.ci is not None]
            if all(p.ci is not None for p in curve.points)
            else (),
            note="still falls" if curve.falling else "",
        )
        for name, curve in curves
    ]
    chart = charts.line_chart(lines, "steps of the attack", "team return per episode", levels=levels)
    if chart is None:
        return None
    body = []
    for name, curve in curves[: charts.SERIES]:
        points = [curve.points[0], curve.points[len(curve.points) // 2], curve.points[-1]]
        texts = [f"{charts.signed(f'{p.mean:.2f}')} at {p.steps:,} steps" for p in points]
        body.append((name, [*texts, "still falls" if curve.falling else "flat"]))
    return {**chart, "head": ["Attack", "First", "Middle", "Last", "At its end"], "body": body}


def _improvement(rows: Sequence[Row]) -> dict[str, Any] | None:
    shown = _shown(rows) if rows else []
    if len(shown) < 2:
        return None
    body = []
    for mine in shown:
        found = [None if mine is other else compare(mine.runs, other.runs) for other in shown]
        cells = [None if c is None else (share(c.probability, None, 2).text, _shade(c.probability)) for c in found]
        body.append((mine.entry.method.name, cells))
    return {"names": [row.entry.method.name for row in shown], "body": body}


def _shade(probability: float) -> int:
    """Return 0 (never) to 4 (always) for the style sheet; 2 if it cannot be known."""
    return 2 if not 0 <= probability <= 1 else min(4, int(probability * 5))


def entry_view(entry: Entry, spec: VariantSpec, tables: Sequence[Table], downloads: Sequence[Any]) -> dict[str, Any]:
    """Return what an entry's page shows."""
    rows = [(table, row) for table in tables for row in table.rows if row.entry is entry]
    training = entry.training
    return {
        "entry": entry,
        "spec": spec,
        "short": short(spec.id),
        "evaluations": [_evaluation(table, row) for table, row in rows],
        "config": [(key, _text(value)) for key, value in sorted(training.config.items())],
        "training": training,
        "downloads": downloads,
        "commands": commands(entry),
        "folder": f"leaderboards/{entry.folder}",
        "history": sorted(entry.history, key=lambda old: old.date, reverse=True),
        "measured": measured,
        "share": share,
    }


def _evaluation(table: Table, row: Row) -> dict[str, Any]:
    scores = row.scores
    levels = [("no adversary", scores.clean.mean)]
    place = table.rows.index(row)
    near = [
        (other, found, found.verdict)
        for other in table.rows[max(0, place - _NEIGHBORS) : place + _NEIGHBORS + 1]
        if other is not row and other.setting == row.setting and not (row.failed or other.failed)
        for found in [compare(row.runs, other.runs)]
    ]
    attackers = sorted(scores.attackers.items(), key=lambda item: (item[0] == TRANSFER, item[1].mean, item[0]))
    counts = Counter(cell.attacker for cell in scores.cells)
    weakest = min(scores.partitions, key=lambda phi: scores.partitions[phi].mean, default=None)
    return {
        "name": table.name,
        "title": TITLES[table.name],
        "row": row,
        "scores": scores,
        "gauge": charts.gauge(scores.iqm.value, scores.iqm.ci),
        "attackers": [(name, measured(score), counts[name]) for name, score in attackers],
        "not_applicable": sorted(scores.not_applicable.items()),
        "partitions": [
            (
                phi_label(phi) or "nobody",
                measured(score),
                charts.gauge(score.normalized, score.normalized_ci),
                phi == weakest,
            )
            for phi, score in sorted(scores.partitions.items(), reverse=True)
        ],
        "cells": [
            (
                c.seed,
                phi_label(c.phi) or "nobody",
                charts.signed(f"{c.clean:.2f}"),
                charts.signed(f"{c.worst:.2f}"),
                c.attacker,
            )
            for c in sorted(scores.cells, key=lambda c: (c.seed, [-int(d) for d in c.phi]))
        ],
        "curves": _budget_chart([(curve.attacker, curve) for curve in scores.curves], levels),
        "falling": [curve.attacker for curve in scores.curves if curve.falling],
        "near": near,
        "signed": charts.signed,
    }


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_text(v) for v in value)
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def short(variant: str) -> str:
    """Return a variant's id without the namespace."""
    return variant.removeprefix("mir2bench/")


def commands(entry: Entry) -> list[tuple[str, str]]:
    """Return what to type in a checkout to do an entry again: (what it does, the command)."""
    folder = f"leaderboards/{entry.folder}"
    scores = entry.verified or entry.reported
    found = [
        ("Check the files of the entry", ["python", "-m", "mir2bench.leaderboard", "check", folder]),
        (
            "Attack it anew, with fresh attackers and fresh seeds; numbers then agree within their intervals",
            ["python", "-m", "mir2bench.leaderboard", "verify", folder, "--full"],
        ),
    ]
    if scores is not None:
        if entry.method.kind == "scripted":
            team = ["--algo", f"scripted:{entry.method.algorithm}"]
        else:
            team = ["--policy", *(f"{folder}/policies/seed{policy.seed}" for policy in entry.policies)]
        found.append(
            (
                "Play it without touching the entry; this writes a report of its own",
                ["python", "-m", "mir2bench.evaluate", *team, "--env", short(entry.variant)]
                + ["--protocol", scores.protocol, "--budget", scores.budget.name, "--out", f"runs/{entry.entry}"],
            )
        )
    return [(text, shlex.join(words)) for text, words in found]


def board_data(entries: Sequence[Entry], tables: Sequence[Table]) -> dict[str, Any]:
    """Return a variant's board as data, for readers that are programs: `board.json`."""
    return {
        "variant": entries[0].variant,
        **{
            table.name: [
                {
                    "entry": row.entry.entry,
                    "name": row.entry.method.name,
                    "kind": row.entry.method.kind,
                    "group": row.group or None,
                    "failed": row.failed,
                    "setting": row.setting,
                    "iqm": row.scores.iqm.model_dump(),
                    "clean": row.scores.clean.model_dump(),
                    "worst": row.scores.worst.model_dump() if row.scores.worst else None,
                    "data": f"{row.entry.entry}/{ENTRY_FILE}",
                }
                for row in table.rows
            ]
            for table in tables
        },
    }
