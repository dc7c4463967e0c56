"""The speed benchmark: what it measures, how it adds up, and what it refuses. No test looks at a clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from games import Match, game

import mir2bench
from mir2bench import bench
from mir2bench.analysis import timing
from mir2bench.cli import run
from mir2bench.defenders import list_defenders
from mir2bench.speed import Figure, Options
from mir2bench.speed.protocol import Protocol, _on_their_line, finished, foretell
from mir2bench.speed.training import Training, _flops


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A game whose updates are measured one at a time, without processes of their own."""
    mir2bench.register(game(Match))
    monkeypatch.setattr(timing, "_UPDATES_ALONE", 1)
    monkeypatch.setattr("mir2bench.speed.training._in_fresh_process", lambda *_: 1.0)


def write_job(folder: Path, number: int, label: str, kind: str, seconds: float) -> None:
    """Write what a finished job leaves behind."""
    place = folder / "jobs" / str(number)
    place.mkdir(parents=True)
    (place / "job.json").write_text(json.dumps({"key": str(number), "label": label, "kind": kind, "cpu_s": seconds}))


class TestTraining:
    def test_every_defender_of_the_backbone_in_turn(self, quick: None) -> None:
        figures = Training(env=(game(Match).id,), rounds=2).measure()
        defenders = {f.name.split()[1] for f in figures}
        assert defenders == {name for name in list_defenders() if timing.on_backbone(name)}
        assert all(f.low <= f.high for f in figures)
        assert {f.median for f in figures if f.name.endswith("maddpg round") and "times" in f.unit} == {1.0}

    def test_the_parts_are_within_the_round(self, quick: None) -> None:
        figures = Training(env=(game(Match).id,), algo=("mir2",), rounds=1, steps=3, updates=2).measure()
        ms = {f.name.split(maxsplit=2)[2]: f.median for f in figures if f.unit == "ms"}
        parts = [ms[part] for part in ("worlds", "policy", "replay", "updates")]
        assert min(parts) > 0
        assert sum(parts) <= ms["round"]

    def test_a_round_is_what_was_asked_for(self) -> None:
        rig = timing.Rig("maddpg", game(Match), {"worlds": 4, "batch_size": 5})
        seen: list[int] = []
        update = rig.learner.update
        rig.learner.update = lambda batch: (seen.append(len(batch.obs)), update(batch))[1]
        stepped: list[object] = []
        step = rig.task.step
        rig.task.step = lambda actions: (stepped.append(actions.shape), step(actions))[1]  # type: ignore[method-assign]
        rig.round(steps=2, updates=3)
        assert seen == [5, 5, 5]
        assert stepped == [(4, 2, 1), (4, 2, 1)]

    def test_operations_are_counted(self) -> None:
        rig = timing.Rig("maddpg", game(Match), {"batch_size": 5, "hidden": 8})
        small = _flops(rig)
        # The actor's first layer alone reads 5 transitions of 2 agents: two operations per weight.
        first = 2 * 5 * 2 * rig.learner.actor.inner.weight.numel()
        assert small > 4 * first  # forward in policy and target, and both gradients
        assert _flops(timing.Rig("maddpg", game(Match), {"batch_size": 10, "hidden": 8})) == pytest.approx(2 * small)

    def test_growth(self, quick: None) -> None:
        figures = Training(
            env=(game(Match).id,), algo=("maddpg",), rounds=1, settings=("recurrent=true", "hidden=8"), grow=True
        ).measure()
        grown = [f.name.split(", ")[-1] for f in figures if "," in f.name and "x" in f.name.split(", ")[-1]]
        assert grown == ["batch x 1", "batch x 2", "batch x 4", "horizon x 2", "horizon x 4"]

    def test_memory_is_that_of_a_process_of_its_own(self) -> None:
        (figure,) = (
            f
            for f in Training(env=("Rendezvous5-adv0-v0",), algo=("maddpg",), rounds=1).measure()
            if "peak memory" in f.name
        )
        assert 50 < figure.median < 2_000  # MB: more than an interpreter, less than this test's neighbors together


class TestProtocol:
    def test_a_study_that_was_run(self, tmp_path: Path) -> None:
        for number, (label, kind, seconds) in enumerate(
            [
                ("W/maddpg-seed0/train", "train", 100.0),
                ("W/maddpg-seed1/train", "train", 300.0),
                ("W/mir2-seed0/train", "train", 200.0),
                ("W/mir2-seed0/10/learned", "attack", 600.0),
            ]
        ):
            write_job(tmp_path, number, label, kind, seconds)
        costs = finished(tmp_path)
        assert costs == {("train", "maddpg"): [100, 300], ("train", "mir2"): [200], ("attack", "mir2"): [600]}
        named = {f.name: f for f in Protocol(study=tmp_path, cores=(1, 2, 9)).measure()}
        assert named["train maddpg, 2 jobs, 33.3%"] == Figure("train maddpg, 2 jobs, 33.3%", "CPU s", 200, 100, 300)
        assert named["per core"].median == pytest.approx(4 / 1200 * 3600)
        # Stage by stage, the longest first: 300 beside 200 and 100, then 600.
        assert [named[f"planned on {n} cores"].median * 3600 for n in (1, 2, 9)] == pytest.approx([1200, 900, 900])

    def test_foretelling_counts_the_jobs_of_the_whole_study(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mir2bench.register(game(Match))
        monkeypatch.setattr("mir2bench.speed.protocol._SAMPLES", (300, 600))
        costs = foretell(Protocol(algo=("maddpg", "mir2"), env=game(Match).id))
        counts = {stage: len(seconds) for stage, seconds in costs.items()}
        assert counts[("train", "mir2")] == 5  # seeds
        assert counts[("attack", "maddpg")] == 10  # 5 seeds, 2 partitions
        assert counts[("rollout", "mir2")] == 5 + 10 * (1 + 3)  # clean; learned, random, idle and a script
        assert all(second >= 0 for seconds in costs.values() for second in seconds)

    def test_cost_grows_along_the_line_of_what_was_seen(self) -> None:
        assert _on_their_line([(10, 2.0), (30, 3.0)], 110) == pytest.approx(7.0)
        assert _on_their_line([(10, 2.0), (10, 4.0)], 30) == pytest.approx(9.0)
        assert _on_their_line([(10, 3.0), (30, 2.0)], 110) == pytest.approx(2.5)  # it never shrinks

    def test_no_study(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(bench.main, prog="bench", args=["protocol", "--study", str(tmp_path)]) == 2
        assert "holds no finished job" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["engines", "--rounds", "0"], "--rounds must be 1 or more"),
        (["training", "--json-file", "/nowhere/x.json"], "cannot write /nowhere/x.json"),
        (["training", "--algo", "mir2", "mir2"], "each defender is named once"),
        (["training", "--threads", "0"], "--threads must be 1 or more"),
        (["training", "--algo", "mir3"], "mir2"),
        (["protocol", "--cores", "0"], "--cores takes numbers of 1 or more"),
    ],
)
def test_refusals(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bench.main, prog="bench", args=arguments) == 2
    assert message in capsys.readouterr().err


def test_the_file_holds_versions_hardware_and_all_figures(
    quick: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bench.json"
    args = ["training", "--env", game(Match).id, "--algo", "maddpg", "--rounds", "1", "--json-file", str(file)]
    assert run(bench.main, prog="bench", args=args) == 0
    written = json.loads(file.read_text())
    assert written["hardware"]["cores"] == os.cpu_count()
    assert written["versions"]["torch"]
    shown = capsys.readouterr().out
    assert all(figure["name"] in shown for figure in written["figures"])
    assert len(written["figures"]) == 12


def test_every_kind_is_measured_somewhere() -> None:
    assert {kind.__name__.lower() for kind in Options.__subclasses__()} == {"engines", "training", "protocol"}
    text = subprocess.run(
        [sys.executable, "-m", "mir2bench.bench", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert all(kind in text for kind in ("engines", "training", "protocol"))
