"""Return against the number of adversaries, in the manner of the paper's Fig. 8 (two) and beyond it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import tyro
from matplotlib.figure import Figure

from mir2bench.analysis.options import StudyOptions
from mir2bench.analysis.output import Output, drawing, short_id
from mir2bench.analysis.studies import Finished, as_text, budget_of, cells, draw_estimates, estimates, run_study
from mir2bench.errors import ConfigError, UnknownNameError
from mir2bench.evaluation.contenders import resolve_contenders
from mir2bench.evaluation.figures import GREY, MARKERS, PALETTE, arm_label, draw_anchors
from mir2bench.evaluation.jobs import Job
from mir2bench.evaluation.protocol import CLEAN, WORST, get_protocol
from mir2bench.evaluation.scores import select
from mir2bench.evaluation.study import Study
from mir2bench.registration import VariantSpec, spec

DESCRIPTION = """Attack the same teams with more and more adversaries (Fig. 8 shows two).

Examples:
  python -m mir2bench.analyze adversaries --budget standard --out runs/adversaries
  python -m mir2bench.analyze adversaries --algo maddpg scripted:centroid --counts 1 2 3
  python -m mir2bench.analyze adversaries --policy baselines/mir2/Rendezvous10-adv1-v0/seed0 --counts 1 5"""


@dataclass(frozen=True)
class Options(StudyOptions):
    """Who is attacked, and by how many."""

    algo: tuple[str, ...] = ()
    """Defenders to train on --env, or scripted:TEAM. Without --policy the default is maddpg and mir2."""
    policy: tuple[Path, ...] = ()
    """Policy bundles; bundles that differ in their seed alone count as one defender."""
    counts: tuple[int, ...] = ()
    """Numbers of adversaries beside 0; the default is 1 to half the team."""
    protocol: str = "paper-v1"
    """Which attackers, and how many partitions of each size."""
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="KEY=VALUE")] = ()
    """Settings that differ from the defenders' defaults; ALGORITHM.KEY=VALUE for one alone."""


@dataclass(frozen=True)
class SharedTraining(Study):
    """A study that trains each team once and has it play on all variants.

    Attributes:
        home: the variant that teams are trained on.
    """

    home: VariantSpec = field(kw_only=True)

    def to_dict(self) -> dict[str, Any]:
        """See `Study.to_dict`."""
        return {**super().to_dict(), "home": self.home.to_dict()}

    def jobs(self) -> list[Job]:
        """Return the plan, in which all variants need the trainings of one."""
        keys: dict[str, str] = {}
        jobs: dict[str, Job] = {}
        for job in super().jobs():  # each behind those it needs
            changes: dict[str, Any] = {"needs": {role: keys[key] for role, key in job.needs.items()}}
            if job.kind == "train":
                label = f"{short_id(self.home)}/{job.label.partition('/')[2]}"
                changes |= {"variant": self.home, "label": label}
            moved = dataclasses.replace(job, **changes)
            keys[job.key] = moved.key
            jobs.setdefault(moved.key, moved)
        return list(jobs.values())


def run(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
    """Run the attacks that the options describe; return 1 if jobs failed."""
    base = spec(options.env)
    variants = with_counts(base, options.counts or range(1, base.n_agents // 2 + 1))
    budget = budget_of(options)
    names = options.algo or (() if options.policy else ("maddpg", "mir2"))
    contenders = resolve_contenders(names, options.policy, options.settings, range(budget.defender_seeds), variants)
    protocol = get_protocol(options.protocol)
    study = SharedTraining(tuple(variants), tuple(contenders), protocol, budget, home=base)
    output = Output("adversaries", options)
    finished = run_study(study, output)

    data, table = tables(finished, variants)
    output.table("adversaries-cells", data)
    output.table("adversaries", table)
    output.figure("adversaries", draw(table, base, protocol.headline))
    shown = as_text(_line(table, protocol.headline), "adversaries", "defender")
    output.show(shown, f"{base.id}: team return by number of adversaries, 95% intervals")
    output.summary({"headline": protocol.headline, "results": table.to_dict("records")})
    return finished.status()


def with_counts(base: VariantSpec, counts: Sequence[int]) -> list[VariantSpec]:
    """Return variants of one world with the given numbers of adversaries, ascending.

    A variant that is registered is taken as it is; the others exist for this analysis alone.

    Args:
        base: any variant of the world.
        counts: numbers of adversaries.

    Raises:
        ConfigError: there is none, or one is below 1, above N - 1 or given twice.
    """
    if not counts or len(set(counts)) < len(counts) or not all(1 <= k < base.n_agents for k in counts):
        raise ConfigError(
            f"the numbers of adversaries must be distinct and from 1 to {base.n_agents - 1}, since somebody must be "
            f"left to defend {base.id}, but they are {', '.join(map(str, counts)) or 'none'}."
        )
    found = []
    for count in sorted(counts):
        name = f"{base.id.rpartition('-adv')[0]}-adv{count}-v{base.version}"
        try:
            found.append(spec(name))
        except UnknownNameError:
            found.append(dataclasses.replace(base, id=name, n_adversaries=count))
    return found


def tables(finished: Finished, variants: Sequence[VariantSpec]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return `studies.cells` and `studies.estimates` of all variants, with a first column `adversaries`.

    Without adversaries all variants are the same; their clean arm is taken once, as 0 adversaries.
    """
    data, table = [], []
    for place, variant in enumerate(variants):
        outcomes = finished.outcomes(variant.id)
        arms = list(dict.fromkeys(arm for outcome in outcomes for arm in outcome.arms))
        data.append(cells(outcomes))
        table.append(estimates(outcomes, [CLEAN, *arms]))
        for frame in (data[-1], table[-1]):
            frame.insert(0, "adversaries", (frame["arm"] != CLEAN) * variant.n_adversaries)
            if place:
                frame.drop(frame.index[frame["adversaries"] == 0], inplace=True)
    return pd.concat(data, ignore_index=True), pd.concat(table, ignore_index=True)


def draw(table: pd.DataFrame, base: VariantSpec, headline: str) -> Figure:
    """Draw one line per defender; where another attacker is stronger than the headline's, a dashed one below it.

    Args:
        table: columns adversaries, defender, arm, mean, low, high.
        base: whose floor and ceiling are drawn.
        headline: the arm of the lines.
    """
    counts = sorted(table["adversaries"].unique())
    defenders = list(dict.fromkeys(table["defender"]))
    stronger = False
    with drawing():
        figure = Figure(figsize=(max(5.6, 2.4 + 0.5 * len(counts)), 3.8))
        axes = figure.add_subplot()
        for i, defender in enumerate(defenders):
            rows = select(table, defender=defender)
            line, worst = _line(rows, headline), _line(rows, WORST)
            shift = 0.05 * (i - (len(defenders) - 1) / 2)
            color = PALETTE[i % len(PALETTE)]
            fmt = f"{MARKERS[i % len(MARKERS)]}-"
            draw_estimates(axes, line["adversaries"] + shift, line, color=color, fmt=fmt, label=defender)
            if worst["mean"].to_list() != line["mean"].to_list():
                stronger = True
                axes.plot(worst["adversaries"] + shift, worst["mean"], "--", color=color, linewidth=1)
        if stronger:
            axes.plot([], [], "--", color=GREY, linewidth=1, label="worst of all attackers")
        draw_anchors(axes, base)
        axes.set_xticks(counts)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel(f"adversaries among {base.n_agents} agents")
        axes.set_ylabel("team return per episode")
        axes.set_title(f"{short_id(base).rpartition('-adv')[0]}, {arm_label(headline)}", fontsize=10)
        figure.legend(loc="outside lower center", ncols=2, fontsize=8.5)
    return figure


def _line(table: pd.DataFrame, arm: str) -> Any:
    """Return the rows of an arm, with those of the clean one before them."""
    return table[table["arm"].isin((CLEAN, arm))]
