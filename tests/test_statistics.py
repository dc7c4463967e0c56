"""Statistics: numbers worked out by hand, rliable's own, and honesty about what an interval is over."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from evaluation_stubs import tally
from rliable import metrics
from scipy import stats

from mir2bench.evaluation import statistics
from mir2bench.evaluation.outcomes import Outcome, tabulate
from mir2bench.evaluation.scores import COLUMNS
from mir2bench.evaluation.statistics import (
    aggregates,
    attack_budget,
    clustered_interval,
    improvements,
    performance_profile,
    probability_of_improvement,
    runs_by_tasks,
    seeded_numpy,
    summarize,
    t_interval,
)
from mir2bench.evaluation.tables import budget_rows, interval, main_rows, notes, number

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(0.5, 0.1, (5, 10))
SPEC = tally()


def _rows(defender: str, seed: int, attacker: str, phi: str, returns: list[float], attack_seed: Any = pd.NA) -> Any:
    return [
        (SPEC.id, defender, seed, attacker, attack_seed, phi, e, r, 4, r > 0) for e, r in enumerate(returns)
    ]  # fmt: skip


def _table(*rows: Any) -> pd.DataFrame:
    return pd.DataFrame([row for part in rows for row in part], columns=list(COLUMNS)).astype(COLUMNS)


def _two_seeds() -> pd.DataFrame:
    """One defender, two seeds, two partitions; two restarts of the learned attacker and one scripted attacker."""
    return _table(
        _rows("d", 0, "none", "00", [3.0, 5.0]),
        _rows("d", 1, "none", "00", [1.0, 1.0]),
        _rows("d", 0, "learned", "10", [2.0, 2.0], 1000),
        _rows("d", 0, "learned", "10", [0.0, 2.0], 2000),
        _rows("d", 0, "learned", "01", [-1.0, -1.0], 1000),
        _rows("d", 0, "learned", "01", [0.0, 0.0], 2000),
        _rows("d", 1, "learned", "10", [-3.0, -1.0], 1001),
        _rows("d", 1, "learned", "10", [1.0, 1.0], 2001),
        _rows("d", 1, "learned", "01", [0.0, 1.0], 1001),
        _rows("d", 1, "learned", "01", [0.0, 1.0], 2001),
        _rows("d", 0, "spoil", "10", [0.0, 0.0]),
        _rows("d", 0, "spoil", "01", [4.0, 4.0]),
        _rows("d", 1, "spoil", "10", [1.0, 1.0]),
        _rows("d", 1, "spoil", "01", [0.0, 0.0]),
    )


def _outcome(**arms: np.ndarray) -> Outcome:
    """An outcome whose arms are given as (S, P) matrices; `clean` as (S, E)."""
    clean = arms.pop("clean")
    seeds = tuple(range(len(clean)))
    size = next(iter(arms.values())).shape[1] if arms else 0
    phis = tuple("0" * i + "1" + "0" * (size - 1 - i) for i in range(size))
    index = pd.MultiIndex.from_product([seeds, phis], names=["defender_seed", "phi"])
    tables = {
        name: pd.DataFrame({"attacker": name, "return": m.ravel(), "length": 4.0, "won": pd.NA}, index=index)
        for name, m in arms.items()
    }
    unknown = np.full(len(seeds), np.nan)
    return Outcome("d", seeds, phis, clean, unknown, tables, {"length": 4.0, "win_rate": math.nan}, ("learned",))


class TestTabulate:
    def test_cells_by_hand(self) -> None:
        (outcome,) = tabulate(_two_seeds(), SPEC.id, ["d"])
        assert outcome.seeds == (0, 1)
        assert outcome.phis == ("10", "01")
        assert outcome.trained == ("learned",)
        assert outcome.matrix("none").tolist() == [[4.0], [1.0]]
        assert outcome.matrix("spoil").tolist() == [[0.0, 4.0], [1.0, 0.0]]
        # The stronger restart of each cell.
        assert outcome.matrix("learned").tolist() == [[1.0, -1.0], [-2.0, 0.5]]
        assert outcome.matrix("robust").tolist() == [[1.0, -1.0], [-2.0, 0.5]]
        assert outcome.matrix("worst").tolist() == [[0.0, -1.0], [-2.0, 0.0]]
        assert outcome.arms["worst"].loc[(0, "10"), "attacker"] == "spoil"
        assert outcome.arms["worst"].loc[(1, "10"), "attacker"] == "learned"

    def test_summary_by_hand(self) -> None:
        entry = summarize(tabulate(_two_seeds(), SPEC.id, ["d"]), SPEC)["defenders"]["d"]
        arms = entry["arms"]
        assert arms["none"]["mean"] == 2.5
        assert arms["robust"]["mean"] == -0.375
        assert arms["robust"]["results"] == 4
        assert arms["worst"]["mean"] == -0.75
        # Clean minus: seed 0 loses 3 and 5, seed 1 loses 3 and 0.5.
        assert arms["robust"]["difference"]["mean"] == -(3 + 5 + 3 + 0.5) / 4
        assert arms["robust"]["difference"]["ci"] == (-4.0, -1.75)
        assert arms["none"]["win_rate"] == 1.0
        # Cells of the spoiler are won by 0, 2, 2 and 0 of 2 episodes.
        assert arms["spoil"]["win_rate"] == 0.5
        # Floor -5, ceiling 5: 2.5 -> 0.75.
        assert arms["none"]["normalized"]["mean"]["value"] == 0.75
        assert arms["none"]["normalized"]["optimality_gap"]["value"] == 0.25

    def test_cells_where_training_fell_short(self) -> None:
        entry = summarize(tabulate(_two_seeds(), SPEC.id, ["d"]), SPEC)["defenders"]["d"]
        weak = {
            (w["defender_seed"], w["phi"]): (w["robust"], w["attacker"], w["return"]) for w in entry["weak_attacks"]
        }
        assert weak == {(0, "10"): (1.0, "spoil", 0.0), (1, "01"): (0.5, "spoil", 0.0)}


def _cells(scores: pd.DataFrame, *gaps: tuple[int, str, str], state: str = "missing") -> pd.DataFrame:
    """The cells of a table of scores, and others of which there are none: (defender_seed, attacker, phi)."""
    keys = ["variant", "defender", "defender_seed", "attacker", "phi"]
    done = scores[keys].drop_duplicates().assign(state="done", reason="")
    rows = [(SPEC.id, "d", seed, attacker, phi, state, "because") for seed, attacker, phi in gaps]
    return pd.concat([done, pd.DataFrame(rows, columns=[*keys, "state", "reason"])], ignore_index=True)


def _without(scores: pd.DataFrame, *cells: tuple[int, str, str]) -> pd.DataFrame:
    index = pd.MultiIndex.from_frame(scores[["defender_seed", "attacker", "phi"]])
    return scores[~index.isin(cells)]


class TestGaps:
    """The study above after jobs failed."""

    @pytest.fixture(autouse=True)
    def _few_resamples(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Intervals have their own tests."""
        monkeypatch.setattr(statistics, "REPETITIONS", 50)

    def _arms(self, *gaps: tuple[int, str, str]) -> tuple[Outcome, dict[str, Any]]:
        scores = _without(_two_seeds(), *gaps)
        (outcome,) = tabulate(scores, SPEC.id, ["d"], headline="worst", cells=_cells(scores, *gaps))
        return outcome, summarize([outcome], SPEC)["defenders"]["d"]["arms"]

    def test_numbers_are_over_whole_seeds(self) -> None:
        outcome, arms = self._arms((0, "learned", "01"))
        assert outcome.matrix("learned").tolist() == [[-2.0, 0.5]]
        assert outcome.matrix("spoil").tolist() == [[0.0, 4.0], [1.0, 0.0]]
        # The worst of seed 0 on 01 would be the script's 4: it would flatter the team.
        assert outcome.matrix("worst").tolist() == [[-2.0, 0.0]]
        assert [(arms[a]["results"], arms[a]["planned"]) for a in ("learned", "spoil", "worst")] == [
            (2, 4),
            (4, 4),
            (2, 4),
        ]
        # Paired with the same seed's clean arm: -2 - 1 and 0 - 1.
        assert arms["worst"]["difference"]["mean"] == -2.0
        assert outcome.grid("learned").isna().to_numpy().tolist() == [[False, True], [False, False]]

    def test_without_a_whole_seed_over_whole_partitions(self) -> None:
        outcome, arms = self._arms((0, "learned", "01"), (1, "learned", "01"))
        assert outcome.matrix("robust").tolist() == [[1.0], [-2.0]]
        assert outcome.whole("robust").columns.tolist() == ["10"]
        assert (arms["robust"]["mean"], arms["robust"]["results"]) == (-0.5, 2)
        assert arms["robust"]["win_rate"] == 0.25

    def test_without_either_there_is_no_number(self) -> None:
        outcome, arms = self._arms((0, "learned", "01"), (1, "learned", "10"))
        assert outcome.matrix("robust").size == 0
        assert "robust" not in arms
        assert arms["none"]["mean"] == 2.5

    def test_a_seed_without_its_clean_arm(self) -> None:
        _, arms = self._arms((0, "none", "00"))
        assert (arms["none"]["mean"], arms["none"]["results"], arms["none"]["planned"]) == (1.0, 1, 2)
        assert arms["none"]["ci_over"] == "episodes"
        assert arms["worst"]["mean"] == -0.75
        assert arms["worst"]["difference"]["mean"] == -2.0  # of seed 1 alone

    def test_nothing_at_all(self) -> None:
        scores = _two_seeds()
        cells = _cells(scores.iloc[:0], (0, "none", "00"), (0, "learned", "10"), (0, "spoil", "10"))
        (outcome,) = tabulate(scores.iloc[:0], SPEC.id, ["d"], cells=cells)
        result = summarize([outcome], SPEC)
        assert result["defenders"]["d"]["arms"] == {}
        assert main_rows(result)[1][0][1:] == [("n/a", "")] * 5
        assert notes(result) == ["d: no number for the headline, since jobs failed."]

    def test_missing_transfers_make_an_upper_bound(self) -> None:
        scores = _table(
            _rows("d", 0, "none", "00", [3.0]),
            _rows("d", 0, "learned", "10", [2.0], 1000),
            _rows("d", 0, "learned", "01", [1.0], 1000),
            _rows("d", 0, "transfer:e/learned", "10", [0.0], 1000),
        )
        cells = _cells(scores, (0, "transfer:e/learned", "01"), (0, "transfer:f/learned", "01"))
        (outcome,) = tabulate(scores, SPEC.id, ["d"], headline="worst", cells=cells)
        assert outcome.trained == ("learned",)
        assert list(outcome.arms) == ["learned", "transfer", "robust", "worst"]
        assert outcome.matrix("robust").tolist() == [[2.0, 1.0]]
        assert outcome.matrix("worst").tolist() == [[0.0, 1.0]]
        arms = summarize([outcome], SPEC)["defenders"]["d"]["arms"]
        assert (arms["worst"]["results"], arms["worst"]["planned"], arms["worst"]["partial"]) == (2, 2, 1)
        assert (arms["transfer"]["results"], arms["transfer"]["planned"]) == (1, 2)

    def test_what_does_not_apply_is_not_missing(self) -> None:
        scores = _two_seeds()
        cells = _cells(scores, (0, "greedy", "10"), (0, "greedy", "01"), state="not applicable")
        (outcome,) = tabulate(scores, SPEC.id, ["d"], headline="worst", cells=cells)
        assert outcome.inapplicable == {"greedy": (2, "because")}
        assert "greedy" not in outcome.arms
        assert outcome.planned["worst"] == 4
        assert outcome.matrix("worst").shape == (2, 2)


class TestAttackBudget:
    """The tally world's scores span 10, so that falls of 0.1 and less are flat."""

    @staticmethod
    def _curves(falls: dict[tuple[int, str, int], float], attacker: str = "learned") -> pd.DataFrame:
        """Curves that fall from 5 to 0 within three quarters, stay, and fall once more at the end."""
        rows = [
            (seed, phi, attacker, restart, steps, value)
            for (seed, phi, restart), fall in falls.items()
            for steps, value in ((50, 5.0), (150, 0.0), (160, -fall / 2), (200, -fall))
        ]
        return pd.DataFrame(rows, columns=["seed", "phi", "attacker", "restart", "steps", "value"])

    def _rule(self, falls: dict[tuple[int, str, int], float]) -> dict[str, Any]:
        return attack_budget(self._curves(falls), SPEC)["learned"]

    def test_flat(self) -> None:
        found = self._rule({(0, "10", 0): 0.05, (0, "01", 0): 0.05, (1, "10", 0): 0.05, (1, "01", 0): 0.05})
        assert found == {
            "fall": pytest.approx(0.05),
            "standard_error": pytest.approx(0, abs=1e-12),
            "threshold": pytest.approx(0.1),
            "curves": 4,
            "falling": False,
        }

    def test_falling(self) -> None:
        # Seeds fall by 2 and 3: 2.5, with a standard error of 0.5.
        found = self._rule({(0, "10", 0): 1.0, (0, "01", 0): 3.0, (1, "10", 0): 3.0, (1, "01", 0): 3.0})
        assert (found["fall"], found["standard_error"], found["falling"]) == (2.5, 0.5, True)

    def test_within_two_standard_errors(self) -> None:
        # Seeds fall by 0 and 3: 1.5 with a standard error of 1.5.
        assert not self._rule({(0, "10", 0): 0.0, (1, "10", 0): 3.0})["falling"]

    def test_a_single_seed_is_judged_over_its_partitions(self) -> None:
        found = self._rule({(0, "10", 0): 1.0, (0, "01", 0): 2.0})
        assert (found["fall"], found["standard_error"], found["falling"]) == (1.5, 0.5, True)
        found = self._rule({(0, "10", 0): 0.2})
        assert (math.isnan(found["standard_error"]), found["falling"]) == (True, True)

    def test_restarts_are_averaged_within_their_cell(self) -> None:
        found = self._rule({(0, "10", 0): 0.0, (0, "10", 1): 4.0, (0, "01", 0): 2.0, (1, "10", 0): 2.0})
        assert (found["fall"], found["standard_error"], found["curves"]) == (2.0, 0.0, 4)

    def test_curves_that_tell_nothing(self) -> None:
        late = self._curves({(0, "10", 0): 1.0}, "late")
        curves = pd.concat([late[late["steps"] > 150], self._curves({(0, "10", 0): 1.0}, "other")])
        assert list(attack_budget(curves, SPEC)) == ["other"]
        assert attack_budget(curves.iloc[:0], SPEC) == {}

    def test_it_is_told(self) -> None:
        curves = self._curves({(0, "10", 0): 1.0}).assign(defender="d")
        outcome = _outcome(clean=np.array([[4.0, 6.0]]), robust=np.array([[1.0]]), worst=np.array([[1.0]]))
        result = summarize([outcome], SPEC, curves)
        assert result["defenders"]["d"]["attack_budget"]["learned"]["falling"] is True
        assert (
            "d: the return under `learned` still falls at the end of its budget, by 1.00 in the last quarter: a larger "
            "attack budget would lower it."
        ) in notes(result)
        assert [value for value, _ in budget_rows(result)[1][0]] == [
            "d", "learned", "1.00", "n/a", "0.10", "1", "still falls",
        ]  # fmt: skip


class TestIntervals:
    def test_paper_interval_is_students(self) -> None:
        values = np.array([[1.0, 2.0], [3.0, 6.0]])
        half = 3.182446305284263 * np.std([1, 2, 3, 6], ddof=1) / 2  # quantile of Student's t with 3 degrees of freedom
        assert t_interval(values) == pytest.approx((3 - half, 3 + half))
        assert stats.t.interval(0.95, 3, 3, stats.sem([1, 2, 3, 6])) == pytest.approx(t_interval(values))
        assert all(map(math.isnan, t_interval(np.array([1.0]))))

    def test_whole_seeds_are_resampled(self) -> None:
        # Seeds differ and partitions do not: the interval spans the seeds however many partitions there are.
        spread = np.array([[0.0] * 100, [1.0] * 100])
        assert clustered_interval(spread) == ((0.0, 1.0), "seeds")
        # Partitions differ and seeds do not: another seed would give the same mean.
        same = np.tile(np.arange(100.0), (2, 1))
        assert clustered_interval(same) == ((49.5, 49.5), "seeds")

    def test_coverage_of_a_known_mean(self) -> None:
        rng = np.random.default_rng(1)
        hits = 0
        for _ in range(100):
            (low, high), _ = clustered_interval(rng.normal(3.0, 1.0, (30, 1)))
            hits += low <= 3.0 <= high
        assert 85 <= hits <= 100

    def test_a_single_seed_says_what_it_speaks_of(self) -> None:
        assert clustered_interval(np.array([[1.0, 2.0, 3.0]]))[1] == "partitions"
        assert clustered_interval(np.array([[2.0]]), np.array([1.0, 3.0]))[1] == "episodes"
        bounds, over = clustered_interval(np.array([[2.0]]))
        assert over == "nothing"
        assert all(map(math.isnan, bounds))


class TestRliable:
    def test_point_estimates_are_rliables(self) -> None:
        found = aggregates(MATRIX)
        assert found["iqm"]["value"] == pytest.approx(metrics.aggregate_iqm(MATRIX), rel=1e-12)
        assert found["median"]["value"] == pytest.approx(metrics.aggregate_median(MATRIX), rel=1e-12)
        assert found["mean"]["value"] == pytest.approx(metrics.aggregate_mean(MATRIX), rel=1e-12)
        assert found["optimality_gap"]["value"] == pytest.approx(metrics.aggregate_optimality_gap(MATRIX), rel=1e-12)

    def test_iqm_by_hand(self) -> None:
        # Of 8 scores the middle four are 2, 3, 4 and 5.
        found = aggregates(np.array([[0.0, 1, 2, 3], [4, 5, 6, 700]]))
        assert found["iqm"]["value"] == 3.5
        assert found["ci_over"] == "seeds"

    def test_intervals_are_the_same_each_time_and_leave_the_global_generator_alone(self) -> None:
        before = np.random.get_state()
        first = aggregates(MATRIX)
        after = np.random.get_state()
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
        np.random.seed(5)
        try:
            assert aggregates(MATRIX) == first
        finally:
            np.random.set_state(before)
        low, high = first["iqm"]["ci"]
        assert low < first["iqm"]["value"] < high

    def test_seeding_is_undone_even_after_an_error(self) -> None:
        before = np.random.get_state()[1].copy()
        with pytest.raises(KeyError), seeded_numpy(3):
            drawn = np.random.random()
            raise KeyError
        assert drawn == np.random.RandomState(3).random()
        assert np.array_equal(np.random.get_state()[1], before)

    def test_whole_seeds_give_wider_intervals_where_seeds_differ(self) -> None:
        matrix = np.repeat(np.linspace(0, 1, 5)[:, None], 10, axis=1)
        found = aggregates(matrix)["mean"]
        assert found["ci"][1] - found["ci"][0] < 0.5 * (found["ci_clustered"][1] - found["ci_clustered"][0])

    def test_runs_axis(self) -> None:
        assert runs_by_tasks(MATRIX)[0].shape == (5, 10)
        matrix, over = runs_by_tasks(MATRIX[:1])
        assert matrix.shape == (10, 1)
        assert over == "partitions"

    def test_a_single_seed(self) -> None:
        attacked = aggregates(MATRIX[:1])
        assert attacked["ci_over"] == "partitions"
        assert attacked["iqm"]["ci"][0] < attacked["iqm"]["ci"][1]
        clean = aggregates(MATRIX[:1, :1], clean=True)
        assert clean["ci_over"] == "nothing"
        assert all(map(math.isnan, clean["mean"]["ci"]))

    def test_probability_of_improvement_is_rliables(self) -> None:
        x, y = np.round(RNG.random((5, 7)), 1), np.round(RNG.random((4, 7)), 1)
        assert (x[:, None] == y[None]).any()
        assert probability_of_improvement(x, y) == pytest.approx(metrics.probability_of_improvement(x, y))

    def test_profile_by_hand(self) -> None:
        share, low, high = performance_profile(
            {"d": np.array([[0.0, 0.5], [0.5, 1.0]])}, np.array([-1.0, 0.25, 0.5, 1.0])
        )["d"]
        assert share.tolist() == [1.0, 0.75, 0.25, 0.0]
        assert (low <= share).all()
        assert (share <= high).all()


class TestImprovements:
    @staticmethod
    def _pair(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
        (found,) = improvements([_outcome(clean=m[:, :1], robust=m, worst=m) for m in (x, y)])
        return found

    def test_better_in_every_run(self) -> None:
        found = self._pair(MATRIX + 10, MATRIX)
        assert (found["probability"], found["ci_clustered"], found["verdict"]) == (1.0, (1.0, 1.0), "difference")
        assert found["ci_over"] == "seeds"

    def test_equal_is_a_tie(self) -> None:
        found = self._pair(MATRIX, MATRIX)
        assert found["probability"] == 0.5
        assert found["verdict"] == "tie"

    def test_a_tie_is_judged_over_whole_seeds(self) -> None:
        # Each seed has one level on all partitions: 5 runs a side, not 50.
        x = np.repeat(np.array([[1.0], [2], [3], [4], [5]]), 10, axis=1)
        y = np.repeat(np.array([[0.5], [1.5], [2.5], [3.5], [6]]), 10, axis=1)
        found = self._pair(x, y)
        assert found["probability"] == 0.56
        assert found["verdict"] == "tie"
        assert found["ci"][1] - found["ci"][0] < found["ci_clustered"][1] - found["ci_clustered"][0]

    def test_against_a_single_seed_partitions_are_compared(self) -> None:
        found = self._pair(MATRIX, MATRIX[:1])
        assert found["ci_over"] == "partitions"
        assert found["probability"] == probability_of_improvement(MATRIX.reshape(-1, 1), MATRIX[:1].T)

    @staticmethod
    def _with_script(x: np.ndarray, y: np.ndarray, x_scripted: bool = False) -> dict[str, Any]:
        """Compare x with the scripted team y, a single run."""
        outcomes = [_outcome(clean=m[:, :1], robust=m, worst=m) for m in (x, y)]
        flags = (x_scripted, True)
        (found,) = improvements([dataclasses.replace(o, scripted=f) for o, f in zip(outcomes, flags, strict=True)])
        return found

    def test_a_scripted_team_is_one_team(self) -> None:
        script = np.array([[2.0, 3.0]])
        seeds = np.array([[1.0, 4.0], [1.0, 4.0], [1.0, 2.0], [1.0, 2.0]])
        found = self._with_script(seeds, script)
        # On the first partition none of 4 seeds is better, on the second 2.
        assert (found["probability"], found["ci_over"]) == (0.25, "seeds")
        assert found["ci_clustered"] == (0.0, 0.5)
        # Their means are 2.5, 2.5, 1.5 and 1.5, half a point from 2.5 on average; Student's interval is (-1.4, 0.4).
        assert found["verdict"] == "tie"
        assert self._with_script(seeds - 1, script)["verdict"] == "difference"
        assert self._with_script(seeds[:3] - 1, script)["verdict"] == "too few seeds"
        assert self._with_script(seeds[:1], script)["ci_over"] == "partitions"

    def test_two_scripted_teams_are_fixed(self) -> None:
        found = self._with_script(np.array([[2.0, 3.0]]), np.array([[1.0, 4.0]]), x_scripted=True)
        assert (found["probability"], found["ci_over"], found["verdict"]) == (0.5, "partitions", "fixed teams")

    def test_only_shared_partitions_are_compared(self) -> None:
        x, y = (_outcome(clean=MATRIX[:, :1], robust=m, worst=m) for m in (MATRIX + 10, MATRIX))
        gap = x.arms["robust"].index[x.arms["robust"].index.get_level_values("phi") == x.phis[0]]
        x.arms["robust"].loc[gap, "return"] = np.nan
        y.arms["robust"].loc[[(s, y.phis[0]) for s in y.seeds], "return"] = 1e9
        (found,) = improvements([x, y])
        assert found["probability"] == 1.0

    def test_nothing_can_be_said_of_two_numbers(self) -> None:
        found = self._pair(np.array([[2.0]]), np.array([[1.0]]))
        assert found["probability"] == 1.0
        assert found["ci_over"] == "nothing"
        assert found["verdict"] == "too few seeds"

    def test_three_seeds_tell_nothing_however_far_apart(self) -> None:
        assert self._pair(MATRIX[:3] + 10, MATRIX)["verdict"] == "too few seeds"
        assert self._pair(MATRIX[:4] + 10, MATRIX)["verdict"] == "difference"


class TestWording:
    def test_numbers(self) -> None:
        assert [number(v) for v in (-17.238, 123.456, 4567.8, None, math.nan)] == [
            "-17.24",
            "123.5",
            "4568",
            "n/a",
            "n/a",
        ]
        assert interval((-18.13, -16.5)) == "[-18.1, -16.5]"
        assert interval((0.4567, 0.5), 2) == "[0.46, 0.50]"
        assert interval((math.nan, 1.0)) == ""

    def test_a_single_seed_and_weak_attacks_are_told(self) -> None:
        matrix = np.array([[1.0, 2.0, 3.0]])
        outcome = _outcome(
            clean=np.array([[4.0, 6.0]]), robust=matrix, spoil=matrix - [[0, 1, 0]], worst=matrix - [[0, 1, 0]]
        )
        outcome.arms["worst"]["attacker"] = "spoil"
        result = summarize([outcome], SPEC)
        told = notes(result)
        assert told == [
            "d: a single training seed, so its intervals (clean over episodes, attacked over partitions) say nothing "
            "about another training run.",
            "d: the learned attacker is weaker than an untrained one (spoil) in 1 of 3 cells, by up to 1.00: read "
            "the worst attacker, and raise the attack budget.",
        ]
        assert notes(summarize([dataclasses.replace(outcome, scripted=True)], SPEC)) == told[1:]
        judged_by_worst = notes(summarize([dataclasses.replace(outcome, headline="worst")], SPEC))
        assert judged_by_worst[1] == (
            "d: no attacker trained against it is as strong as another (spoil) in 1 of 3 cells, by up to 1.00."
        )
        header, rows = main_rows(result)
        assert [h for h in header if h not in ("defender", "normalized IQM")] == [
            "clean",
            "robust (learned)",
            "worst attacker",
            "change by attack",
        ]
        assert [value for value, _ in rows[0][:5]] == ["d", "5.00", "2.00", "1.67", "-3.00"]
        assert rows[0][0][1] == "1 seed"
        result["defenders"]["d"]["arms"]["robust"]["planned"] = 4
        assert main_rows(result)[1][0][2][0] == "2.00 (3/4)"
