"""From episodes to numbers with honest intervals.

A cell is one (defender seed, partition); its value is the mean return of its episodes. The runs axis of every matrix is
the training seeds and the tasks axis the partitions; episodes only average out inside a cell. Where there is a single
seed, an interval can only speak of the partitions (or, in the clean arm, of the episodes) and says so in `ci_over`.

rliable resamples the seeds of each partition on their own, as if a seed's teams in two partitions were different ones.
They are the same team, so its intervals come out too narrow here. They are given because the field reads them; beside
each stands one that resamples whole seeds (`ci_clustered`), and that one decides what is called a tie.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mir2bench.evaluation.protocol import CLEAN
from mir2bench.evaluation.scores import select
from mir2bench.registration import VariantSpec

CONFIDENCE = 0.95
REPETITIONS = 2_000  # bootstrap resamples per interval
ROBUST, WORST = "robust", "worst"
_SEED = 20_240_117  # of every bootstrap
_MEASURES = ("iqm", "median", "mean", "optimality_gap")
_SEEDS_TO_TELL = 4  # with 3 a side, equal defenders are wholly apart in 1 of 10 studies; with 4, in 1 of 35
_CELL = ["defender_seed", "phi"]


@dataclass(frozen=True)
class Outcome:
    """What one defender earned on one variant.

    Attributes:
        defender: its name.
        seeds: S training seeds, ascending.
        phis: P partitions, as texts of zeros and ones; empty for plain Dec-POMDPs.
        clean: (S, E) returns of the clean episodes.
        arms: name -> table with one row per cell, indexed by (defender_seed, phi), columns attacker, return, length,
            won. There is an arm for each attacker, "robust" (the strongest of the trained attackers in each cell) and
            "worst" (the strongest of all).
        clean_facts: mean length and win rate of the clean episodes.
        trained: names of the trained attackers.
    """

    defender: str
    seeds: tuple[int, ...]
    phis: tuple[str, ...]
    clean: np.ndarray
    arms: dict[str, pd.DataFrame]
    clean_facts: dict[str, float]
    trained: tuple[str, ...]

    def matrix(self, arm: str) -> np.ndarray:
        """Return the mean returns of an arm: (S, P), or (S, 1) for the clean one."""
        if arm == CLEAN:
            return self.clean.mean(axis=1, keepdims=True)
        table = self.arms[arm]["return"].unstack("phi")
        return table.loc[list(self.seeds), list(self.phis)].to_numpy(dtype=np.float64)

    @property
    def headline(self) -> str:
        """The arm that robustness is judged by: "robust", or the clean one where nobody is adversarial."""
        return ROBUST if ROBUST in self.arms else WORST if WORST in self.arms else CLEAN


def tabulate(scores: pd.DataFrame, variant: str, defenders: Sequence[str]) -> list[Outcome]:
    """Gather the table of episodes into one `Outcome` for each of `defenders`, in their order."""
    return [_outcome(name, select(scores, variant=variant, defender=name)) for name in defenders]


def _outcome(defender: str, rows: Any) -> Outcome:
    clean_rows = rows[rows["attacker"] == CLEAN]
    clean = clean_rows.pivot(index="defender_seed", columns="episode", values="return").sort_index()
    attacked = rows[rows["attacker"] != CLEAN].copy()
    attacked["won"] = attacked["won"].astype("Float64")
    trained_rows = attacked["attacker_seed"].notna()
    attacked["attacker_seed"] = attacked["attacker_seed"].fillna(-1)
    cells = attacked.groupby([*_CELL, "attacker", "attacker_seed"])[["return", "length", "won"]].mean().reset_index()
    trained = tuple(sorted(attacked.loc[trained_rows, "attacker"].unique()))

    def strongest(part: Any) -> pd.DataFrame:
        return part.sort_values("return", kind="stable").groupby(_CELL).first()

    arms = {str(name): strongest(part) for name, part in cells.groupby("attacker")}
    if trained:
        arms[ROBUST] = strongest(cells[cells["attacker"].isin(trained)])
    if arms:
        arms[WORST] = strongest(cells)
    return Outcome(
        defender=defender,
        seeds=tuple(int(s) for s in clean.index),
        phis=tuple(sorted(cells["phi"].unique(), reverse=True)),  # first agent first
        clean=clean.to_numpy(dtype=np.float64),
        arms=arms,
        clean_facts=_facts(clean_rows),
        trained=trained,
    )


def summarize(outcomes: Sequence[Outcome], spec: VariantSpec) -> dict[str, Any]:
    """Return all aggregates of one variant as plain data; NaN stands for "cannot be known from these runs"."""
    return {
        "variant": spec.id,
        "floor": spec.floor.score,
        "ceiling": spec.ceiling.score,
        "defenders": {o.defender: _summarize_defender(o, spec) for o in outcomes},
        "improvement": improvements(outcomes),
    }


def _summarize_defender(outcome: Outcome, spec: VariantSpec) -> dict[str, Any]:
    arms = {CLEAN: _summarize_arm(outcome, CLEAN, spec)}
    arms |= {name: _summarize_arm(outcome, name, spec) for name in outcome.arms}
    return {
        "seeds": list(outcome.seeds),
        "partitions": list(outcome.phis),
        "headline": outcome.headline,
        "arms": arms,
        "weak_attacks": weak_attacks(outcome),
    }


def _summarize_arm(outcome: Outcome, arm: str, spec: VariantSpec) -> dict[str, Any]:
    matrix = outcome.matrix(arm)
    interval, over = clustered_interval(matrix, outcome.clean[0] if arm == CLEAN else None)
    facts = outcome.clean_facts if arm == CLEAN else _facts(outcome.arms[arm])
    summary: dict[str, Any] = {
        "results": matrix.size,
        "mean": float(matrix.mean()),
        "ci": interval,
        "ci_over": over,
        "ci_independent": t_interval(matrix),
        **facts,
    }
    if arm in (CLEAN, ROBUST, WORST):
        summary["normalized"] = aggregates(spec.normalize(matrix), arm == CLEAN)
    if arm != CLEAN:
        difference = matrix - outcome.matrix(CLEAN)
        summary["difference"] = {"mean": float(difference.mean()), "ci": clustered_interval(difference)[0]}
    return summary


def _facts(table: Any) -> dict[str, float]:
    won = table["won"].astype("Float64").dropna()
    return {
        "length": float(table["length"].mean()),
        "win_rate": float(won.mean()) if len(won) else float("nan"),
    }


def weak_attacks(outcome: Outcome) -> list[dict[str, Any]]:
    """Return the cells in which an untrained attacker beat every trained one: there the training fell short."""
    if ROBUST not in outcome.arms:
        return []
    robust, worst = outcome.arms[ROBUST], outcome.arms[WORST]
    return [
        {
            "defender_seed": int(seed),
            "phi": str(phi),
            "robust": float(robust.at[(seed, phi), "return"]),
            "attacker": str(worst.at[(seed, phi), "attacker"]),
            "return": float(worst.at[(seed, phi), "return"]),
        }
        for seed, phi in robust.index
        if worst.at[(seed, phi), "return"] < robust.at[(seed, phi), "return"]
    ]


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
    either side it is "too few seeds".
    """
    from rliable import library

    def measure(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return probability_of_improvement(p, q)[..., None]

    found = []
    for x, y in itertools.combinations(outcomes, 2):
        a, b = x.matrix(x.headline), y.matrix(y.headline)
        over = "seeds"
        if min(len(a), len(b)) < 2:
            a, b, over = a.reshape(-1, 1), b.reshape(-1, 1), "partitions"
        interval = clustered = np.full((2, 1), np.nan)
        if min(len(a), len(b)) < 2:
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
                "verdict": _verdict(clustered[:, 0], min(len(x.seeds), len(y.seeds))),
            }
        )
    return found


def _verdict(bounds: np.ndarray, seeds: int) -> str:
    if seeds < _SEEDS_TO_TELL:
        return "too few seeds"
    return "difference" if bounds[0] > 0.5 or bounds[1] < 0.5 else "tie"


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
