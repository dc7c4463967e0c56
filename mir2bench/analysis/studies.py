"""What the analyses that are built on studies share: running one, and turning its episodes into tables."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mir2bench.analysis.options import command_line
from mir2bench.analysis.output import Output
from mir2bench.errors import ConfigError, StudyError
from mir2bench.evaluation.outcomes import Outcome, tabulate
from mir2bench.evaluation.protocol import CLEAN, ROBUST, Budget, get_budget
from mir2bench.evaluation.scores import COLUMNS, collect_cells
from mir2bench.evaluation.statistics import clustered_interval
from mir2bench.evaluation.store import Store
from mir2bench.evaluation.study import Study
from mir2bench.evaluation.tables import interval, number, shortfall
from mir2bench.registration import VariantSpec, list_variants, spec

_CELL = ["variant", "defender", "defender_seed", "attacker", "phi"]


def attackable(variant: str) -> VariantSpec:
    """Return the spec of a variant in which there is somebody to attack.

    Raises:
        UnknownNameError: no such variant.
        ConfigError: it has no adversaries; the message names siblings that have.
    """
    found = spec(variant)
    if found.n_adversaries == 0:
        world = found.id.rpartition("-adv")[0]
        siblings = [v for v in list_variants(found.family) if v.startswith(f"{world}-adv") and v != found.id]
        hint = " or ".join(siblings) or "a variant whose id says -adv1 or more"
        raise ConfigError(f"{found.id} has no adversaries, so there is nothing to attack. Choose {hint}.")
    return found


def budget_of(options: Any) -> Budget:
    """Return the budget that the options name, with their number of seeds.

    Raises:
        UnknownNameError, ConfigError: no such budget, too few or too many seeds, or no worker.
    """
    if options.workers is not None and options.workers < 1:
        raise ConfigError(f"--workers must be 1 or more, but it is {options.workers}.")
    budget = get_budget(options.budget)
    return budget if options.seeds is None else dataclasses.replace(budget, defender_seeds=options.seeds)


@dataclass(frozen=True)
class Finished:
    """A study that was done as far as it could be.

    Attributes:
        summary: the content of its `summary.json`.
        scores: its episodes; see `scores.COLUMNS`.
        cells: what became of each planned cell; see `scores.collect_cells`.
    """

    summary: Mapping[str, Any]
    scores: pd.DataFrame
    cells: pd.DataFrame

    @property
    def headline(self) -> str:
        """The arm that its protocol judges by."""
        return self.summary["study"]["protocol"].get("headline", ROBUST)

    def outcomes(self, variant: str) -> list[Outcome]:
        """Return what each contender earned on one of the variants; see `outcomes.tabulate`."""
        contenders = self.summary["study"]["contenders"]
        return tabulate(
            self.scores,
            variant,
            [c["name"] for c in contenders],
            headline=self.headline,
            cells=self.cells,
            scripted=[c["name"] for c in contenders if c["kind"] == "scripted"],
        )

    def renamed(self, attackers: Mapping[str, str]) -> Finished:
        """Return the same with other names for attackers."""
        scores, cells = (t.replace({"attacker": dict(attackers)}) for t in (self.scores, self.cells))
        return dataclasses.replace(self, scores=scores, cells=cells)

    def status(self) -> int:
        """Return the exit status of an analysis that has written all it could: 1 if jobs failed, which is told."""
        line = shortfall(self.summary)
        if line:
            print(f"error: the analysis is incomplete: {line}", file=sys.stderr)
        return int(bool(line))


def run_study(study: Study, output: Output) -> Finished:
    """Do a study in `output.study`, or continue it there.

    Raises:
        StudyError: the folder cannot be used, or nothing could be played.
    """
    options = output.options
    summary = study.run(
        output.study,
        workers=options.workers,
        resume=options.resume,
        console=output.console,
        command=command_line(output.name, options),
        show=False,
    )
    cells = collect_cells(study.jobs(), Store(output.study))
    return Finished(summary, pd.read_parquet(output.study / "scores.parquet"), cells)


def open_study(folder: Path) -> Finished:
    """Read a study that somebody did before: the folder of an evaluation, or of an analysis that is built on one.

    Raises:
        StudyError: it is none, or not finished.
    """
    root = folder / "study" if (folder / "study").is_dir() else folder
    try:
        summary = json.loads((root / "summary.json").read_text(encoding="utf-8"))
        scores = pd.read_parquet(root / "scores.parquet").astype(COLUMNS)
        _ = [v["id"] for v in summary["study"]["variants"]], [c["name"] for c in summary["study"]["contenders"]]
    except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's errors are ValueErrors
        raise StudyError(
            f"{folder} holds no finished study ({type(error).__name__}: {error}). Give the folder that "
            "`python -m mir2bench.evaluate` wrote, with its summary.json and scores.parquet."
        ) from error
    done = scores.drop_duplicates(_CELL)[_CELL].assign(state="done", reason="")
    if summary.get("missing"):
        gaps = pd.DataFrame(summary["missing"], columns=pd.Index(_CELL)).assign(state="missing", reason="")
        done = pd.concat([done, gaps], ignore_index=True)
    return Finished({"failures": [], **summary}, scores, done)


def cells(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Return one row per (defender, seed, phi, arm), in this order.

    Columns defender, seed, phi (zeros and ones), arm ("none" without adversaries, each attacker, "robust", "worst"; see
    `outcomes.Outcome`), attacker (who it was in that cell), return (mean over the cell's episodes).
    """
    columns = ["defender", "seed", "phi", "arm", "attacker", "return"]
    parts = []
    for outcome in outcomes:
        clean = outcome.grid(CLEAN).iloc[:, 0].dropna()
        nobody = "0" * len(outcome.phis[0]) if outcome.phis else ""
        table = pd.DataFrame({"seed": clean.index, "phi": nobody, "arm": CLEAN, "attacker": CLEAN, "return": clean})
        parts.append(table.assign(defender=outcome.defender))
        for arm, table in outcome.arms.items():
            table = table.reset_index().rename(columns={"defender_seed": "seed"})
            parts.append(table.assign(arm=arm, defender=outcome.defender))
    data = pd.concat([part[columns] for part in parts], ignore_index=True)
    names = pd.Categorical(data["defender"], [outcome.defender for outcome in outcomes])
    rows = data.assign(order=names).sort_values(["order", "seed", "phi"], kind="stable", ignore_index=True)
    return rows.drop(columns="order")


def estimates(outcomes: Sequence[Outcome], arms: Sequence[str]) -> pd.DataFrame:
    """Return one row per (arm, defender): the mean return and its 95% interval. Arms without results are left out.

    Columns defender, arm, mean, low, high (of the interval; NaN where one result gives none), over (what the interval
    resamples: "seeds", or with one seed "partitions" or "episodes"; see `statistics.clustered_interval`), seeds,
    partitions (how many of each; 0 partitions in the clean arm).
    """
    rows = []
    for arm in arms:
        for outcome in outcomes:
            matrix = outcome.matrix(arm)
            if matrix.size:
                episodes = outcome.clean[0] if arm == CLEAN else None
                row = {"defender": outcome.defender, "arm": arm, **estimate(matrix, episodes)}
                sizes = {"seeds": matrix.shape[0], "partitions": 0 if arm == CLEAN else matrix.shape[1]}
                rows.append(row | sizes)
    return pd.DataFrame(rows)


def estimate(matrix: np.ndarray, episodes: np.ndarray | None = None) -> dict[str, Any]:
    """Return mean, low, high and over of results (S, P); see `estimates` and `statistics.clustered_interval`."""
    (low, high), over = clustered_interval(matrix, episodes)
    return {"mean": float(matrix.mean()), "low": low, "high": high, "over": over}


def as_text(table: Any, row: str, column: str) -> pd.DataFrame:
    """Return estimates for people: a row for each `row`, a column for each `column`, "mean [low, high]" in each place.

    Args:
        table: a DataFrame with columns mean, low and high.
        row, column: names of two others of its columns.
    """
    bounds = zip(table["mean"], table["low"], table["high"], strict=True)
    text = [
        f"{number(mean)} {interval((low, high), 2 if abs(mean) < 100 else 1)}".rstrip() for mean, low, high in bounds
    ]
    wide: Any = table.assign(text=text).pivot(index=row, columns=column, values="text").fillna("")
    wide = wide.loc[list(dict.fromkeys(table[row])), list(dict.fromkeys(table[column]))]
    return wide.rename(columns={CLEAN: "clean"}).rename_axis(columns=None).reset_index()


def draw_estimates(axes: Any, places: Any, table: Any, **style: Any) -> None:
    """Draw means with their intervals.

    Args:
        axes: matplotlib axes.
        places: horizontal place of each row.
        table: a DataFrame with columns mean, low and high.
        style: passed on to `errorbar`.
    """
    mean, low, high = (table[name].to_numpy(dtype=np.float64) for name in ("mean", "low", "high"))
    bars = np.maximum(np.nan_to_num(np.vstack([mean - low, high - mean])), 0.0)
    axes.errorbar(places, mean, yerr=bars, **{"capsize": 3, "markersize": 5, "linewidth": 1.3, **style})
