"""Whole studies with stub algorithms: results, failures, resumption, determinism, the report."""

from __future__ import annotations

import dataclasses
import html
import io
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from evaluation_stubs import (
    ATTACKER,
    BUDGET,
    DEFENDER,
    PROTOCOL,
    SECOND_ATTACKER,
    SUITE,
    WHITE_BOX,
    StubAttacker,
    StubDefender,
    tally,
)
from rich.console import Console

import mir2bench
from mir2bench import evaluate
from mir2bench.cli import run
from mir2bench.errors import ConfigError, StudyError
from mir2bench.evaluation import protocol as protocol_module
from mir2bench.evaluation import statistics
from mir2bench.evaluation import study as study_module
from mir2bench.evaluation.executor import Failure
from mir2bench.evaluation.monitor import Clock, Monitor, duration
from mir2bench.evaluation.scores import COLUMNS
from mir2bench.evaluation.study import Study
from mir2bench.evaluation.tables import attacker_rows, main_rows
from mir2bench.evaluation.work import Recorder
from mir2bench.learning.progress import Progress

VARIANT = tally().id
BOTH = (ATTACKER, SECOND_ATTACKER)


@pytest.fixture(autouse=True)
def _tally(fresh_registry: None) -> None:
    mir2bench.register(tally())
    mir2bench.register(tally(0))


def _study(algorithms: tuple[str, ...] = (DEFENDER, "scripted:half"), **options: Any) -> Study:
    return Study.resolve(algorithms, **{"variants": [VARIANT], "budget": BUDGET, "protocol": PROTOCOL, **options})


def _run(study: Study, out: Path, **options: Any) -> tuple[dict[str, Any], str]:
    text = io.StringIO()
    summary = study.run(out, console=Console(file=text, width=300), **{"workers": 1, **options})
    return summary, text.getvalue()


@pytest.fixture(scope="module", autouse=True)
def _few_resamples() -> Iterator[None]:
    """Statistics have their own tests; here they need only be there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "REPETITIONS", 50)
        yield


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures out where a test looks at scores only."""
    monkeypatch.setattr(study_module, "write_report", lambda *_: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """One finished study, made once."""
    mir2bench.register(tally())
    out = tmp_path_factory.mktemp("finished") / "study"
    return out, *_run(_study(), out, command="python -m mir2bench.evaluate --algo <stub>")


Finished = tuple[Path, dict[str, Any], str]


class TestResults:
    def test_a_row_per_episode(self, finished: Finished) -> None:
        scores = pd.read_parquet(finished[0] / "scores.parquet")
        assert list(scores.columns) == list(COLUMNS)
        # 2 seeds x 9 cells (1 clean, 2 partitions x 4 attackers) and 1 scripted team x 9, 4 episodes each.
        assert len(scores) == (2 + 1) * 9 * 4
        assert set(scores["attacker"]) == {"none", ATTACKER, "idle", "random", "spoil"}
        assert set(scores["phi"]) == {"00", "10", "01"}
        assert (scores["attacker_seed"].notna() == (scores["attacker"] == ATTACKER)).all()
        assert (scores["won"] == (scores["length"] == 5)).all()

    def test_scripted_rows_by_hand(self, finished: Finished) -> None:
        scores = pd.read_parquet(finished[0] / "scores.parquet")
        rows = scores[scores["defender"] == "scripted:half"].set_index(["attacker", "phi", "episode"]).sort_index()
        lengths = rows.loc[("none", "00"), "length"]
        np.testing.assert_allclose(rows.loc[("none", "00"), "return"], 0.5 * lengths)
        for phi in ("10", "01"):
            np.testing.assert_allclose(rows.loc[("spoil", phi), "return"], -0.25 * lengths)
            np.testing.assert_allclose(rows.loc[("idle", phi), "return"], 0.25 * lengths)

    def test_summary(self, finished: Finished) -> None:
        out, summary, _ = finished
        assert json.loads((out / "summary.json").read_text()) == summary
        assert summary["study"]["budget"]["name"] == "stub"
        assert summary["study"]["contenders"][0]["config"] == {"gain": 1.0, "trouble": ""}
        assert summary["versions"]["numpy"] == np.__version__
        assert summary["hardware"]["cores"] >= 1
        assert summary["time"]["jobs_cpu_s"] > 0
        assert [b["seed"] for b in summary["bundles"]] == [0, 1]
        for bundle in summary["bundles"]:
            policy = mir2bench.load_policy(out / bundle["path"])
            assert policy.initial_carry(3) is None
        half = summary["results"][0]["defenders"]["scripted:half"]
        assert half["arms"]["worst"]["mean"] == half["arms"]["spoil"]["mean"]
        assert half["arms"]["robust"]["mean"] == half["arms"][ATTACKER]["mean"]

    def test_terminal_shows_the_same_numbers(self, finished: Finished) -> None:
        _, summary, text = finished
        arms = summary["results"][0]["defenders"]["scripted:half"]["arms"]
        for arm in ("none", "robust", "worst", "idle"):
            assert f"{arms[arm]['mean']:.2f}" in text
        assert "3 trainings" not in text
        assert "2 trainings, 6 attacks, 27 evaluations" in text

    def test_report_is_one_page_with_its_figures(self, finished: Finished) -> None:
        out, summary, _ = finished
        page = (out / "report" / "index.html").read_text()
        names = ["attack-budget", "improvement", "intervals", "partitions", "performance", "profile", "training"]
        stems = [f"Tally2-adv1-v0-{name}" for name in names]
        made = sorted(p.name for p in (out / "report" / "figures").iterdir())
        assert made == sorted(f"{stem}.{kind}" for stem in stems for kind in ("png", "svg"))
        assert page.count("<img") == len(stems)
        assert set(re.findall(r"src='([^;]*);", page)) == {"data:image/svg+xml"}
        assert set(re.findall(r"href='([^']*)'", page)) == {f"figures/{name}" for name in made}
        assert "evaluate --algo &lt;stub&gt;" in page
        assert f"{summary['results'][0]['defenders']['scripted:half']['arms']['worst']['mean']:.2f}" in page
        assert "http" not in re.sub(r"base64,[^']*", "", page)

    def test_plain_variants_need_no_attackers(self, tmp_path: Path) -> None:
        summary, text = _run(_study(("scripted:half",), variants=[tally(0).id]), tmp_path / "plain")
        arms = summary["results"][0]["defenders"]["scripted:half"]["arms"]
        assert list(arms) == ["none"]
        assert "worst" not in text
        assert "Tally2-adv0-v0-partitions.png" not in {p.name for p in (tmp_path / "plain/report/figures").iterdir()}

    def test_not_for_the_board(self, tmp_path: Path) -> None:
        assert _study().why_not_board() == ""
        assert _study(budget="quick").why_not_board() == "the quick budget is for a first look"
        assert _study(budget="standard", seeds=2).why_not_board() == f"{DEFENDER} has 2 training seeds of 5"
        assert _study(("scripted:half",), budget="standard").why_not_board() == ""
        single = _study(("scripted:half",), budget=dataclasses.replace(BUDGET, board=False))
        summary, text = _run(single, tmp_path / "single")
        assert summary["board"] is False
        assert "Not for the leaderboard" in text
        assert "class='banner'" in (tmp_path / "single/report/index.html").read_text()


@pytest.mark.usefixtures("no_report")
class TestDeterminism:
    def test_neither_processes_nor_order_matter(self, finished: Finished, tmp_path: Path) -> None:
        _run(_study(), tmp_path / "two", workers=2)
        one = (finished[0] / "scores.parquet").read_bytes()
        assert (tmp_path / "two" / "scores.parquet").read_bytes() == one
        for seed, bundle in enumerate(finished[1]["bundles"]):
            weights = [
                (root / bundle["path"] / "weights.safetensors").read_bytes() for root in (finished[0], tmp_path / "two")
            ]
            assert weights[0] == weights[1], f"seed {seed}"

    def test_jobs_in_any_order(self, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        execute = study_module.execute
        orders = []

        def shuffled(jobs: Any, *rest: Any, **options: Any) -> Any:
            jobs = random.Random(len(orders)).sample(jobs, len(jobs))
            orders.append([job.key for job in jobs])
            return execute(jobs, *rest, **options)

        monkeypatch.setattr(study_module, "execute", shuffled)
        for name in ("a", "b"):
            _run(_study(), tmp_path / name)
            assert (tmp_path / name / "scores.parquet").read_bytes() == (finished[0] / "scores.parquet").read_bytes()
        assert orders[0] != orders[1]

    def test_bundles_give_the_scores_of_the_study_that_made_them(self, finished: Finished, tmp_path: Path) -> None:
        folders = [finished[0] / bundle["path"] for bundle in finished[1]["bundles"]]
        study = _study((), policies=folders, variants=[])
        assert [v.id for v in study.variants] == [VARIANT]
        _run(study, tmp_path / "again")
        again = pd.read_parquet(tmp_path / "again" / "scores.parquet")
        before = pd.read_parquet(finished[0] / "scores.parquet")
        before = before[before["defender"] == DEFENDER].reset_index(drop=True)
        pd.testing.assert_frame_equal(again, before)


@pytest.mark.usefixtures("no_report")
class TestResumption:
    def test_a_finished_study_runs_nothing_again(
        self, finished: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        _run(_study(), tmp_path / "study")
        before = (tmp_path / "study" / "scores.parquet").read_bytes()
        monkeypatch.setattr(StubDefender, "train", lambda *_, **__: None)  # its result could not be saved
        _, text = _run(_study(), tmp_path / "study", resume=True)
        assert "0 trainings, 0 attacks, 0 evaluations" in text
        assert "35 finished before" in text
        assert (tmp_path / "study" / "scores.parquet").read_bytes() == before

    def test_a_study_that_failed_halfway_ends_like_one_that_did_not(self, finished: Finished, tmp_path: Path) -> None:
        obstacle = tmp_path / "obstacle"
        obstacle.touch()
        study = _study(settings=[f"trouble={obstacle}"])
        summary, text = _run(study, tmp_path / "study")
        assert "2 of 35 jobs failed (22 more need their results); the first: Tally2-adv1-v0/evaluation_stubs" in text
        assert len(list((tmp_path / "study" / "failures").iterdir())) == len(summary["failures"]) == 2
        assert len(summary["missing"]) == 18
        obstacle.unlink()
        summary, text = _run(study, tmp_path / "study", resume=True)
        assert "11 finished before" in text
        assert "jobs failed" not in text
        assert (tmp_path / "study" / "scores.parquet").read_bytes() == (finished[0] / "scores.parquet").read_bytes()
        assert summary["results"] == finished[1]["results"]
        assert (summary["failures"], summary["missing"], summary["board"]) == ([], [], True)
        assert not list((tmp_path / "study" / "failures").iterdir())

    def test_edited_results_are_computed_again(self, finished: Finished, tmp_path: Path) -> None:
        shutil.copytree(finished[0], tmp_path / "study")
        scores = (tmp_path / "study" / "scores.parquet").read_bytes()
        for path in sorted((tmp_path / "study" / "jobs").glob("*/episodes.json"))[:2]:
            path.write_text(path.read_text().replace("1", "2"))
        _, text = _run(_study(), tmp_path / "study", resume=True)
        assert "2 finished jobs were changed or damaged since (the first: Tally2" in text
        assert "0 trainings, 0 attacks, 2 evaluations" in text
        assert (tmp_path / "study" / "scores.parquet").read_bytes() == scores

    def test_there_must_be_something_to_resume(self, tmp_path: Path) -> None:
        with pytest.raises(StudyError, match="nowhere holds no study that could be resumed"):
            _run(_study(), tmp_path / "nowhere", resume=True)


class TestFailures:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_failed_job_loses_only_what_needs_it(
        self, workers: int, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        if workers > 1:
            request.getfixturevalue("no_report")
        trouble = "raise" if workers == 1 else "exit"
        study = _study(("scripted:half", DEFENDER), settings=[f"trouble={trouble}"], seeds=1)
        summary, text = _run(study, tmp_path / "study", workers=workers)
        why = "ZeroDivisionError: the stub was told to fail" if workers == 1 else "its process died with exit code 7"
        assert [f["message"] for f in summary["failures"]] == [why]
        assert f"1 of 23 jobs failed (11 more need their results); the first: {summary['failures'][0]['label']}" in text
        done = [json.loads(p.read_text())["label"] for p in (tmp_path / "study/jobs").glob("*/job.json")]
        assert len(done) == 11
        assert all("scripted:half" in label for label in done)
        if workers == 1:
            trace = (tmp_path / "study" / summary["failures"][0]["traceback"]).read_text()
            assert "evaluation_stubs.py" in trace
        # What is finished is scored and reported, and what is not is named.
        scores = pd.read_parquet(tmp_path / "study" / "scores.parquet")
        assert set(scores["defender"]) == {"scripted:half"}
        assert {m["defender"] for m in summary["missing"]} == {DEFENDER}
        assert len(summary["missing"]) == 9
        assert (summary["board"], summary["board_reason"]) == (False, "9 of the study's 18 evaluations are missing")
        assert f"* {DEFENDER}: no number for the headline, since jobs failed." in text
        if workers == 1:
            page = (tmp_path / "study" / "report" / "index.html").read_text()
            assert "Incomplete: 1 of 23 jobs failed" in page
            assert "<td>0, 1</td>" in page  # the partitions that an attacker of the failed team lacks
        entry = summary["results"][0]["defenders"][DEFENDER]
        assert (entry["arms"], entry["seeds"], entry["partitions"]) == ({}, [0], ["10", "01"])
        half = summary["results"][0]["defenders"]["scripted:half"]["arms"]["worst"]
        assert (half["results"], half["planned"], half["partial"]) == (2, 2, 0)

    @pytest.mark.usefixtures("no_report")
    def test_a_failed_attack_costs_its_seed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        attack = StubAttacker.attack

        def fail_once(self: Any, variant: Any, victim: Any, phi: Any, *, seed: int, **rest: Any) -> Any:
            if (seed, phi.phi) == (1001, (0, 1)):
                raise ZeroDivisionError
            return attack(self, variant, victim, phi, seed=seed, **rest)

        monkeypatch.setattr(StubAttacker, "attack", fail_once)
        summary, text = _run(_study(), tmp_path / "study")
        assert "1 of 35 jobs failed (1 more need their results)" in text
        entry = summary["results"][0]["defenders"][DEFENDER]
        counts = {arm: (values["results"], values["planned"]) for arm, values in entry["arms"].items()}
        assert counts["none"] == (2, 2)
        assert counts["idle"] == (4, 4)
        assert counts[ATTACKER] == counts["robust"] == counts["worst"] == (2, 4)
        scores = pd.read_parquet(tmp_path / "study" / "scores.parquet")
        first = scores[(scores["defender"] == DEFENDER) & (scores["defender_seed"] == 0)]
        robust = first[first["attacker"] == ATTACKER]["return"].mean()
        assert entry["arms"]["robust"]["mean"] == pytest.approx(robust)
        assert f"{robust:.2f} (2/4)" in text
        assert "numbers are over a part of the planned cells" in text

    def test_the_command_line_says_so(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
    ) -> None:
        monkeypatch.setitem(protocol_module.PROTOCOLS, "stub-v1", PROTOCOL)
        monkeypatch.setitem(protocol_module.BUDGETS, "stub", dataclasses.replace(BUDGET, defender_seeds=1))
        words = ["--algo", DEFENDER, "scripted:half", "--env", VARIANT, "--protocol", "stub-v1", "--budget", "stub"]
        words += ["--workers", "1", "--out", str(tmp_path / "study")]

        def status(*more: str) -> int:
            return run(evaluate.main, prog="evaluate", args=[*words, *more])

        assert status("--set", f"trouble={tmp_path}") == 1
        shown = capsys.readouterr()
        assert re.fullmatch(r"error: 1 of 23 jobs failed \(11 more .* --resume tries again\.\n", shown.err)
        assert "Report:" in shown.out

    def test_with_nothing_played_there_is_nothing_to_report(self, tmp_path: Path) -> None:
        with pytest.raises(StudyError, match="2 of 24 jobs failed .22 more need.* No cell was played"):
            _run(_study((DEFENDER,), settings=["trouble=raise"]), tmp_path / "study")
        assert not (tmp_path / "study" / "scores.parquet").exists()

    def test_policies_that_diverged_are_named(self, tmp_path: Path) -> None:
        study = _study((DEFENDER,), settings=["trouble=nan"], seeds=1)
        with pytest.raises(StudyError, match="StubDefender-seed0/train: the policy.s weights are not all finite"):
            _run(study, tmp_path / "study")

    def test_bad_options(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="workers must be 1 or more, but it is 0"):
            _study().run(tmp_path / "study", workers=0)
        with pytest.raises(ConfigError, match="Tally2-adv1-v0 is named twice"):
            _study(variants=[VARIANT, VARIANT])

    def test_messages_are_one_line(self) -> None:
        failure = Failure.of(ValueError("first\nsecond"))
        assert failure.message == "ValueError: first second"
        assert Failure.of(StudyError("own words")).message == "own words"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One finished study of a whole suite, made once."""
    mir2bench.register(tally())
    out = tmp_path_factory.mktemp("suite") / "study"
    return out, *_run(_study(protocol=SUITE), out)


class TestSuite:
    """A trained defender with two seeds and a scripted team, attacked by everything there is."""

    def test_transferred_attackers_keep_their_source(self, suite: Finished) -> None:
        scores = pd.read_parquet(suite[0] / "scores.parquet")
        names = {f"transfer:{source}/{attacker}" for source in (DEFENDER, "scripted:half") for attacker in BOTH}
        assert {a for a in scores["attacker"] if a.startswith("transfer:")} == names
        half = scores[(scores["defender"] == "scripted:half")].set_index(["attacker", "phi", "episode"])["return"]
        # The attackers of the first seed alone: a scripted team has a single seed.
        assert half.loc[f"transfer:{DEFENDER}/{ATTACKER}"].index.is_unique
        # An attacker that knows nothing of its victim is the same whomever it was trained against.
        own = half.loc[ATTACKER].sort_index()
        pd.testing.assert_series_equal(half.loc[f"transfer:{DEFENDER}/{ATTACKER}"].sort_index(), own)

    def test_arms_by_hand(self, suite: Finished) -> None:
        scores = pd.read_parquet(suite[0] / "scores.parquet")
        means = scores.groupby(["defender", "defender_seed", "phi", "attacker"])["return"].mean()
        for name, entry in suite[1]["results"][0]["defenders"].items():
            assert entry["headline"] == "worst"
            cells: dict[str, list[float]] = {"robust": [], "transfer": [], "worst": []}
            for seed in entry["seeds"]:
                for phi in entry["partitions"]:
                    cell = means.loc[name, seed, phi]
                    cells["robust"].append(cell[list(BOTH)].min())
                    cells["transfer"].append(cell[cell.index.str.startswith("transfer:")].min())
                    cells["worst"].append(cell.min())
            for arm, values in cells.items():
                assert entry["arms"][arm]["mean"] == pytest.approx(np.mean(values))
                assert entry["arms"][arm]["results"] == entry["arms"][arm]["planned"] == len(values)
            assert "normalized" in entry["arms"]["worst"]

    def test_attackers_that_cannot_play_are_no_failures(self, suite: Finished) -> None:
        out, summary, text = suite
        half, trained = (summary["results"][0]["defenders"][d] for d in ("scripted:half", DEFENDER))
        why = "the team has no network to look into."
        assert half["not_applicable"] == {WHITE_BOX: {"cells": 2, "reason": why}}
        assert WHITE_BOX not in half["arms"]
        assert trained["not_applicable"] == {}
        assert trained["arms"][WHITE_BOX]["results"] == 4
        assert summary["failures"] == summary["missing"] == []
        assert summary["board"] is True
        note = f"scripted:half: `{WHITE_BOX}` does not apply in 2 cells: the team has no network to look into."
        assert f"* {note}" in text
        assert note in html.unescape((out / "report" / "index.html").read_text())
        scores = pd.read_parquet(out / "scores.parquet")
        assert set(scores[scores["attacker"] == WHITE_BOX]["defender"]) == {DEFENDER}

    def test_tables(self, suite: Finished) -> None:
        _, summary, _ = suite
        (result,) = summary["results"]
        header, rows = main_rows(result)
        assert header[1:5] == ["clean", "strongest trained", "worst attacker", "change by attack"]
        assert rows[1][0] == ("scripted:half", "one team")
        arms = result["defenders"]["scripted:half"]["arms"]
        assert rows[1][4][0] == f"{arms['worst']['difference']['mean']:.2f}"
        header, rows = attacker_rows(result)
        assert header == ["defender", *sorted([*BOTH, WHITE_BOX, "idle", "random", "spoil"]), "transfer"]
        assert dict(zip(header, rows[1], strict=True))[WHITE_BOX] == ("n/a", "")

    def test_a_failed_neighbor_costs_no_cells(self, tmp_path: Path, no_report: None) -> None:
        study = _study(("scripted:half", DEFENDER), protocol=SUITE, settings=["trouble=raise"], seeds=1)
        summary, text = _run(study, tmp_path / "study")
        worst = summary["results"][0]["defenders"]["scripted:half"]["arms"]["worst"]
        assert (worst["results"], worst["planned"], worst["partial"]) == (2, 2, 2)
        assert "scripted:half: in 2 cells some transferred attackers are missing" in text
        assert "transfer" not in summary["results"][0]["defenders"]["scripted:half"]["arms"]


class TestRecorder:
    def test_every_row_of_metrics_is_kept_and_logged(self, tmp_path: Path) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        heard: list[Progress] = []
        with Recorder(tmp_path / "curve.json", tmp_path / "logs", heard.append) as recorder:
            recorder(Progress(1, 10, {"greedy_return": np.float32(-2.5)}))  # type: ignore[dict-item]
            recorder(Progress(2, 10))
            recorder(Progress(3, 10, {"greedy_return": -1.5, "loss": float("nan")}))
        rows = json.loads((tmp_path / "curve.json").read_text())
        assert [(r["steps"], r["greedy_return"], r.get("loss", 0)) for r in rows] == [(1, -2.5, 0), (3, -1.5, None)]
        assert [p.steps for p in heard] == [1, 3]  # the one without metrics came too soon after
        events = EventAccumulator(str(tmp_path / "logs"))
        events.Reload()
        assert [(e.step, e.value) for e in events.Scalars("greedy_return")] == [(1, -2.5), (3, -1.5)]

    def test_a_training_that_fails_leaves_no_curve(self, tmp_path: Path) -> None:
        with pytest.raises(KeyError), Recorder(tmp_path / "curve.json", tmp_path / "logs"):
            raise KeyError
        assert not (tmp_path / "curve.json").exists()


def test_a_failure_is_told_letter_by_letter() -> None:
    text = io.StringIO()
    jobs = _study((DEFENDER,)).jobs()
    with Monitor(Console(file=text, width=200), jobs, 1) as monitor:
        monitor.started(jobs[0])
        monitor.failed(jobs[0], Failure("bad path [/home/x], got [nan nan]"))
    assert "bad path [/home/x], got [nan nan]" in text.getvalue()


class TestClock:
    """Two workers; trainings take 100 steps and attacks 50, at their own speeds."""

    @staticmethod
    def _clock() -> tuple[Clock, Callable[[float], None], list[Any]]:
        time = [0.0]
        jobs = [j for j in _study((DEFENDER,)).jobs() if j.kind != "rollout"]
        jobs = [dataclasses.replace(j, steps=100 if j.kind == "train" else 50) for j in jobs]

        def advance(seconds: float) -> None:
            time[0] += seconds

        return Clock(jobs, 2, lambda: time[0]), advance, jobs

    def test_time_left(self) -> None:
        clock, advance, jobs = self._clock()
        assert clock.total == 2 * 100 + 4 * 50
        assert clock.seconds_left is None
        clock.started(jobs[0])
        clock.started(jobs[1])
        advance(10)
        clock.progress(jobs[0], 50)
        clock.progress(jobs[1], 50)
        # 0.2 s per step of training so far, 100 steps of it left; the 200 of the attacks are taken to cost a tenth.
        assert clock.rate == pytest.approx(10.0)
        assert clock.seconds_left == pytest.approx((100 * 0.2 + 200 * 0.02) / 2)
        advance(10)
        clock.ended(jobs[0])
        clock.ended(jobs[1])
        clock.started(jobs[2])
        advance(5)
        clock.progress(jobs[2], 10)
        # Attacks turn out slower: 0.5 s per step, 190 steps left.
        assert clock.seconds_left == pytest.approx(190 * 0.5 / 2)
        assert clock.completed == 210

    def test_never_less_than_the_longest_job(self) -> None:
        clock, advance, jobs = self._clock()
        for job in jobs[2:]:
            clock.started(job)
            advance(1)
            clock.ended(job)
        clock.started(jobs[0])
        clock.started(jobs[1])
        advance(1)
        clock.progress(jobs[1], 100)
        clock.progress(jobs[0], 0)
        # 2 s for 100 steps: the first training needs all of its 100 steps alone, 2 s; shared it would be 1 s.
        assert clock.seconds_left == pytest.approx(2.0)

    def test_durations(self) -> None:
        assert [duration(s) for s in (0.4, 59.4, 60, 3599, 7260)] == [
            "0 s",
            "59 s",
            "1 min 00 s",
            "59 min 59 s",
            "2 h 01 min",
        ]
