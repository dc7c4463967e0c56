"""The report: figures, and one self-contained HTML page."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

from mir2bench.evaluation.figures import draw_all, phi_label
from mir2bench.evaluation.files import replace_folder, storing
from mir2bench.evaluation.outcomes import Outcome
from mir2bench.evaluation.scores import select
from mir2bench.evaluation.tables import attacker_rows, budget_rows, main_rows, notes, number, shortfall, win_rows
from mir2bench.registration import VariantSpec


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
    listed = notes(result)
    if listed:
        parts.append("<ul class='notes'>" + "".join(f"<li>{escape(note)}</li>" for note in listed) + "</ul>")
    header, rows = attacker_rows(result)
    if header:
        parts += ["<h3>Mean team return under each attacker</h3>", _html_table(header, rows)]
    header, rows = win_rows(result)
    if header:
        parts += ["<h3>Win rate with 95% intervals</h3>", _html_table(header, rows)]
    for stem, caption in captions.items():
        image = base64.b64encode((figures / f"{stem}.svg").read_bytes()).decode()
        parts.append(
            f"<figure><img alt='{escape(caption, quote=True)}' src='data:image/svg+xml;base64,{image}'>"
            f"<figcaption>{escape(caption)} <a href='figures/{stem}.png'>PNG</a> <a href='figures/{stem}.svg'>SVG</a>"
            "</figcaption></figure>"
        )
    header, rows = budget_rows(result)
    if header:
        parts.append(
            "<details><summary>Do the attacks still gain at the end of their budgets?</summary>"
            f"{_html_table(header, rows)}</details>"
        )
    weak = [
        [(name, ""), (str(w["defender_seed"]), ""), (phi_label(w["phi"]), ""), (number(w["robust"]), "")]
        + [(w["attacker"], ""), (number(w["return"]), "")]
        for name, entry in result["defenders"].items()
        for w in entry["weak_attacks"]
    ]
    if weak:
        columns = ["defender", "seed", "adversaries", "strongest trained", "stronger attacker", "its return"]
        parts.append(
            "<details><summary>Cells in which another attacker beat those trained against the team</summary>"
            f"{_html_table(columns, weak)}</details>"
        )
    return "\n".join(parts)


def _gaps(summary: Mapping[str, Any]) -> str:
    """Return the banner and the lists of what is missing in an incomplete study."""
    line = shortfall(summary)
    if not line:
        return ""
    failed = [[(f["label"], ""), (f["message"], ""), (f["traceback"] or "none", "")] for f in summary["failures"]]
    cells: dict[tuple[str, ...], list[str]] = {}
    for m in summary["missing"]:
        cell = (m["variant"], m["defender"], str(m["defender_seed"]), m["attacker"])
        cells.setdefault(cell, []).append(phi_label(m["phi"]) or "none")
    missing = [[(value, "") for value in (*cell, ", ".join(dict.fromkeys(phis)))] for cell, phis in cells.items()]
    return (
        f"<p class='banner'>Incomplete: {escape(line)}</p><details><summary>What failed, and what is missing</summary>"
        + _html_table(["job", "what happened", "traceback"], failed)
        + _html_table(["variant", "defender", "seed", "attacker", "adversaries"], missing)
        + "</details>"
    )


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
    named = ("versions", "programs", "git_commit", "hardware", "time")
    facts = {key: summary[key] for key in named if summary.get(key)}
    return Template(_PAGE).substitute(
        title=escape(f"mir2bench: {', '.join(names)}"),
        subtitle=escape(
            f"Protocol {protocol['name']}, budget {budget['name']}: {budget['train_steps']:,} training steps, "
            f"{budget['attack_steps']:,} attack steps, {budget['episodes']} episodes per cell."
        ),
        banner=_gaps(summary) + banner,
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
<li><b>clean</b>: nobody is adversarial. <b>robust (learned)</b> or <b>strongest trained</b>: in each cell (training
seed and partition) the strongest of the attackers trained against this very team. <b>worst attacker</b>: the strongest
of all attackers in each cell. <b>transfer</b>: the strongest of those trained against the study's other defenders.
Protocol paper-v1 judges by the first, suite-v1 by the worst attacker.</li>
<li><b>n/a</b>: no number, since the attacker cannot play against that team, or since jobs failed; the notes say which.
<b>(30/50)</b> behind a number: it is over 30 of 50 planned cells, since jobs failed.</li>
<li>An attack <b>still falls</b> if the team's return under it, on the attack's own episodes, sinks within the last
quarter of its budget by more than 1% of the score range and more than two standard errors, on average over cells.</li>
<li><b>Intervals of returns</b> are 95% bootstrap intervals over whole training seeds, since all partitions of a seed
share one team; <code>ci_independent</code> in summary.json is Student's interval over all results as if they were
independent, as in the paper. <b>Normalized</b> aggregates and their stratified-bootstrap intervals are rliable's, with
training seeds as runs and partitions as tasks; they resample each partition on its own and so mostly
come out narrower than intervals over whole seeds (<code>ci_clustered</code>), which decide what is called a tie.</li>
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
