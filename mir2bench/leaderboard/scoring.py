"""From a study's tables to the scores that an entry holds."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mir2bench.evaluation.jobs import digest
from mir2bench.evaluation.outcomes import Outcome, tabulate
from mir2bench.evaluation.protocol import CLEAN, ROBUST, WORST
from mir2bench.evaluation.statistics import aggregates, attack_budget, clustered_interval
from mir2bench.registration import VariantSpec

_POINTS = 40  # most points kept of an attack-budget curve


def scores_of(
    episodes: pd.DataFrame,
    attacks: pd.DataFrame | None,
    variant: VariantSpec,
    study: Mapping[str, Any],
    *,
    commit: str | None,
    provisional: str = "",
    not_applicable: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the content of a `Scores` model for one team.

    Args:
        episodes: the team's rows of a study's scores.parquet, on this variant; every cell has all its attackers.
        attacks: its rows of attacks.parquet, or None if no curves were kept.
        variant: the world.
        study: the study's resolved configuration, as `Study.to_dict` gives it.
        commit: of the code that played.
        provisional: why the numbers are not final.
        not_applicable: attackers that cannot play against the team, and why.
    """
    (outcome,) = tabulate(episodes, variant.id, [str(episodes["defender"].iloc[0])], headline=WORST)
    attacked = WORST in outcome.arms
    arm = WORST if attacked else CLEAN
    measures = aggregates(variant.normalize(outcome.matrix(arm)), not attacked)
    named = [name for name in outcome.arms if name not in (ROBUST, WORST)]
    budget = study["budget"]
    return {
        "protocol": study["protocol"]["name"],
        "attackers_sha256": digest([study["protocol"], study["attackers"].get(variant.id, {})]),
        "budget": {key: budget[key] for key in ("name", "attack_steps", "attack_restarts", "episodes")},
        "mir2bench": study["mir2bench"],
        "commit": commit,
        "date": str(datetime.datetime.now(datetime.UTC).date()),
        "provisional": provisional,
        "failures": _failures(episodes),
        "floor": variant.floor.score,
        "ceiling": variant.ceiling.score,
        "clean": _score(outcome.matrix(CLEAN), variant, outcome.wins(CLEAN), _only_seed(outcome)),
        "worst": _score(outcome.matrix(WORST), variant, outcome.wins(WORST)) if attacked else None,
        "difference": _difference(outcome, variant) if attacked else None,
        **{name: _aggregate(measures[name]) for name in ("iqm", "median", "optimality_gap")},
        "attackers": {name: _score(outcome.matrix(name), variant, outcome.wins(name)) for name in sorted(named)},
        "not_applicable": dict(not_applicable or {}),
        "partitions": _partitions(outcome, variant) if attacked else {},
        "cells": _cells(outcome, variant, attacked),
        "curves": [] if attacks is None or attacks.empty else _curves(attacks, variant),
    }


def normalized(interval: Sequence[float] | None, variant: VariantSpec) -> list[float] | None:
    """Return an interval on the variant's scale."""
    return None if interval is None else [float(variant.normalize(bound)) for bound in interval]


def _score(
    matrix: np.ndarray, variant: VariantSpec, wins: np.ndarray, episodes: np.ndarray | None = None
) -> dict[str, Any]:
    bounds, over = clustered_interval(matrix, episodes)
    interval, mean = _known(bounds), float(matrix.mean())
    known = np.isfinite(wins).all()
    return {
        "mean": mean,
        "ci": interval,
        "ci_over": over,
        "normalized": float(variant.normalize(mean)),
        "normalized_ci": normalized(interval, variant),
        "win_rate": float(wins.mean()) if known else None,
        "win_rate_ci": _known(clustered_interval(wins)[0]) if known else None,
        "cells": int(matrix.size),
    }


def _failures(episodes: pd.DataFrame) -> int:
    """Return how many evaluations the policy failed: those whose episodes have no step."""
    cells = episodes.groupby(["defender_seed", "attacker", "phi", "attacker_seed"], dropna=False, observed=True)
    longest = cells["length"].max().to_numpy()
    return int((longest == 0).sum())


def _only_seed(outcome: Outcome) -> np.ndarray | None:
    return outcome.clean[0] if len(outcome.seeds) == 1 else None


def _difference(outcome: Outcome, variant: VariantSpec) -> dict[str, Any]:
    gap = outcome.matrix(WORST) - outcome.matrix(CLEAN)
    bounds, over = clustered_interval(gap)
    interval, span = _known(bounds), variant.ceiling.score - variant.floor.score
    return {
        "mean": float(gap.mean()),
        "ci": interval,
        "ci_over": over,
        "normalized": float(gap.mean()) / span,
        "normalized_ci": None if interval is None else [bound / span for bound in interval],
        "cells": int(gap.size),
    }


def _partitions(outcome: Outcome, variant: VariantSpec) -> dict[str, Any]:
    worst, wins = outcome.whole(WORST), outcome.grid(WORST, "won")
    return {phi: _score(worst[[phi]].to_numpy(), variant, wins[[phi]].to_numpy(float)) for phi in worst.columns}


def _cells(outcome: Outcome, variant: VariantSpec, attacked: bool) -> list[dict[str, Any]]:
    clean = dict(zip(outcome.seeds, outcome.clean.mean(axis=1).tolist(), strict=True))
    if not attacked:
        phi = "0" * variant.n_agents
        return [{"seed": s, "phi": phi, "clean": c, "worst": c, "attacker": CLEAN} for s, c in clean.items()]
    table = outcome.arms[WORST].reset_index().to_dict("records")
    return [
        {
            "seed": int(row["defender_seed"]),
            "phi": str(row["phi"]),
            "clean": clean[row["defender_seed"]],
            "worst": float(row["return"]),
            "attacker": str(row["attacker"]),
        }
        for row in table
    ]


def _aggregate(measure: Mapping[str, Any]) -> dict[str, Any]:
    return {"value": measure["value"], "ci": _known(measure["ci_clustered"])}


def _curves(attacks: pd.DataFrame, variant: VariantSpec) -> list[dict[str, Any]]:
    """Return each attacker's mean curve over its cells, at the steps that most of them reported."""
    verdicts = attack_budget(attacks, variant)
    found = []
    for attacker, rows in attacks.groupby("attacker"):
        table: Any = rows.pivot_table(index=["seed", "phi", "restart"], columns="steps", values="value").sort_index()
        # Attacks report at steps of their own: between two reports the last one stands.
        table = table.ffill(axis=1).dropna(axis=1)
        if table.empty:
            continue
        chosen = sorted({round(i) for i in np.linspace(0, table.shape[1] - 1, min(_POINTS, table.shape[1]))})
        points = []
        for steps in table.columns[chosen]:
            column = table[steps]
            interval = _known(clustered_interval(column.groupby("seed").mean().to_numpy()[:, None])[0])
            points.append({"steps": int(steps), "mean": float(column.mean()), "ci": interval})
        falling = bool(verdicts.get(str(attacker), {}).get("falling", False))
        found.append({"attacker": str(attacker), "points": points, "falling": falling})
    return found


def _known(bounds: Sequence[float]) -> list[float] | None:
    low, high = float(bounds[0]), float(bounds[1])
    return [low, high] if math.isfinite(low) and math.isfinite(high) else None
