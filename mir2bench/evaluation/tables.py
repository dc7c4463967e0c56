"""Results in words: tables, notes, and how they look in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mir2bench.evaluation.protocol import CLEAN, ROBUST, TRANSFER, WORST, is_transferred


def number(value: float | None, digits: int | None = None) -> str:
    """Return a number for a table, with about four significant digits by default; "n/a" if it cannot be known."""
    if value is None or not math.isfinite(value):
        return "n/a"
    return f"{value:.{_digits(value) if digits is None else digits}f}"


def interval(bounds: Sequence[float | None], digits: int | None = None) -> str:
    """Return "[low, high]", with about three significant digits by default, or "" if there is no interval."""
    low, high = bounds
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    digits = max(0, _digits(max(abs(low), abs(high))) - 1) if digits is None else digits
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def _digits(value: float) -> int:
    return 2 if abs(value) < 100 else 1 if abs(value) < 1000 else 0


def main_rows(result: Mapping[str, Any]) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """Return header and rows of one variant's main table; a cell is (value, interval)."""
    headlines = {entry["headline"] for entry in result["defenders"].values()}
    attacked = headlines != {CLEAN}
    header = ["defender", "clean"]
    if attacked:
        header += ["strongest trained" if WORST in headlines else "robust (learned)", "worst attacker"]
        header += ["change by attack"]
    header += ["normalized IQM"]
    rows = []
    for name, entry in result["defenders"].items():
        arms, count = entry["arms"], len(entry["seeds"])
        row = [(name, "one team" if entry["scripted"] else f"{count} seed{'s' * (count > 1)}")]
        row += [_mean(arms.get(arm)) for arm in ([CLEAN, ROBUST, WORST] if attacked else [CLEAN])]
        headline = arms.get(entry["headline"], {})
        if attacked:
            row.append(_mean(headline.get("difference")))
        iqm = headline["normalized"]["iqm"] if headline else {"value": None, "ci_clustered": (None, None)}
        rows.append([*row, (number(iqm["value"], 3), interval(iqm["ci_clustered"], 3))])
    return header, rows


def attacker_rows(result: Mapping[str, Any]) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """Return header and rows of the mean return under each single attacker; no header without attackers.

    Transferred attackers share one column. A team that an attacker cannot play against has no number there.
    """
    entries = result["defenders"]
    arms = {a for e in entries.values() for a in (*e["arms"], *e["not_applicable"])} - {CLEAN, ROBUST, WORST}
    names = sorted(arms, key=lambda a: (a == TRANSFER, a))
    if not names:
        return [], []
    rows = [[(name, ""), *(_mean(entry["arms"].get(a)) for a in names)] for name, entry in entries.items()]
    return ["defender", *names], rows


def win_rows(result: Mapping[str, Any]) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """Return header and rows of the win rates, clean and under each attacker; no header without victories."""
    entries = result["defenders"]
    arms = {a for e in entries.values() for a, values in e["arms"].items() if "win_rate_ci" in values} - {ROBUST}
    if not arms:
        return [], []
    names = sorted(arms, key=lambda a: (a != CLEAN, a == WORST, a == TRANSFER, a))
    rows = [[(name, ""), *(_wins(entry["arms"].get(a)) for a in names)] for name, entry in entries.items()]
    titles = {CLEAN: "clean", WORST: "worst attacker"}
    return ["defender", *(titles.get(str(a), str(a)) for a in names)], rows


def _wins(values: Mapping[str, Any] | None) -> tuple[str, str]:
    if values is None or "win_rate_ci" not in values:
        return "n/a", ""
    return number(values["win_rate"], 2), interval(values["win_rate_ci"], 2)


def _mean(values: Mapping[str, Any] | None) -> tuple[str, str]:
    if values is None:
        return "n/a", ""
    planned = values.get("planned")
    part = "" if planned is None or values["results"] == planned else f" ({values['results']}/{planned})"
    return number(values["mean"]) + part, interval(values["ci"])


def budget_rows(result: Mapping[str, Any]) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """Return header and rows that tell whether attacks still gained at the end of their budgets; see `attack_budget`.

    No header if no attack recorded a curve.
    """
    header = ["defender", "attacker", "fall in the last quarter", "2 standard errors", "1% of the range", "curves"]
    rows = [
        [name, attacker, number(v["fall"]), number(2 * v["standard_error"]), number(v["threshold"]), str(v["curves"])]
        + ["still falls" if v["falling"] else "flat"]
        for name, entry in result["defenders"].items()
        for attacker, v in entry.get("attack_budget", {}).items()
    ]
    return ([*header, "verdict"] if rows else []), [[(value, "") for value in row] for row in rows]


def shortfall(summary: Mapping[str, Any]) -> str:
    """Return in one line what failed in a study and what that costs; "" if it is complete."""
    failures = summary["failures"]
    if not failures:
        return ""
    planned, waiting = summary["jobs"]["planned"], summary["jobs"]["unfinished"] - len(failures)
    others = f" ({waiting} more need their results)" if waiting else ""
    first = failures[0]
    return (
        f"{len(failures)} of {planned} jobs failed{others}; the first: {first['label']}: "
        f"{first['message'].rstrip('.')}. Tracebacks lie in the study's folder `failures`; everything else is kept, "
        "and --resume tries again."
    )


def notes(result: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know beside the numbers, as sentences."""
    found = []
    for name, entry in result["defenders"].items():
        found += [f"{name}: {note}" for note in _defender_notes(entry)]
    for pair in result["improvement"]:
        verdict = {
            "tie": "a tie",
            "difference": "a difference",
            "fixed teams": "scripted: one team each",
        }.get(pair["verdict"], "too few seeds to tell")
        if any(result["defenders"][pair[side]]["scripted"] for side in "xy") and pair["verdict"] != "fixed teams":
            verdict += " (scripted: one team)"
        bounds = interval(pair["ci_clustered"], 2) or "(no interval)"
        found.append(
            f"P({pair['x']} > {pair['y']}) = {pair['probability']:.2f} {bounds}, over {pair['ci_over']}: {verdict}."
        )
    return found


def _defender_notes(entry: Mapping[str, Any]) -> list[str]:
    arms, found = entry["arms"], []
    gaps = [
        f"{arm if arm != CLEAN else 'clean'} {values['results']} of {values['planned']}"
        for arm, values in arms.items()
        if values["results"] < values["planned"]
    ]
    if entry["headline"] not in arms:
        found.append("no number for the headline, since jobs failed.")
    elif gaps:
        found.append(f"since jobs failed, these numbers are over a part of the planned cells: {', '.join(gaps)}.")
    if partial := arms.get(WORST, {}).get("partial"):
        found.append(
            f"in {partial} cells some transferred attackers are missing, since jobs failed: their worst is an upper "
            "bound."
        )
    for attacker, values in entry["not_applicable"].items():
        reason = values["reason"].split(". ")[0].rstrip(".")
        found.append(f"`{attacker}` does not apply in {values['cells']} cells: {reason}.")
    if len(entry["seeds"]) == 1 and not entry["scripted"] and CLEAN in arms:
        spoken = f"clean over {arms[CLEAN]['ci_over']}"
        if WORST in arms:
            spoken += f", attacked over {arms[WORST]['ci_over']}"
        found.append(f"a single training seed, so its intervals ({spoken}) say nothing about another training run.")
    if weak := entry["weak_attacks"]:
        gap = max(w["robust"] - w["return"] for w in weak)
        by = ", ".join(sorted({TRANSFER if is_transferred(w["attacker"]) else w["attacker"] for w in weak}))
        count = f"in {len(weak)} of {len(entry['seeds']) * len(entry['partitions'])} cells, by up to {gap:.2f}"
        if entry["headline"] == ROBUST:
            found.append(
                f"the learned attacker is weaker than an untrained one ({by}) {count}: read the worst attacker, and "
                "raise the attack budget."
            )
        else:
            found.append(f"no attacker trained against it is as strong as another ({by}) {count}.")
    for attacker, values in entry.get("attack_budget", {}).items():
        if values["falling"]:
            found.append(
                f"the return under `{attacker}` still falls at the end of its budget, by {number(values['fall'])} in "
                f"the last quarter: a larger attack budget would lower it."
            )
    return found


def print_summary(console: Console, summary: Mapping[str, Any]) -> None:
    """Print the tables and notes of every variant."""
    for result in summary["results"]:
        console.print()
        header, rows = main_rows(result)
        _print_table(console, f"{result['variant']}: mean team return with 95% intervals", header, rows)
        header, rows = attacker_rows(result)
        if header:
            means = [[(value, "") for value, _ in row] for row in rows]
            _print_table(console, "Mean team return under each attacker", header, means)
        header, rows = win_rows(result)
        if header:
            ends = (1, len(header) - 1)  # clean and worst; the report has all intervals
            rows = [[cell if i in ends else (cell[0], "") for i, cell in enumerate(row)] for row in rows]
            _print_table(console, "Win rate", header, rows)
        console.print(
            f"floor {number(result['floor'])} (score 0), ceiling {number(result['ceiling'])} (score 1)", style="dim"
        )
        for note in notes(result):
            console.print(f"* {note}", highlight=False)
    if summary.get("lost_episodes"):
        console.print(
            f"\n{summary['lost_episodes']} episodes were cut short by a crash or an unstable simulation; they count as "
            "they stood then.",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
    if line := shortfall(summary):
        console.print(f"\nIncomplete: {escape(line)}", style="red", highlight=False, soft_wrap=True)
    if not summary["board"]:
        console.print(f"\nNot for the leaderboard: {summary['board_reason']}.", style="yellow", highlight=False)


def _print_table(
    console: Console, title: str, header: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]]
) -> None:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for i, column in enumerate(header):
        table.add_column(escape(column), justify="left" if i == 0 else "right", no_wrap=i == 0)
    for row in rows:
        cells = [escape(value) + (f"\n[dim]{escape(low)}[/dim]" if low else "") for value, low in row]
        table.add_row(*cells)
    console.print(table)
