"""The report: tables in the terminal, figures, and one self-contained HTML page."""

from __future__ import annotations

import base64
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table

from mir2bench.evaluation.figures import draw_all, phi_label
from mir2bench.evaluation.files import replace_folder, storing
from mir2bench.evaluation.protocol import CLEAN
from mir2bench.evaluation.scores import select
from mir2bench.evaluation.statistics import ROBUST, WORST, Outcome
from mir2bench.registration import VariantSpec

_TITLES = {CLEAN: "clean", ROBUST: "robust (learned)", WORST: "worst attacker"}


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
    attacked = any(WORST in entry["arms"] for entry in result["defenders"].values())
    header = ["defender", "clean"]
    if attacked:
        header += ["robust (learned)", "worst attacker", "change by attack"]
    header += ["normalized IQM"]
    rows = []
    for name, entry in result["defenders"].items():
        arms = entry["arms"]
        row = [(name, f"{len(entry['seeds'])} seed{'s' * (len(entry['seeds']) > 1)}")]
        row += [_mean(arms.get(arm)) for arm in ([CLEAN, ROBUST, WORST] if attacked else [CLEAN])]
        headline = arms[entry["headline"]]
        if attacked:
            row.append(_mean(headline.get("difference")))
        iqm = headline["normalized"]["iqm"]
        rows.append([*row, (number(iqm["value"], 3), interval(iqm["ci_clustered"], 3))])
    return header, rows


def attacker_rows(result: Mapping[str, Any]) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """Return header and rows of the mean return under each single attacker; no header without attackers."""
    arms = dict.fromkeys(a for e in result["defenders"].values() for a in e["arms"])
    names = [a for a in arms if a not in (CLEAN, ROBUST, WORST)]
    if not names:
        return [], []
    rows = [[(name, ""), *(_mean(entry["arms"].get(a)) for a in names)] for name, entry in result["defenders"].items()]
    return ["defender", *names], rows


def _mean(values: Mapping[str, Any] | None) -> tuple[str, str]:
    return ("n/a", "") if values is None else (number(values["mean"]), interval(values["ci"]))


def notes(summary: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know beside the numbers, as sentences."""
    found = []
    scripted = {c["name"] for c in summary["study"]["contenders"] if c["kind"] == "scripted"}
    for name, entry in result["defenders"].items():
        if len(entry["seeds"]) == 1 and name not in scripted:
            basis = {arm: values["ci_over"] for arm, values in entry["arms"].items()}
            spoken = f"clean over {basis[CLEAN]}"
            if WORST in basis:
                spoken += f", attacked over {basis[WORST]}"
            found.append(
                f"{name}: a single training seed, so its intervals ({spoken}) say nothing about another training run."
            )
        weak = entry["weak_attacks"]
        if weak:
            gap = max(w["robust"] - w["return"] for w in weak)
            by = ", ".join(sorted({w["attacker"] for w in weak}))
            cells = len(entry["seeds"]) * len(entry["partitions"])
            found.append(
                f"{name}: the learned attacker is weaker than an untrained one ({by}) in {len(weak)} of {cells} cells, "
                f"by up to {gap:.2f}: read the worst attacker, and raise the attack budget."
            )
    for pair in result["improvement"]:
        verdict = {"tie": "a tie", "difference": "a difference"}.get(pair["verdict"], "too few seeds to tell")
        bounds = interval(pair["ci_clustered"], 2) or "(no interval)"
        found.append(
            f"P({pair['x']} > {pair['y']}) = {pair['probability']:.2f} {bounds}, over {pair['ci_over']}: {verdict}."
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
        console.print(
            f"floor {number(result['floor'])} (score 0), ceiling {number(result['ceiling'])} (score 1)", style="dim"
        )
        for note in notes(summary, result):
            console.print(f"* {note}", highlight=False)
    if not summary["board"]:
        console.print(f"\nNot for the leaderboard: {summary['board_reason']}.", style="yellow", highlight=False)


def _print_table(
    console: Console, title: str, header: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]]
) -> None:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for i, column in enumerate(header):
        table.add_column(escape_markup(column), justify="left" if i == 0 else "right")
    for row in rows:
        cells = [escape_markup(value) + (f"\n[dim]{escape_markup(low)}[/dim]" if low else "") for value, low in row]
        table.add_row(*cells)
    console.print(table)


def write_report(
    root: Path,
    summary: Mapping[str, Any],
    variants: Sequence[VariantSpec],
    outcomes: Mapping[str, Sequence[Outcome]],
    train_curves: pd.DataFrame,
    attack_curves: pd.DataFrame,
) -> Path:
    """Write `report/`: the figures and index.html; whole or not at all.

    Args:
        root: the study folder.
        summary: what goes into summary.json.
        variants: the study's variants.
        outcomes: variant id -> what each defender earned.
        train_curves, attack_curves: see `scores.collect_curves`.

    Returns:
        The path of the page.

    Raises:
        StorageError: it cannot be written.
    """
    temporary = root / ".report.tmp"
    with storing(root / "report"):
        shutil.rmtree(temporary, ignore_errors=True)
        (temporary / "figures").mkdir(parents=True)
        try:
            sections = []
            for variant, result in zip(variants, summary["results"], strict=True):
                captions = draw_all(
                    outcomes[variant.id],
                    result,
                    variant,
                    select(train_curves, variant=variant.id),
                    select(attack_curves, variant=variant.id),
                    temporary / "figures",
                )
                sections.append(_section(summary, result, variant, captions, temporary / "figures"))
            (temporary / "index.html").write_text(_page(summary, sections), encoding="utf-8")
            replace_folder(temporary, root / "report")
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return root / "report" / "index.html"


def _section(
    summary: Mapping[str, Any],
    result: Mapping[str, Any],
    variant: VariantSpec,
    captions: Mapping[str, str],
    figures: Path,
) -> str:
    parts = [
        f"<h2>{escape(variant.id)}</h2>",
        f"<p>{escape(variant.description)} {variant.n_agents} agents, {variant.n_adversaries} adversarial; "
        f"{variant.horizon} steps. Score scale: floor {number(variant.floor.score)} ({escape(variant.floor.origin)}), "
        f"ceiling {number(variant.ceiling.score)} ({escape(variant.ceiling.origin)}).</p>",
        _html_table(*main_rows(result)),
    ]
    listed = notes(summary, result)
    if listed:
        parts.append("<ul class='notes'>" + "".join(f"<li>{escape(note)}</li>" for note in listed) + "</ul>")
    header, rows = attacker_rows(result)
    if header:
        parts += ["<h3>Mean team return under each attacker</h3>", _html_table(header, rows)]
    for stem, caption in captions.items():
        image = base64.b64encode((figures / f"{stem}.svg").read_bytes()).decode()
        parts.append(
            f"<figure><img alt='{escape(caption, quote=True)}' src='data:image/svg+xml;base64,{image}'>"
            f"<figcaption>{escape(caption)} <a href='figures/{stem}.png'>PNG</a> <a href='figures/{stem}.svg'>SVG</a>"
            "</figcaption></figure>"
        )
    weak = [
        [(name, ""), (str(w["defender_seed"]), ""), (phi_label(w["phi"]), ""), (number(w["robust"]), "")]
        + [(w["attacker"], ""), (number(w["return"]), "")]
        for name, entry in result["defenders"].items()
        for w in entry["weak_attacks"]
    ]
    if weak:
        columns = ["defender", "seed", "adversaries", "learned", "stronger untrained attacker", "its return"]
        parts.append(
            "<details><summary>Cells in which the learned attacker was beaten</summary>"
            f"{_html_table(columns, weak)}</details>"
        )
    return "\n".join(parts)


def _html_table(header: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]]) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in header)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td>{escape(value)}" + (f"<br><small>{escape(bounds)}</small>" if bounds else "") + "</td>"
            for value, bounds in row
        )
        + "</tr>"
        for row in rows
    )
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _page(summary: Mapping[str, Any], sections: Sequence[str]) -> str:
    study = summary["study"]
    names = [c["name"] for c in study["contenders"]]
    budget, protocol = study["budget"], study["protocol"]
    banner = (
        "" if summary["board"] else f"<p class='banner'>Not for the leaderboard: {escape(summary['board_reason'])}.</p>"
    )
    bundles = "".join(
        f"<li><code>{escape(b['path'])}</code>: {escape(b['algorithm'])}, seed {b['seed']}, {escape(b['variant'])}</li>"
        for b in summary["bundles"]
    )
    facts = {key: summary[key] for key in ("versions", "git_commit", "hardware", "time")}
    return Template(_PAGE).substitute(
        title=escape(f"mir2bench: {', '.join(names)}"),
        subtitle=escape(
            f"Protocol {protocol['name']}, budget {budget['name']}: {budget['train_steps']:,} training steps, "
            f"{budget['attack_steps']:,} attack steps, {budget['episodes']} episodes per cell."
        ),
        banner=banner,
        sections="\n".join(sections),
        command=escape(summary["command"] or "(started from Python)"),
        version=escape(str(summary["versions"]["mir2bench"])),
        commit=f", commit <code>{escape(commit)}</code>" if (commit := summary["git_commit"]) else "",
        bundles=f"<h3>Trained policies</h3><ul>{bundles}</ul>" if bundles else "",
        facts=escape(json.dumps(facts, indent=2)),
        study=escape(json.dumps(study, indent=2)),
    )


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #1d1d1f; --paper: #ffffff; --soft: #f3f4f6; --line: #d4d7dc; --link: #0b5cad;
  --warn: #fff4d6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8ea; --paper: #17181a; --soft: #232529; --line: #3b3e44;
  --link: #7db8f0; --warn: #46391a; } }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
a { color: var(--link); }
.banner { background: var(--warn); border-radius: 6px; padding: .6rem 1rem; font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .8rem; text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; } th { background: var(--soft); }
small { opacity: .75; white-space: nowrap; }
.notes li { margin: .2rem 0; }
figure { margin: 1.5rem 0; } figure img { max-width: 100%; background: #ffffff; border-radius: 6px; }
figcaption { font-size: .9rem; opacity: .85; }
pre { background: var(--soft); border-radius: 6px; padding: .8rem; overflow-x: auto; font-size: .85rem; }
</style>
</head>
<body>
<h1>$title</h1>
<p>$subtitle</p>
$banner
$sections
<h2>How to read the numbers</h2>
<ul>
<li><b>Return</b>: undiscounted sum of the team's raw reward over an episode; higher is better. All arms play the same
evaluation seeds, greedy on both sides; every team is the last policy of its training, never the best.</li>
<li><b>clean</b>: nobody is adversarial. <b>robust (learned)</b>: in each cell (training seed and partition) the
strongest of the trained attackers. <b>worst attacker</b>: the strongest of all attackers in each cell.</li>
<li><b>Intervals of returns</b> are 95% bootstrap intervals over whole training seeds, since all partitions of a seed
share one team; <code>ci_independent</code> in summary.json is Student's interval over all results as if they were
independent, as in the paper. <b>Normalized</b> aggregates and their stratified-bootstrap intervals are rliable's, with
training seeds as runs and partitions as tasks; they resample each partition on its own and so come out narrower than
intervals over whole seeds (<code>ci_clustered</code>), which decide what is called a tie.</li>
<li>With a single training seed, intervals are over partitions (attacked) or episodes (clean) and say nothing about
another training run.</li>
</ul>
<h2>How to reproduce</h2>
<pre>$command</pre>
<p>With mir2bench $version$commit. Every episode is a row of <code>scores.parquet</code>; every aggregate is in
<code>summary.json</code>.</p>
$bundles
<details><summary>Versions, hardware and time</summary><pre>$facts</pre></details>
<details><summary>Resolved configuration</summary><pre>$study</pre></details>
</body>
</html>
"""
