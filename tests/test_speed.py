"""The speed benchmark: what it measures, how it adds up, and what it refuses. No test looks at a clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from games import Match, game

import mir2bench
from mir2bench import bench
from mir2bench.analysis import timing
from mir2bench.cli import run
from mir2bench.defenders import list_defenders
from mir2bench.errors import StudyError
from mir2bench.speed import Figure, Options
from mir2bench.speed.protocol import Protocol, _on_their_line, finished, foretell, schedule
from mir2bench.speed.training import Training, _flops


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A game whose updates are measured one at a time, without processes of their own."""
    mir2bench.register(game(Match))
    monkeypatch.setattr(timing, "_UPDATES_ALONE", 1)
    monkeypatch.setattr("mir2bench.speed.training._in_fresh_process", lambda *_: 1.0)


def card(key: str, kind: str, seconds: float, defender: str = "maddpg", **needs: str) -> dict[str, Any]:
    """Return what a study keeps about a finished job."""
    label = f"W/{defender}-seed0/{key}"
    return {"key": key, "kind": kind, "cpu_s": seconds, "needs": needs, "label": label, "defender": defender}


CARDS = [
    card("t", "train", 10.0),
    card("a", "attack", 4.0, victim="t"),
    card("b", "attack", 6.0, victim="t"),
    card("p", "rollout", 1.0, victim="t", adversary="a"),
    card("q", "rollout", 1.0, victim="t", adversary="b"),
    card("r", "rollout", 2.0, "mir2", victim="elsewhere"),
]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The folder of a finished study."""
    for about in CARDS:
        (tmp_path / "jobs" / about["key"]).mkdir(parents=True)
        (tmp_path / "jobs" / about["key"] / "job.json").write_text(json.dumps(about))
    return tmp_path


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
    @pytest.mark.parametrize(("cores", "copies", "seconds"), [(1, 1, 24.0), (2, 1, 17.0), (9, 1, 17.0), (9, 3, 17.0)])
    def test_jobs_wait_for_cores_and_for_what_they_need(self, cores: int, copies: int, seconds: float) -> None:
        assert schedule(CARDS, cores, copies) == seconds

    def test_copies_fill_the_cores(self) -> None:
        assert schedule(CARDS, 1, 3) == 72.0
        assert schedule(CARDS, 2, 2) < 2 * schedule(CARDS, 2)

    def test_a_study_that_was_run(self, study: Path) -> None:
        assert {card["key"]: card["defender"] for card in finished(study)}["r"] == "mir2"
        named = {f.name: f for f in Protocol(study=study, cores=(1, 2)).measure()}
        expected = Figure("attack maddpg, 2 jobs, 41.7%", "CPU s", 5.0, 4.0, 6.0)
        assert named[expected.name] == expected
        assert named["per core"].median == pytest.approx(6 / 24 * 3600)
        assert [named[f"planned on {n} cores"].median * 3600 for n in (1, 2)] == pytest.approx([24, 17])

    def test_foretelling_counts_the_jobs_of_the_whole_study(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mir2bench.register(game(Match))
        monkeypatch.setattr("mir2bench.speed.protocol._SAMPLES", (300, 600))
        cards = foretell(Protocol(algo=("maddpg", "mir2"), env=game(Match).id))
        counts = Counter((card["kind"], card["defender"]) for card in cards)
        assert counts[("train", "mir2")] == 5  # seeds
        assert counts[("attack", "maddpg")] == 10  # 5 seeds, 2 partitions
        assert counts[("rollout", "mir2")] == 5 + 10 * (1 + 3)  # clean; learned, random, idle and a script
        assert all(card["cpu_s"] >= 0 for card in cards)
        assert {card["key"] for card in cards} >= {need for card in cards for need in card["needs"].values()}

    def test_cost_grows_along_the_line_of_what_was_seen(self) -> None:
        assert _on_their_line([(10, 2.0), (30, 3.0)], 110) == pytest.approx(7.0)
        assert _on_their_line([(10, 2.0), (10, 4.0)], 30) == pytest.approx(9.0)
        assert _on_their_line([(10, 3.0), (30, 2.0)], 110) == pytest.approx(2.5)  # it never shrinks

    def test_no_study(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(bench.main, prog="bench", args=["protocol", "--study", str(tmp_path)]) == 2
        assert "holds no finished job" in capsys.readouterr().err
        (tmp_path / "jobs" / "t").mkdir(parents=True)
        (tmp_path / "jobs" / "t" / "job.json").write_text("{")
        with pytest.raises(StudyError, match="cannot be read"):
            finished(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["engines", "--rounds", "0"], "--rounds must be 1 or more"),
        (["training", "--json", "/nowhere/x.json"], "cannot write /nowhere/x.json"),
        (["training", "--algo", "mir2", "mir2"], "each defender is named once"),
        (["training", "--threads", "0"], "--threads must be 1 or more"),
        (["training", "--algo", "mir3"], "mir2"),
        (["protocol", "--cores", "0"], "--cores and --copies must be 1 or more"),
    ],
)
def test_refusals(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bench.main, prog="bench", args=arguments) == 2
    assert message in capsys.readouterr().err


def test_the_file_holds_versions_hardware_and_all_figures(
    quick: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bench.json"
    args = ["training", "--env", game(Match).id, "--algo", "maddpg", "--rounds", "1", "--json", str(file)]
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
