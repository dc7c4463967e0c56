"""A whole evaluation on a battle: recurrent teams, legal actions throughout, and win rates in every output."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

import mir2bench
from mir2bench.evaluate import Options, main
from mir2bench.evaluation.tables import win_rows

VARIANT = "mir2bench/Skirmish-4m_vs_3m-adv1-v0"
SMALL = ("hidden=8", "batch_size=2")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "run"
    options = Options(
        algo=("maddpg", "mir2"), env=(VARIANT,), budget="smoke", settings=SMALL, out=out, workers=1, partitions=1
    )
    main(options)
    return out


def test_recommended_settings_reach_the_defenders(study: Path) -> None:
    summary = json.loads((study / "summary.json").read_text(encoding="utf-8"))
    for contender in summary["study"]["contenders"]:
        config = contender["configs"][VARIANT]
        assert config["recurrent"] is True
        assert config["hidden"] == 8  # the command line's before the variant's
        assert config["gamma"] == mir2bench.spec(VARIANT).settings["gamma"]


def test_win_rates_are_those_of_the_episodes(study: Path) -> None:
    summary = json.loads((study / "summary.json").read_text(encoding="utf-8"))
    scores = pd.read_parquet(study / "scores.parquet")
    assert scores["won"].notna().all()
    arms = summary["results"][0]["defenders"]["maddpg"]["arms"]
    for arm in ("none", "random"):
        rows = scores[(scores["defender"] == "maddpg") & (scores["attacker"] == arm)]
        assert arms[arm]["win_rate"] == pytest.approx(rows["won"].astype(float).mean())
    header, rows = win_rows(summary["results"][0])
    assert header[:2] == ["defender", "clean"]
    assert header[-1] == "worst attacker"
    assert [row[0][0] for row in rows] == ["maddpg", "mir2"]
    assert rows[0][1][0] == f"{arms['none']['win_rate']:.2f}"


def test_the_report_shows_win_rates_and_their_learning_curves(study: Path) -> None:
    page = (study / "report" / "index.html").read_text(encoding="utf-8")
    assert "Win rate with 95% intervals" in page
    assert (study / "report" / "figures" / "Skirmish-4m_vs_3m-adv1-v0-training-wins.png").stat().st_size > 5_000
