"""Jobs that hang or eat memory, studies that are asked to stop or killed at any moment."""

from __future__ import annotations

import io
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from evaluation_stubs import BUDGET, DEFENDER, PROTOCOL, StubAttacker, tally
from rich.console import Console

import mir2bench
from mir2bench.errors import ConfigError
from mir2bench.evaluation import limits as limits_module
from mir2bench.evaluation import study as study_module
from mir2bench.evaluation.limits import Limits, stoppable
from mir2bench.evaluation.study import Study


@pytest.fixture(autouse=True)
def _tally(fresh_registry: None, monkeypatch: pytest.MonkeyPatch) -> None:
    mir2bench.register(tally())
    monkeypatch.setattr(study_module, "write_report", lambda *_: None)


def _run(out: Path, trouble: str = "", **options: Any) -> tuple[dict[str, Any], str]:
    study = Study.resolve(
        ("scripted:half", DEFENDER),
        variants=[tally().id],
        budget=BUDGET,
        protocol=PROTOCOL,
        settings=[f"trouble={trouble}"] if trouble else [],
        seeds=1,
    )
    text = io.StringIO()
    summary = study.run(out, console=Console(file=text, width=300), **{"workers": 1, **options})
    return summary, text.getvalue()


class TestLimits:
    @pytest.mark.parametrize(
        ("trouble", "limits", "why"),
        [
            ("hang", Limits(minutes=0.05), "it took longer than 0.05 minutes and was ended. Does it hang?"),
            ("eat", Limits(memory_gb=1.0), "it held more than 1 GB of memory and was ended. --job-memory allows"),
        ],
    )
    def test_a_job_beyond_its_limit_loses_only_what_needs_it(
        self, trouble: str, limits: Limits, why: str, tmp_path: Path
    ) -> None:
        summary, _ = _run(tmp_path / "study", trouble, limits=limits)
        assert [f["message"][: len(why)] for f in summary["failures"]] == [why]
        assert summary["jobs"] == {"planned": 23, "unfinished": 12}

    def test_time_is_counted_from_the_start_of_the_job(self) -> None:
        limits = Limits(minutes=2)
        assert limits.breach(None, 119.9) == ""
        assert limits.breach(None, 120.1).startswith("it took longer than 2 minutes")

    def test_a_process_that_is_gone_holds_nothing(self) -> None:
        assert Limits(memory_gb=1e-3).breach(os.getpid(), 0.0).startswith("it held more than 0.001 GB")
        assert Limits(memory_gb=1e-3).breach(2**30, 0.0) == ""

    @pytest.mark.parametrize("values", [{"minutes": 0}, {"minutes": float("nan")}, {"memory_gb": -1.0}])
    def test_limits_are_positive(self, values: dict[str, float]) -> None:
        with pytest.raises(ConfigError, match="must be above 0, but it is"):
            Limits(**values)

    def test_memory_must_be_known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits_module, "resident_gb", lambda _: None)
        with pytest.raises(ConfigError, match="under Linux only"):
            Limits(memory_gb=1.0)


class TestStopping:
    def test_sigterm_keeps_what_is_finished(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole, _ = _run(tmp_path / "whole")
        attack = StubAttacker.attack

        def stop(*args: Any, **options: Any) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            return attack(*args, **options)

        before = signal.getsignal(signal.SIGTERM)
        with monkeypatch.context() as patch:
            patch.setattr(StubAttacker, "attack", stop)
            with pytest.raises(KeyboardInterrupt):
                _run(tmp_path / "study")
        assert signal.getsignal(signal.SIGTERM) is before
        assert not list((tmp_path / "study" / "jobs").glob(".*"))
        summary, text = _run(tmp_path / "study", resume=True)
        assert "finished before" in text
        assert summary["results"] == whole["results"]
        scores = [(tmp_path / name / "scores.parquet").read_bytes() for name in ("whole", "study")]
        assert scores[0] == scores[1]

    def test_other_threads_leave_signals_alone(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        seen: list[Any] = []

        def look() -> None:
            with stoppable():
                seen.append(signal.getsignal(signal.SIGTERM))

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert seen == [before]
