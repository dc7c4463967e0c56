"""What the pages of defenders, attackers and results take from the package and from committed results.

Called as the functions of `reference.py` are: `<!-- generated: NAME ARGUMENTS -->`. Every function returns Markdown;
figures are drawn anew from the data of `docs/results/` and become part of the page.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import inspect
import io
import json
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from reference import table

import mir2bench
from mir2bench.attackers import make_attacker
from mir2bench.defenders import get_defender
from mir2bench.defenders.maddpg import MADDPG
from mir2bench.evaluation.figures import MARKERS, PALETTE, STYLE, draw_anchors, mean_curve
from mir2bench.evaluation.outcomes import Outcome, tabulate
from mir2bench.evaluation.protocol import CLEAN, ROBUST
from mir2bench.evaluation.tables import attacker_rows, budget_rows, interval, main_rows, notes, win_rows
from mir2bench.evaluation.tables import number as rounded
from mir2bench.learning.progress import GREEDY_RETURN
from mir2bench.plugins import recommended

RESULTS = Path(__file__).resolve().parent / "results"
SOMEWHERE = "Rendezvous10-adv1-v0"
"""A variant with adversaries; the attackers that are looked up by name are the same in all."""


_HOW_TO_READ = (
    "Mean team return with 95% intervals over training seeds; the worst case is the headline of the study's "
    "[protocol](../protocols.md). n/a: the attacker cannot play against that team."
)


# --- docstrings ---


def algorithm_class(kind: str, name: str) -> Any:
    """Return the class of a defender or attacker; kind is "defender" or "attacker"."""
    return get_defender(name) if kind == "defender" else type(make_attacker(name, mir2bench.spec(SOMEWHERE)))


def _text(kind: str, name: str) -> tuple[str, str]:
    """Return a module's text before and from its numbered differences."""
    doc = inspect.getdoc(import_module(algorithm_class(kind, name).__module__)) or ""
    before, title, after = doc.partition("\nDifferences from")
    return before.strip(), f"{title}{after}".strip()


def about(kind: str, name: str) -> str:
    """Return where an algorithm lies, how to ask for it, and its equations with what stands around them."""
    module = algorithm_class(kind, name).__module__.replace(".", "/")
    option = "--algo" if kind == "defender" else "--attacker"
    title, _, rest = _text(kind, name)[0].partition("\n\n")
    return f"`{option} {name}`, all of it in [{module}.py](../../{module}.py).\n\n## The method\n\n{title}\n\n{rest}"


def details(kind: str, name: str) -> str:
    """Return what follows on every page: differences, settings, curves and expected returns."""
    differences = re.sub(r"^.*?:\n(?=1\. )", "", _text(kind, name)[1], count=1, flags=re.DOTALL)
    parts = {
        "Differences from the paper and the published code": differences,
        "Settings": settings(kind, name),
        "Learning curve": learning_curve(name) if kind == "defender" else attack_curve(name),
        "What to expect": expected(name) if kind == "defender" else attacked(name),
    }
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in parts.items() if text)


def attributes(config: type) -> dict[str, str]:
    """Return what the docstring of a configuration says on each of its fields."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in (inspect.getdoc(config) or "").partition("Attributes:\n")[2].splitlines():
        begins = re.match(r" {4}(\w+(?:, \w+)*): (.*)", line)
        if begins:
            names = begins[1].split(", ")
        for name in names:
            found[name] = begins[2] if begins else f"{found[name]} {line.strip()}".strip()
    return found


def settings(kind: str, name: str) -> str:
    """Return the table of settings: default, what families recommend, meaning. Only those that MADDPG has not."""
    config = algorithm_class(kind, name).Config
    base = MADDPG.Config if kind == "defender" and config is not MADDPG.Config else None
    shared = {f.name: f.default for f in dataclasses.fields(base)} if base else {}
    meaning = {key: text for known in inspect.getmro(config)[::-1] for key, text in attributes(known).items()}
    elsewhere = _recommended(kind, name, config)
    rows: list[tuple[str, ...]] = [
        (f"`{f.name}`", f"`{f.default}`", elsewhere.get(f.name, ""), meaning[f.name])
        for f in dataclasses.fields(config)
        if f.name not in shared or shared[f.name] != f.default
    ]
    header: tuple[str, ...] = ("setting", "default", "recommended in", "what it is")
    if not elsewhere:
        header, rows = (*header[:2], header[3]), [(*row[:2], row[3]) for row in rows]
    also = "" if base is None else "Those of [MADDPG](maddpg.md#settings), and:\n\n"
    return also + table(header, rows)


def _recommended(kind: str, name: str, config: type) -> dict[str, str]:
    found: dict[str, dict[str, None]] = {}
    defaults = dataclasses.asdict(config())
    for variant in map(mir2bench.spec, mir2bench.list_variants()):
        for key, value in recommended(name, config, variant, shared=kind == "defender").items():
            if value != defaults[key]:
                found.setdefault(key, {})[f"{variant.family} `{value}`"] = None
    return {key: ", ".join(values) for key, values in found.items()}


def scripts() -> str:
    """Return a table for each family with scripted adversaries: their names and what they do."""
    seen: dict[str, dict[str, str]] = {}
    for variant in map(mir2bench.spec, mir2bench.list_variants()):
        try:
            seen.setdefault(variant.family, dict(variant.engine_class.scripted_traitors))
        except ImportError:
            continue
    merged: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for family, names in seen.items():
        if names:
            merged.setdefault(tuple(names.items()), []).append(family)
    parts = []
    for names, families in merged.items():
        rows = [(f"`{name}`", _first_sentences(target)) for name, target in names]
        parts.append(f"**{', '.join(families)}**\n\n{table(('name', 'what it does'), rows)}")
    return "\n\n".join(parts)


def _first_sentences(target: str) -> str:
    module, _, attribute = target.partition(":")
    doc = inspect.getdoc(getattr(import_module(module), attribute)) or ""
    return doc.split("\n\n")[0].replace("\n", " ")


def example(name: str) -> str:
    """Return a file of `docs/examples/`, whole."""
    path = RESULTS.parent / "examples" / name
    language = {".py": "python"}.get(path.suffix, path.suffix[1:])
    return f'```{language} title="{name}"\n{path.read_text()}```'


# --- committed results ---


@functools.cache
def studies() -> dict[str, dict[str, Any]]:
    """Return the studies among the committed results: folder -> summary."""
    found = {path.parent.name: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*/summary.json"))}
    return {folder: summary for folder, summary in found.items() if "study" in summary}


def _entries() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield folder, summary and the part on one variant."""
    for folder, summary in studies().items():
        for result in summary["results"]:
            yield folder, summary, result


@functools.cache
def outcomes(folder: str, variant: str) -> dict[str, Outcome]:
    """Return what each defender of a committed study earned, from its table of episodes."""
    study = studies()[folder]["study"]
    names = [contender["name"] for contender in study["contenders"]]
    scores = pd.read_parquet(RESULTS / folder / "scores.parquet")
    headline = study["protocol"].get("headline", ROBUST)
    return {outcome.defender: outcome for outcome in tabulate(scores, variant, names, headline=headline)}


def seed_means(folder: str, variant: str, defender: str, arm: str) -> pd.Series:
    """Return the mean return of each training seed of a defender in an arm of a committed study."""
    return outcomes(folder, variant)[defender].whole(arm).mean(axis=1)


def _returns(values: dict[str, Any] | None) -> str:
    return _cell(rounded(values["mean"]), interval(values["ci"])) if values else "n/a"


def _cell(value: str, bounds: str) -> str:
    return f"{value}<br><small>{bounds}</small>" if bounds else value


def _short(variant: str) -> str:
    return variant.rpartition("/")[2]


def _study(folder: str) -> str:
    return f"[{folder}](../results/{folder}/summary.json)"


def expected(defender: str) -> str:
    """Return what a defender earned in each committed study: mean with 95% interval, and the range of its seeds."""
    rows = []
    for folder, summary, result in _entries():
        entry = result["defenders"].get(defender)
        if entry is None:
            continue
        cells = []
        for arm in (CLEAN, entry["headline"]):
            means = seed_means(folder, result["variant"], defender, arm)
            cells += [_returns(entry["arms"][arm]), f"{rounded(means.min())} to {rounded(means.max())}"]
        kind = {c["name"]: c["kind"] for c in summary["study"]["contenders"]}[defender]
        card = f"../../baselines/{defender}/{_short(result['variant'])}/card.md"
        policies = f"[baselines]({card})" if kind == "bundle" else "trained in the study"
        protocol = summary["study"]["protocol"]["name"]
        world, count = f"`{_short(result['variant'])}`", len(entry["seeds"])
        rows.append((world, policies, count, *cells, f"`{protocol}`", _study(folder)))
    header = ("world", "policies", "seeds", "clean", "its seeds", "worst case", "its seeds", "protocol", "study")
    text = (
        "Mean team return with 95% intervals over training seeds, and the range of these seeds. The worst case is the "
        "headline of the study's [protocol](../protocols.md). A training of yours with the same settings and number of "
        "steps should lie near these ranges; with three seeds they are no limits."
    )
    return f"{text}\n\n{table(header, rows)}"


def attacked(*attackers: str) -> str:
    """Return the mean returns of all teams under some attackers, a table for each study that has one of them."""
    parts = []
    for folder, _, result in _entries():
        known = {arm for entry in result["defenders"].values() for arm in entry["arms"]}
        names = [name for name in attackers if name in known]
        if not names:
            continue
        rows = [
            (f"`{team}`", *(_returns(entry["arms"].get(arm)) for arm in (CLEAN, *names, entry["headline"])))
            for team, entry in result["defenders"].items()
        ]
        header = ("team", "clean", *(f"`{name}`" for name in names), "worst case")
        parts.append(f"`{_short(result['variant'])}`, {_study(folder)}:\n\n{table(header, rows)}")
    return "\n\n".join([_HOW_TO_READ, *parts])


def all_scripts() -> list[str]:
    """Return the names of all attackers that need no training and look at nothing but observations."""
    variants = map(mir2bench.spec, mir2bench.list_variants())
    names = dict.fromkeys(["random", "idle"])
    for variant in variants:
        try:
            names |= dict.fromkeys(variant.engine_class.scripted_traitors)
        except ImportError:
            continue
    return list(names)


def attacked_by_scripts() -> str:
    """Return the mean returns of all teams under attackers that need no training."""
    return attacked(*all_scripts())


def study_table(kind: str, folder: str) -> str:
    """Return a table of a committed study as its report shows it: kind is "main", "attackers", "wins" or "budgets"."""
    rows_of = {"main": main_rows, "attackers": attacker_rows, "wins": win_rows, "budgets": budget_rows}[kind]
    header, rows = rows_of(studies()[folder]["results"][0])
    return table(header, [[_cell(*cell) for cell in row] for row in rows])


def study_notes(folder: str) -> str:
    """Return the notes that a committed study's report has below its main table."""
    return "\n".join(f"- {note}" for note in notes(studies()[folder]["results"][0]))


# --- figures ---


def training_curves() -> pd.DataFrame:
    """Return the learning curves of all committed studies: columns folder, variant, defender, seed, steps, value."""
    parts = []
    for path in sorted(RESULTS.glob("*/training-curves.csv")):
        curves = pd.read_csv(path).rename(columns={GREEDY_RETURN: "value"})
        if "variant" not in curves:
            curves["variant"] = studies()[path.parent.name]["results"][0]["variant"]
        curves["variant"] = curves["variant"].map(_short)
        parts.append(curves[["variant", "defender", "seed", "steps", "value"]].assign(folder=path.parent.name))
    return pd.concat(parts, ignore_index=True)


def learning_curve(defender: str) -> str:
    """Return a figure of the greedy return during training in every world with data, MADDPG's in grey beside it."""
    curves = training_curves()
    own = curves[curves["defender"] == defender]
    worlds = list(own["variant"].unique())

    def panel(axes: Any, variant: str) -> None:
        for name in dict.fromkeys(["maddpg", defender]):
            of_world = curves[(curves["variant"] == variant) & (curves["defender"] == name)]
            color = PALETTE[0] if name == defender else "#9a9a9a"
            for i, (_, line) in enumerate(of_world.groupby("seed")):
                label = name if i == 0 else None
                axes.plot(line["steps"] / 1000, line["value"], color=color, linewidth=1.3, label=label)
        draw_anchors(axes, mir2bench.spec(variant))
        axes.set_xlabel("1,000 environment steps")

    folders = ", ".join(f"[{f}](../results/{f}/training-curves.csv)" for f in own["folder"].unique())
    caption = f"Greedy team return during training, one line per seed; data: {folders}."
    return _figure(worlds, panel, "greedy team return", f"learning curves of {defender}") + f"\n\n{caption}"


def attack_curve(attacker: str) -> str:
    """Return a figure of the team's return under the strongest policy so far, over an attack's steps."""
    found = [
        pd.read_parquet(path).assign(folder=path.parent.name) for path in sorted(RESULTS.glob("*/attacks.parquet"))
    ]
    curves = pd.concat(found, ignore_index=True)
    curves = curves[(curves["attacker"] == attacker) & (curves["metric"] == "attacked_return")]
    worlds = list(curves["variant"].map(_short).unique())
    if not worlds:
        return ""

    def panel(axes: Any, variant: str) -> None:
        of_world = curves[curves["variant"].map(_short) == variant]
        for i, (team, lines) in enumerate(of_world.groupby("defender")):
            mean = mean_curve(lines)
            style = {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)], "markersize": 3}
            axes.plot(mean.index / 1000, mean, linewidth=1.3, label=team, **style)
        axes.set_xlabel("1,000 environment steps of the attack")

    folders = ", ".join(f"[{f}](../results/{f}/attacks.parquet)" for f in curves["folder"].unique())
    caption = (
        "Team return under the strongest policy found so far, on the attack's own episodes, mean over cells; data: "
        f"{folders}."
    )
    return _figure(worlds, panel, "attacked team return", f"attack curves of {attacker}") + f"\n\n{caption}"


def _figure(titles: Sequence[str], panel: Any, label: str, alt: str) -> str:
    """Return an image in the page itself, one panel per title."""
    columns = min(2, len(titles))
    rows = -(-len(titles) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * columns, 3.0 * rows))
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, title in zip(grid.flat, titles, strict=False):
            panel(axes, title)
            axes.set_title(title, fontsize=9.5)
            axes.legend(fontsize=7.5)
        for axes in grid.flat[len(titles) :]:
            axes.set_axis_off()
        for axes in grid[:, 0]:
            axes.set_ylabel(label)
        written = io.BytesIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
    encoded = base64.b64encode(written.getvalue()).decode()
    return f'<img class="figure" alt="{alt}" src="data:image/svg+xml;base64,{encoded}">'
