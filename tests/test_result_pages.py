"""The pages on results: their tables of columns and keys are whole, and their numbers those of the committed study."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from mir2bench.evaluation import protocol, statistics
from mir2bench.evaluation.scores import COLUMNS

DOCS = Path(__file__).parents[1] / "docs"
READING = (DOCS / "reading-a-result.md").read_text()
STATISTICS = (DOCS / "statistics.md").read_text()
SUMMARIES = [json.loads(path.read_text()) for path in sorted((DOCS / "results").glob("*/summary.json"))]
STUDIES = [summary for summary in SUMMARIES if "study" in summary]
LATER = {"programs"}  # keys that no committed study has yet


def first_column(text: str) -> list[str]:
    """Return what stands in backticks in the first column of a text's tables."""
    return [
        name
        for line in text.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(.+?)`", line.split("|")[1])
    ]


def section(title: str) -> str:
    return READING.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_columns_and_keys_are_all_there() -> None:
    assert first_column(section("scores.parquet")) == list(COLUMNS)
    keys, arm_keys = section("summary.json").split("Older files")
    assert set(first_column(keys)) == {key for study in STUDIES for key in study} | LATER
    arms = [
        arm
        for study in STUDIES
        for result in study["results"]
        for entry in result["defenders"].values()
        for arm in entry["arms"].values()
    ]
    assert set(first_column(arm_keys)) == {key for arm in arms for key in arm}


def test_constants_are_those_of_the_code() -> None:
    said = STATISTICS.replace(",", "")
    assert (statistics.CONFIDENCE, f"{statistics.REPETITIONS} times" in said) == (0.95, True)
    assert f"the seed {statistics._SEED}" in said
    assert f"fewer than {statistics._SEEDS_TO_TELL} seeds" in said
    assert "1% of the score range" in said
    assert statistics._FALL_SHARE == 0.01
    assert f"{protocol.get_budget('standard').episodes} unless the" in said
    assert protocol.get_budget("standard").defender_seeds == 5  # "leaderboards ask for five"
    assert {p.sampled_partitions for p in protocol.PROTOCOLS.values()} == {5}  # "five drawn once"


def test_with_three_seeds_an_interval_is_the_range() -> None:
    seeds = np.array([[3.0, 5.0], [1.0, 1.5], [9.0, 7.0]])
    assert statistics.clustered_interval(seeds) == ((1.25, 8.0), "seeds")
    four = np.vstack([seeds, [[2.0, 2.0]]])
    (low, high), _ = statistics.clustered_interval(four)
    assert low > 1.25
    assert high < 8.0
