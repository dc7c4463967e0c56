"""Whole studies with stub algorithms: results, failures, resumption, determinism, the report."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from evaluation_stubs import ATTACKER, BUDGET, DEFENDER, PROTOCOL, StubDefender, tally
from rich.console import Console

import mir2bench
from mir2bench.errors import ConfigError, StudyError
from mir2bench.evaluation import statistics
from mir2bench.evaluation import study as study_module
from mir2bench.evaluation.executor import Failure
from mir2bench.evaluation.monitor import Clock, Monitor, duration
from mir2bench.evaluation.scores import COLUMNS
from mir2bench.evaluation.study import Study
from mir2bench.evaluation.work import Recorder
from mir2bench.learning.progress import Progress

VARIANT = tally().id


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
        monkeypatch.setattr(StubDefender, "train", None)  # calling it would fail
        _, text = _run(_study(), tmp_path / "study", resume=True)
        assert "0 trainings, 0 attacks, 0 evaluations" in text
        assert "35 finished before" in text
        assert (tmp_path / "study" / "scores.parquet").read_bytes() == before

    def test_a_study_that_failed_halfway_ends_like_one_that_did_not(self, finished: Finished, tmp_path: Path) -> None:
        obstacle = tmp_path / "obstacle"
        obstacle.touch()
        study = _study(settings=[f"trouble={obstacle}"])
        with pytest.raises(StudyError, match=r"2 of 35 jobs failed \(22 more need their results\)"):
            _run(study, tmp_path / "study")
        assert not (tmp_path / "study" / "scores.parquet").exists()
        assert len(list((tmp_path / "study" / "failures").iterdir())) == 2
        obstacle.unlink()
        _, text = _run(study, tmp_path / "study", resume=True)
        assert "11 finished before" in text
        assert (tmp_path / "study" / "scores.parquet").read_bytes() == (finished[0] / "scores.parquet").read_bytes()
        assert not list((tmp_path / "study" / "failures").iterdir())


class TestFailures:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_failed_job_loses_only_what_needs_it(self, workers: int, tmp_path: Path) -> None:
        study = _study(("scripted:half", DEFENDER), settings=["trouble=raise"], seeds=1)
        with pytest.raises(StudyError, match="train: ZeroDivisionError: the stub was told to fail") as caught:
            _run(study, tmp_path / "study", workers=workers)
        assert "1 of 23 jobs failed (11 more need their results)" in str(caught.value)
        done = [json.loads(p.read_text())["label"] for p in (tmp_path / "study/jobs").glob("*/job.json")]
        assert len(done) == 11
        assert all("scripted:half" in label for label in done)
        trace = next((tmp_path / "study/failures").iterdir()).read_text()
        assert "evaluation_stubs.py" in trace

    def test_a_process_that_dies_loses_only_its_job(self, tmp_path: Path) -> None:
        study = _study(("scripted:half", DEFENDER), settings=["trouble=exit"], seeds=1)
        with pytest.raises(StudyError, match="its process died with exit code 7"):
            _run(study, tmp_path / "study", workers=2)
        assert len(list((tmp_path / "study/jobs").glob("*/job.json"))) == 11

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
