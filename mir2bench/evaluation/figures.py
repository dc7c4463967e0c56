"""The study's figures. Each function draws one matplotlib `Figure`; nothing here touches pyplot or global settings.

Colors are Okabe and Ito's, which readers with color-blindness tell apart; shapes and labels carry the same meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mir2bench.evaluation.outcomes import Outcome
from mir2bench.evaluation.protocol import CLEAN, ROBUST, WORST
from mir2bench.evaluation.scores import select
from mir2bench.evaluation.statistics import performance_profile
from mir2bench.learning.progress import GREEDY_RETURN, GREEDY_WINS
from mir2bench.registration import VariantSpec

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">", "h")  # as many as share no factor with the palette
GREY = "#666666"
STYLE: Any = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "mir2bench",  # the same picture gives the same file
}
_RETURN = "team return per episode (reward sum)"


def draw_all(
    outcomes: Sequence[Outcome],
    summary: Mapping[str, Any],
    spec: VariantSpec,
    train_curves: pd.DataFrame,
    attack_curves: pd.DataFrame,
    folder: Path,
) -> dict[str, str]:
    """Draw every figure that the data allow, as PNG and SVG.

    Args:
        outcomes: one per defender.
        summary: `statistics.summarize` of the same variant.
        spec: the variant.
        train_curves: columns metric (greedy return or win rate), defender, seed, steps, value.
        attack_curves: columns defender, seed, phi, attacker, steps, value (attacked return).
        folder: where to; file names start with the variant's.

    Returns:
        File name without extension -> caption.
    """
    figures: dict[str, tuple[Figure, str]] = {}
    with matplotlib.rc_context(STYLE):
        figures["performance"] = (
            performance(summary, spec),
            "Cooperative and robust performance: mean team return with 95% intervals. Bars start at the variant's "
            "floor, so a taller bar is a better team.",
        )
        figures["intervals"] = (
            intervals(summary),
            "Aggregates on the normalized scale (floor 0, ceiling 1) with 95% intervals: rliable's stratified "
            "bootstrap (bars) and whole training seeds (lines). Without an interval there are too few runs for one.",
        )
        judged = [outcome for outcome in outcomes if outcome.matrix(outcome.headline).size]
        if judged:
            figures["profile"] = (
                profile(judged, spec),
                f"Performance profile of the {arm_label(judged[0].headline)} arm: the share of runs whose score lies "
                "above each threshold, with pointwise 95% intervals.",
            )
        if summary["improvement"]:
            figures["improvement"] = (
                improvement(summary),
                "Probability that a run of the first defender beats one of the second, with rliable's 95% intervals "
                "(bars) and intervals over whole training seeds (lines). If the line holds 1/2, it is a tie.",
            )
        if any(outcome.phis and outcome.arms for outcome in outcomes):
            figures["partitions"] = (
                partitions(outcomes, spec),
                "Team return under each attacker, by which agents are adversarial: mean over training seeds; bars span "
                "the seeds.",
            )
        returns, wins = (select(train_curves, metric=metric) for metric in (GREEDY_RETURN, GREEDY_WINS))
        if len(returns):
            figures["training"] = (
                training(returns, outcomes, spec),
                "Greedy team return during training, one line per training seed.",
            )
        if len(wins):
            figures["training-wins"] = (
                training(wins, outcomes, None),
                "Win rate of the greedy team during training, one line per training seed.",
            )
        if len(attack_curves):
            figures["attack-budget"] = (
                attack_budget(attack_curves, outcomes, summary),
                "Team return under the strongest policy that each attack has found so far: thin lines are single "
                "attacks, bold lines their means. These curves are measured on episodes of the attacks' own, the "
                "horizontal lines on the evaluation episodes: compare shapes, not tenths. A curve that still falls at "
                "its end asks for a larger attack budget.",
            )
        captions = {}
        short = spec.id.rsplit("/", 1)[-1]
        for name, (figure, caption) in figures.items():
            stem = f"{short}-{name}"
            figure.savefig(folder / f"{stem}.png", dpi=150)
            figure.savefig(folder / f"{stem}.svg", metadata={"Date": None})
            captions[stem] = caption
    return captions


def performance(summary: Mapping[str, Any], spec: VariantSpec) -> Figure:
    """Bars of the cooperative and the robust return of each defender, in the manner of the paper's Fig. 4."""
    defenders = summary["defenders"]
    arms = _arms_of(summary)
    figure = Figure(figsize=(max(5.2, 1.5 * len(defenders) + 2.2), 3.8))
    axes = figure.add_subplot()
    labels: list[tuple[float, float, Any]] = []
    width = 0.8 / len(arms)
    for j, arm in enumerate(arms):
        label: str | None = arm_label(arm)
        for i, entry in enumerate(defenders.values()):
            if arm not in entry["arms"]:
                continue
            values = entry["arms"][arm]
            x = i + (j - (len(arms) - 1) / 2) * width
            axes.bar(
                x,
                values["mean"] - spec.floor.score,
                width * 0.92,
                bottom=spec.floor.score,
                color=PALETTE[j],
                edgecolor="white",
                hatch=("", "//")[j],
                label=label,
            )
            label = None
            _whisker(axes, x, values["mean"], values["ci"])
            labels.append((x, np.nanmax([values["mean"], values["ci"][1], spec.floor.score]), values))
    draw_anchors(axes, spec)
    axes.set_xticks(range(len(defenders)), [_wrap(name) for name in defenders])
    axes.set_xlim(-0.6, len(defenders) - 0.4)
    axes.margins(y=0.12)
    for x, top, values in labels:
        part = "" if values["results"] == values["planned"] else f"\n({values['results']}/{values['planned']})"
        # A number in reach of the floor's or the ceiling's line stands on that line.
        reach = 0.06 * (axes.get_ylim()[1] - axes.get_ylim()[0])
        y = max([a.score for a in (spec.floor, spec.ceiling) if top <= a.score < top + reach], default=top)
        text = f"{values['mean']:.1f}{part}"
        axes.annotate(text, (x, y), xytext=(0, 4), textcoords="offset points", ha="center", fontsize=8)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel(_RETURN)
    axes.set_title(spec.id.rsplit("/", 1)[-1], fontsize=10)
    right = axes.secondary_yaxis("right", functions=(spec.normalize, _denormalize(spec)))
    right.set_ylabel("normalized score")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def intervals(summary: Mapping[str, Any]) -> Figure:
    """Point estimates and intervals of rliable's four aggregates."""
    measures = {"median": "median", "iqm": "IQM", "mean": "mean", "optimality_gap": "optimality gap"}
    rows = [
        (name, arm, entry["arms"][arm]["normalized"])
        for name, entry in summary["defenders"].items()
        for arm in _arms_of(summary)
        if arm in entry["arms"]
    ]
    figure = Figure(figsize=(10.5, 1.1 + 0.36 * len(rows)))
    panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for panel, (key, title) in zip(panels, measures.items(), strict=True):
        for y, (_, arm, values) in enumerate(rows):
            value, (low, high) = values[key]["value"], values[key]["ci"]
            color = PALETTE[0 if arm == CLEAN else 1]
            if np.isfinite(low):
                panel.barh(y, high - low, 0.55, left=low, color=color, alpha=0.6, linewidth=0)
            panel.plot(values[key]["ci_clustered"], [y, y], color="black", linewidth=1.2)
            panel.plot([value, value], [y - 0.28, y + 0.28], color="black", linewidth=1.8)
        panel.set_title(f"{title}\n({'lower' if key == 'optimality_gap' else 'higher'} is better)", fontsize=8)
        panel.use_sticky_edges = False
        panel.set_xlabel("normalized score")
        panel.grid(axis="y", visible=False)
        panel.margins(x=0.12)
    panels[0].set_yticks(range(len(rows)), [f"{name}, {arm_label(arm).split(' (')[0]}" for name, arm, _ in rows])
    panels[0].invert_yaxis()
    return figure


def profile(outcomes: Sequence[Outcome], spec: VariantSpec) -> Figure:
    """Performance profiles of the headline arm."""
    matrices = {o.defender: spec.normalize(o.matrix(o.headline)) for o in outcomes}
    low = min(0.0, *(m.min() for m in matrices.values()))
    high = max(1.0, *(m.max() for m in matrices.values()))
    thresholds = np.linspace(low - 0.02, high + 0.02, 201)
    curves = performance_profile(matrices, thresholds)
    figure = Figure(figsize=(5.2, 3.4))
    axes = figure.add_subplot()
    for i, (name, (share, lower, upper)) in enumerate(curves.items()):
        color = PALETTE[i % len(PALETTE)]
        axes.step(thresholds, share, where="post", color=color, linestyle=_dash(i), label=name)
        axes.fill_between(thresholds, lower, upper, step="post", color=color, alpha=0.2, linewidth=0)
    axes.set_xlabel(r"normalized score $\tau$ (0 = floor, 1 = ceiling)")
    axes.set_ylabel(r"share of runs with score > $\tau$")
    axes.set_ylim(-0.02, 1.05)
    axes.legend(fontsize=8)
    return figure


def improvement(summary: Mapping[str, Any]) -> Figure:
    """Probability of improvement for each pair."""
    pairs = summary["improvement"]
    figure = Figure(figsize=(5.4, 1.1 + 0.4 * len(pairs)))
    axes = figure.add_subplot()
    for y, pair in enumerate(pairs):
        low, high = pair["ci"]
        if np.isfinite(low):
            axes.barh(y, high - low, 0.5, left=low, color=PALETTE[0], alpha=0.6, linewidth=0)
        axes.plot(pair["ci_clustered"], [y, y], color="black", linewidth=1.2)
        axes.plot([pair["probability"]] * 2, [y - 0.26, y + 0.26], color="black", linewidth=1.8)
    axes.axvline(0.5, color=GREY, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(pairs)), [f"{p['x']} > {p['y']}" for p in pairs])
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    axes.set_xlim(-0.03, 1.03)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("probability of a higher return")
    return figure


def partitions(outcomes: Sequence[Outcome], spec: VariantSpec) -> Figure:
    """Attacked returns of each partition and attacker, one panel per defender."""
    shown = [o for o in outcomes if o.phis and o.arms]
    figure = Figure(figsize=(8.0, 0.8 + 2.3 * len(shown)))
    panels = figure.subplots(len(shown), 1, squeeze=False, sharey=True, sharex=True)[:, 0]
    trained = {name for outcome in shown for name in outcome.trained}
    names = sorted(
        {a for outcome in shown for a in outcome.arms} - {ROBUST, WORST}, key=lambda a: (a not in trained, a)
    )
    for panel, outcome in zip(panels, shown, strict=True):
        for j, name in enumerate(names):
            grid: Any = outcome.grid(name)  # gaps are left empty
            x = np.arange(len(outcome.phis)) + (j - (len(names) - 1) / 2) * min(0.14, 0.8 / len(names))
            mean = grid.mean().to_numpy()
            span = np.vstack([mean - grid.min().to_numpy(), grid.max().to_numpy() - mean])
            panel.errorbar(
                x,
                mean,
                yerr=span if len(grid) > 1 else None,
                fmt=MARKERS[j % len(MARKERS)],
                color=PALETTE[(j + 1) % len(PALETTE)],
                markersize=5,
                linewidth=1,
                label=name,
            )
        panel.axhline(
            outcome.matrix(CLEAN).mean(), color=PALETTE[0], linestyle="--", linewidth=1.2, label="no adversary"
        )
        for edge in range(1, len(outcome.phis)):
            panel.axvline(edge - 0.5, color="#d0d0d0", linewidth=0.8)
        panel.set_xlim(-0.5, len(outcome.phis) - 0.5)
        panel.set_title(outcome.defender, fontsize=9.5)
        panel.set_ylabel("team return per episode")
        panel.set_xticks(range(len(outcome.phis)), [phi_label(phi) for phi in outcome.phis])
        panel.grid(axis="x", visible=False)
    panels[-1].set_xlabel("adversarial agents (index)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), fontsize=8.5)
    return figure


def training(curves: pd.DataFrame, outcomes: Sequence[Outcome], spec: VariantSpec | None) -> Figure:
    """Greedy returns during training, between the anchors of `spec`; or without it win rates."""
    figure = Figure(figsize=(5.6, 3.4))
    axes = figure.add_subplot()
    for i, outcome in enumerate(outcomes):
        of_defender = select(curves, defender=outcome.defender)
        for j, (_, line) in enumerate(of_defender.groupby("seed")):
            axes.plot(
                line["steps"],
                line["value"],
                color=PALETTE[i % len(PALETTE)],
                linestyle=_dash(i),
                linewidth=1.3,
                label=outcome.defender if j == 0 else None,
            )
    _steps_axis(axes, "environment steps of training")
    if spec is None:
        axes.set_ylim(-0.03, 1.03)
        axes.set_ylabel("win rate of the greedy team")
    else:
        draw_anchors(axes, spec)
        axes.set_ylabel("greedy team return per episode")
    axes.legend(fontsize=8, loc="best")
    return figure


def mean_curve(curves: pd.DataFrame) -> pd.Series:
    """Return the mean of attacks' curves by steps; each holds its last value until its next report.

    Args:
        curves: columns seed, phi, restart, steps, value; attacks may report at different steps.
    """
    wide: Any = curves.pivot_table(index="steps", columns=["seed", "phi", "restart"], values="value").ffill()
    return wide.dropna().mean(axis=1)


def attack_budget(curves: pd.DataFrame, outcomes: Sequence[Outcome], summary: Mapping[str, Any]) -> Figure:
    """Attacked returns during the attackers' training: a panel for each defender, a color and dash per attacker."""
    names = [o for o in outcomes if (curves["defender"] == o.defender).any()]
    attackers = sorted(curves["attacker"].unique())
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(max(6.0, 1.2 + 3.4 * columns), 0.9 + 2.8 * rows))
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True).ravel()
    for panel, outcome in zip(panels, names, strict=False):
        of_defender = select(curves, defender=outcome.defender)
        for i, attacker in enumerate(attackers):
            color, lines = PALETTE[(1, 3, 4, 5)[i % 4]], select(of_defender, attacker=attacker)
            for _, line in lines.groupby(["seed", "phi", "restart"]):
                panel.plot(line["steps"], line["value"], color=color, linestyle=_dash(i), linewidth=0.6, alpha=0.3)
            mean = mean_curve(lines)
            panel.plot(
                mean.index, mean.to_numpy(), color=color, linestyle=_dash(i), linewidth=2.2, label=f"{attacker}, mean"
            )
        panel.axhline(
            outcome.matrix(CLEAN).mean(), color=PALETTE[0], linestyle="--", linewidth=1.2, label="no adversary"
        )
        others = [a for a in outcome.arms if a not in (ROBUST, WORST, *outcome.trained)]
        others = [a for a in others if outcome.matrix(a).size]
        if others:
            strongest = min(others, key=lambda a: outcome.matrix(a).mean())
            panel.axhline(
                outcome.matrix(strongest).mean(),
                color=PALETTE[2],
                linestyle=":",
                linewidth=1.6,
                label=f"strongest other ({strongest})" if len(names) == 1 else "strongest other attacker",
            )
        budgets = summary["defenders"][outcome.defender].get("attack_budget", {})
        falling = [attacker for attacker, values in budgets.items() if values["falling"]]
        panel.set_title(outcome.defender + (f"\nstill falls: {', '.join(falling)}" if falling else ""), fontsize=9.5)
        _steps_axis(panel, "environment steps of the attack")
    for place, panel in enumerate(panels[len(names) :], len(names)):
        panel.set_axis_off()
        panels[place - columns].tick_params(labelbottom=True)  # the lowest of its column now
    for row in range(rows):
        panels[row * columns].set_ylabel("attacked team return,\nattack's own episodes")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2 if columns == 1 else 4, fontsize=8.5)
    return figure


def phi_label(phi: str) -> str:
    """Return "3" or "2+5" for a partition written as zeros and ones."""
    return "+".join(str(i) for i, digit in enumerate(phi) if digit == "1")


def arm_label(name: str) -> str:
    """Return how figures call an arm that is compared between defenders."""
    return {
        CLEAN: "cooperative (no adversary)",
        ROBUST: "robust (learned adversary)",
        WORST: "robust (worst attacker of the suite)",
    }[name]


def _arms_of(summary: Mapping[str, Any]) -> list[str]:
    """Return the arms that figures compare: the clean one and the headline's."""
    return list(dict.fromkeys([CLEAN, *(entry["headline"] for entry in summary["defenders"].values())]))


def _dash(i: int) -> Any:
    dashes = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
    return dashes[i % len(dashes)]  # one more than there are colors, so that no pair comes twice


def _wrap(name: str) -> str:
    return name.replace(":", ":\n") if len(name) > 14 else name


def _whisker(axes: Any, x: float, mean: float, interval: Sequence[float]) -> None:
    low, high = interval
    if np.isfinite(low):
        axes.errorbar(
            x, mean, yerr=[[max(0.0, mean - low)], [max(0.0, high - mean)]], color="black", capsize=4, linewidth=1.2
        )


def draw_anchors(axes: Any, spec: VariantSpec) -> None:
    """Draw the floor and the ceiling of a variant as lines."""
    for score, text in ((spec.floor.score, "floor"), (spec.ceiling.score, "ceiling")):
        axes.axhline(score, color=GREY, linestyle=":", linewidth=1)
        axes.annotate(
            text, (1, score), xycoords=("axes fraction", "data"), xytext=(-3, 2), textcoords="offset points",
            ha="right", fontsize=7.5, color=GREY,
        )  # fmt: skip


def _denormalize(spec: VariantSpec) -> Any:
    return lambda score: spec.floor.score + score * (spec.ceiling.score - spec.floor.score)


def _steps_axis(axes: Any, label: str) -> None:
    axes.set_xlabel(label)
    axes.xaxis.set_major_formatter(_steps_text)


def _steps_text(steps: float, _: Any) -> str:
    if abs(steps) >= 1e6:
        return f"{steps / 1e6:g}M"
    return f"{steps / 1e3:g}k" if abs(steps) >= 1e3 else f"{steps:g}"
