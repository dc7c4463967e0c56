"""Plans of how long studies take on more cores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mir2bench import analyze
from mir2bench.analysis.cores import read_cards, schedule
from mir2bench.errors import StudyError


def _card(key: str, kind: str, seconds: float, **needs: str) -> dict[str, Any]:
    return {"key": key, "kind": kind, "cpu_s": seconds, "needs": needs}


CARDS = [
    _card("t", "train", 10.0),
    _card("a", "attack", 4.0, victim="t"),
    _card("b", "attack", 6.0, victim="t"),
    _card("p", "rollout", 1.0, victim="t", adversary="a"),
    _card("q", "rollout", 1.0, victim="t", adversary="b"),
    _card("r", "rollout", 2.0, victim="elsewhere"),
]


class TestSchedule:
    @pytest.mark.parametrize(("cores", "copies", "seconds"), [(1, 1, 24.0), (2, 1, 17.0), (9, 1, 17.0), (9, 3, 17.0)])
    def test_jobs_wait_for_cores_and_for_what_they_need(self, cores: int, copies: int, seconds: float) -> None:
        assert schedule(CARDS, cores, copies) == seconds

    def test_copies_fill_the_cores(self) -> None:
        assert schedule(CARDS, 1, 3) == 72.0
        assert schedule(CARDS, 2, 2) < 2 * schedule(CARDS, 2)


class TestCommand:
    @pytest.fixture
    def study(self, tmp_path: Path) -> Path:
        for card in CARDS:
            (tmp_path / "jobs" / card["key"]).mkdir(parents=True)
            (tmp_path / "jobs" / card["key"] / "job.json").write_text(json.dumps({**card, "label": "x"}))
        return tmp_path

    def test_table(self, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert analyze.main(["cores", "--study", str(study), "--cores", "1", "2"]) == 0
        shown = capsys.readouterr().out
        assert "attack: 2 jobs, 5.00 s each, 10 s in all" in shown
        assert [line.split("│")[2].strip() for line in shown.splitlines() if "%" in line] == ["24 s", "17 s"]
        assert [line.split("│")[3].strip() for line in shown.splitlines() if "%" in line] == ["100%", "71%"]

    def test_nothing_to_plan_from(self, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(StudyError, match="holds no finished job"):
            read_cards(tmp_path / "none")
        (study / "jobs" / "t" / "job.json").write_text("{")
        with pytest.raises(StudyError, match="cannot be read"):
            read_cards(study)
        assert analyze.main(["cores", "--study", str(study), "--cores", "0"]) == 2
        assert "must be 1 or more" in capsys.readouterr().err
