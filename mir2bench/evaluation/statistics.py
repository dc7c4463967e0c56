"""From episodes to numbers with honest intervals.

The runs axis of every matrix is the training seeds and the tasks axis the partitions; episodes only average out inside
a cell. Where there is a single seed, an interval can only speak of the partitions (or, in the clean arm, of the
episodes) and says so in `ci_over`.

rliable resamples the seeds of each partition on their own, as if a seed's teams in two partitions were different ones.
They are the same team, so its intervals come out too narrow here where a good seed is good in all partitions, and may
come out too wide where it is bad in others. They are given because the field reads them; beside each stands one that
resamples whole seeds (`ci_clustered`), and that one decides what is called a tie.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mir2bench.evaluation.outcomes import Outcome, weak_attacks
from mir2bench.evaluation.protocol import CLEAN, ROBUST, WORST
from mir2bench.evaluation.scores import select
from mir2bench.registration import VariantSpec

CONFIDENCE = 0.95
REPETITIONS = 2_000  # bootstrap resamples per interval
_SEED = 20_240_117  # of every bootstrap
_MEASURES = ("iqm", "median", "mean", "optimality_gap")
_SEEDS_TO_TELL = 4  # with 3 a side, equal defenders are wholly apart in 1 of 10 studies; with 4, in 1 of 35
_FALL_PART, _FALL_SHARE = 0.25, 0.01  # last part of an attack's steps; of the score range


def summarize(
    outcomes: Sequence[Outcome], spec: VariantSpec, attack_curves: pd.DataFrame | None = None
) -> dict[str, Any]:
    """Return all aggregates of one variant as plain data; NaN stands for "cannot be known from these runs".

    Args:
        outcomes: one per defender.
        spec: the variant.
        attack_curves: see `attack_budget`.
    """
    defenders = {o.defender: _summarize_defender(o, spec) for o in outcomes}
    if attack_curves is not None:
        for name, entry in defenders.items():
            entry["attack_budget"] = attack_budget(select(attack_curves, defender=name), spec)
    return {
        "variant": spec.id,
        "floor": spec.floor.score,
        "ceiling": spec.ceiling.score,
        "defenders": defenders,
        "improvement": improvements(outcomes),
    }


def _summarize_defender(outcome: Outcome, spec: VariantSpec) -> dict[str, Any]:
    return {
        "seeds": list(outcome.seeds),
        "partitions": list(outcome.phis),
        "scripted": outcome.scripted,
        "headline": outcome.headline,
        "arms": {a: _summarize_arm(outcome, a, spec) for a in (CLEAN, *outcome.arms) if outcome.matrix(a).size},
        "weak_attacks": weak_attacks(outcome),
        "not_applicable": {
            name: {"cells": count, "reason": reason} for name, (count, reason) in outcome.inapplicable.items()
        },
    }


def _summarize_arm(outcome: Outcome, arm: str, spec: VariantSpec) -> dict[str, Any]:
    whole = outcome.whole(arm)
    matrix = whole.to_numpy(dtype=np.float64)
    one_seed = arm == CLEAN and len(whole) == 1
    interval, over = clustered_interval(
        matrix, outcome.clean[outcome.seeds.index(whole.index[0])] if one_seed else None
    )
    summary: dict[str, Any] = {
        "results": matrix.size,
        "planned": outcome.planned.get(arm, matrix.size),
        "partial": outcome.partial.get(arm, 0),
        "mean": float(matrix.mean()),
        "ci": interval,
        "ci_over": over,
        "ci_independent": t_interval(matrix),
        **outcome.facts(arm),
    }
    if math.isfinite(summary["win_rate"]):
        summary["win_rate_ci"] = clustered_interval(outcome.wins(arm))[0]
    if arm in (CLEAN, ROBUST, WORST):
        summary["normalized"] = aggregates(spec.normalize(matrix), arm == CLEAN)
    clean = outcome.whole(CLEAN)
    shared = [seed for seed in whole.index if seed in clean.index]
    if arm != CLEAN and shared:
        difference = whole.loc[shared].to_numpy(dtype=np.float64) - clean.loc[shared].to_numpy(dtype=np.float64)
        summary["difference"] = {"mean": float(difference.mean()), "ci": clustered_interval(difference)[0]}
    return summary


def attack_budget(curves: pd.DataFrame, spec: VariantSpec) -> dict[str, Any]:
    """Tell for each trained attacker of one defender whether its returns still fall at the end of its budget.

    The rule reads the "attacked_return" that each attack reports: the team's return, on episodes of the attack's own,
    under the strongest policy found so far, over all its starts. A curve's fall is its last value within three quarters
    of its steps minus its last value. Falls are averaged over the restarts of a cell, then over cells. The curves of an
    attacker are called falling when this mean exceeds both 1% of the score range, from floor to ceiling, and two
    standard errors, over training seeds, or over partitions where there is one seed. With a single curve there is no
    standard error, and the first condition alone decides.

    Args:
        curves: columns seed, phi, attacker, restart, steps, value.
        spec: the variant.

    Returns:
        Attacker -> "fall", "standard_error" (NaN for a single curve) and "threshold" in units of return, "curves" (how
        many were read; those without a value in their first three quarters tell nothing) and "falling".
    """
    threshold = _FALL_SHARE * (spec.ceiling.score - spec.floor.score)
    found: dict[str, Any] = {}
    for attacker, of_attacker in curves.groupby("attacker"):
        falls = {}
        for cell, curve in of_attacker.groupby(["seed", "phi", "restart"]):
            steps, values = curve.sort_values("steps")[["steps", "value"]].to_numpy(dtype=np.float64).T
            before = values[steps <= (1 - _FALL_PART) * steps[-1]]
            if before.size:
                falls[cell] = before[-1] - values[-1]
        if not falls:
            continue
        cells = pd.Series(falls).groupby(level=[0, 1]).mean()
        seeds = cells.groupby(level=0).mean()
        units = (seeds if len(seeds) > 1 else cells).to_numpy(dtype=np.float64)
        error = float(units.std(ddof=1) / np.sqrt(len(units))) if len(units) > 1 else float("nan")
        fall = float(units.mean())
        found[str(attacker)] = {
            "fall": fall,
            "standard_error": error,
            "threshold": threshold,
            "curves": len(falls),
            "falling": fall > threshold and not fall <= 2 * error,
        }
    return found


def t_interval(values: np.ndarray) -> tuple[float, float]:
    """Return Student's 95% interval of the mean as if all results were independent, as the paper does.

    NaN for fewer than two results.
    """
    from scipy import stats

    flat = np.asarray(values, dtype=np.float64).ravel()
    if flat.size < 2:
        return (float("nan"), float("nan"))
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, flat.size - 1) * flat.std(ddof=1) / np.sqrt(flat.size)
    return (float(flat.mean() - half), float(flat.mean() + half))


def clustered_interval(matrix: np.ndarray, episodes: np.ndarray | None = None) -> tuple[tuple[float, float], str]:
    """Return a bootstrap interval of the mean that resamples whole training seeds, and what it is over.

    All partitions of a seed share its team, so they rise and fall together.

    Args:
        matrix: (S, P) mean returns.
        episodes: (E,) returns behind a (1, 1) matrix.

    Returns:
        The 95% percentile interval, and "seeds"; with one seed "partitions" or "episodes"; "nothing" with NaN bounds
        if there is only one result.
    """
    if matrix.shape[0] > 1:
        units, over = matrix.mean(axis=1), "seeds"
    elif matrix.shape[1] > 1:
        units, over = matrix[0], "partitions"
    elif episodes is not None and episodes.size > 1:
        units, over = episodes, "episodes"
    else:
        return (float("nan"), float("nan")), "nothing"
    return _pair(_resample_runs(lambda runs: runs.mean(axis=-2), units[:, None])[:, 0]), over


def _resample_runs(measure: Callable[..., np.ndarray], *matrices: np.ndarray) -> np.ndarray:
    """Return (2, M) percentile bounds of a measure when whole rows of each matrix are resampled.

    Args:
        measure: maps stacks (..., S, P), one per matrix, to (..., M).
        matrices: (S, P) each; S may differ.
    """
    rng = np.random.default_rng(_SEED)
    stacks = [matrix[rng.integers(len(matrix), size=(REPETITIONS, len(matrix)))] for matrix in matrices]
    tail = 50 * (1 - CONFIDENCE)
    return np.percentile(measure(*stacks), [tail, 100 - tail], axis=0)


@contextlib.contextmanager
def seeded_numpy(seed: int = _SEED) -> Iterator[None]:
    """Seed numpy's global generator inside and put its state back afterwards.

    rliable accepts a `random_state` but draws from the global generator all the same.
    """
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def runs_by_tasks(matrix: np.ndarray) -> tuple[np.ndarray, str]:
    """Return the matrix whose first axis rliable resamples, and what that axis is.

    Training seeds; with a single seed its partitions, since resampling one run would feign certainty.
    """
    return (matrix, "seeds") if matrix.shape[0] > 1 else (matrix.T, "partitions")


def aggregates(normalized: np.ndarray, clean: bool = False) -> dict[str, Any]:
    """Return rliable's IQM, median, mean and optimality gap with stratified-bootstrap 95% intervals.

    Args:
        normalized: (S, P) scores on the scale on which the floor is 0 and the ceiling 1.
        clean: whether this is the clean arm, whose single task cannot stand in for missing seeds.

    Returns:
        {"iqm": {"value", "ci", "ci_clustered"}, "median": ..., "mean": ..., "optimality_gap": ..., "ci_over": ...}.
    """
    from rliable import library

    matrix, over = (normalized, "seeds") if clean else runs_by_tasks(normalized)
    if matrix.shape[0] < 2:
        intervals = clustered = np.full((2, len(_MEASURES)), np.nan)
        over = "nothing"
    else:
        with seeded_numpy():
            _, found = library.get_interval_estimates({"": matrix}, _measures, reps=REPETITIONS)
        intervals, clustered = found[""], _resample_runs(_measures, matrix)
    values = _measures(matrix)
    summary: dict[str, Any] = {
        name: {"value": float(values[i]), "ci": _pair(intervals[:, i]), "ci_clustered": _pair(clustered[:, i])}
        for i, name in enumerate(_MEASURES)
    }
    return {**summary, "ci_over": over}


def _measures(scores: np.ndarray) -> np.ndarray:
    """Return rliable's four aggregates of stacks of score matrices, (..., S, P) -> (..., 4).

    The same numbers as rliable's functions give, for all bootstrap resamples in one call.
    """
    flat = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = flat.shape[-1] // 4
    tasks = scores.mean(axis=-2)
    gap = 1 - np.minimum(flat, 1).mean(axis=-1)
    iqm = flat[..., cut : flat.shape[-1] - cut].mean(axis=-1)
    return np.stack([iqm, np.median(tasks, axis=-1), tasks.mean(axis=-1), gap], axis=-1)


def _pair(bounds: np.ndarray) -> tuple[float, float]:
    return (float(bounds[0]), float(bounds[1]))


def improvements(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return rliable's probability that X's score beats Y's, in the headline arm, for each pair of defenders.

    The verdict is "tie" when the interval over whole seeds holds 1/2, else "difference"; with fewer than 4 seeds on
    either side it is "too few seeds". A scripted team is one team whatever the seed, so that only the other side's
    seeds count, and against a fixed team ranks alone would need 6 of them: there the verdict is "difference" when
    Student's 95% interval of the mean difference over seeds leaves out 0. Two scripted teams have none: "fixed teams".
    Pairs without a partition in common are left out.
    """
    from rliable import library

    def measure(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return probability_of_improvement(p, q)[..., None]

    found = []
    for x, y in itertools.combinations(outcomes, 2):
        a, b = x.whole(x.headline), y.whole(y.headline)
        phis = [phi for phi in a.columns if phi in b.columns]
        a, b = (side[phis].to_numpy(dtype=np.float64) for side in (a, b))
        if not a.size or not b.size:
            continue
        verdict_of = _verdict_against_fixed if x.scripted != y.scripted else _verdict
        seeds = [len(side) for side, o in ((a, x), (b, y)) if not o.scripted]
        pair = (b, a) if y.scripted else (a, b)
        over = "seeds"
        if min(seeds, default=1) < 2:
            a, b, over = a.reshape(-1, 1), b.reshape(-1, 1), "partitions"
        interval = clustered = np.full((2, 1), np.nan)
        if max(len(a), len(b)) < 2 or (over == "partitions" and min(len(a), len(b)) < 2):
            over = "nothing"
        else:
            with seeded_numpy():
                _, intervals = library.get_interval_estimates({"": [a, b]}, measure, reps=REPETITIONS)
            interval, clustered = intervals[""], _resample_runs(measure, a, b)
        found.append(
            {
                "x": x.defender,
                "y": y.defender,
                "probability": float(probability_of_improvement(a, b)),
                "ci": _pair(interval[:, 0]),
                "ci_clustered": _pair(clustered[:, 0]),
                "ci_over": over,
                "verdict": verdict_of(clustered[:, 0], *pair) if seeds else "fixed teams",
            }
        )
    return found


def _verdict(bounds: np.ndarray, x: np.ndarray, y: np.ndarray) -> str:
    if min(len(x), len(y)) < _SEEDS_TO_TELL:
        return "too few seeds"
    return "difference" if bounds[0] > 0.5 or bounds[1] < 0.5 else "tie"


def _verdict_against_fixed(bounds: np.ndarray, fixed: np.ndarray, other: np.ndarray) -> str:
    if len(other) < _SEEDS_TO_TELL:
        return "too few seeds"
    low, high = t_interval(other.mean(axis=1) - fixed.mean())
    return "tie" if low <= 0 <= high else "difference"


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return P(X > Y) averaged over tasks, ties counting one half.

    The same number as rliable's (a Mann-Whitney U per task), for all bootstrap resamples in one call.

    Args:
        x: (..., S_x, P) scores.
        y: (..., S_y, P) scores.
    """
    mine, theirs = x[..., :, None, :], y[..., None, :, :]
    return (mine > theirs).mean(axis=(-3, -2, -1)) + 0.5 * (mine == theirs).mean(axis=(-3, -2, -1))


def performance_profile(matrices: Mapping[str, np.ndarray], thresholds: np.ndarray) -> dict[str, np.ndarray]:
    """Return rliable's performance profiles: the share of runs that score above each threshold.

    Args:
        matrices: defender -> (S, P) normalized scores.
        thresholds: (T,).

    Returns:
        defender -> (3, T): the profile and its pointwise 95% interval, lower and upper.
    """
    from rliable import library

    def profile(scores: np.ndarray, taus: np.ndarray) -> np.ndarray:
        return (scores.reshape(-1, 1) > taus).mean(axis=0)

    arranged = {name: runs_by_tasks(matrix)[0] for name, matrix in matrices.items()}
    with seeded_numpy():
        profiles, intervals = library.create_performance_profile(
            arranged, thresholds, custom_profile_func=profile, reps=REPETITIONS
        )
    return {name: np.vstack([profiles[name], intervals[name]]) for name in matrices}
