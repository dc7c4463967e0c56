"""The pages of defenders and attackers: there is one for each, and what is written by hand in them is true."""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import mir2bench
from mir2bench import attackers, defenders
from mir2bench.defenders import maddpg
from mir2bench.evaluation.protocol import CLEAN
from mir2bench.partition import Partition
from mir2bench.policies import RandomPolicy

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [(kind, page) for kind in ("defender", "attacker") for page in sorted((DOCS / f"{kind}s").glob("*.md"))]
GENERATED = re.compile(r"^<!-- generated: (\w+) ?(.*?) -->$", re.MULTILINE)
DEFENDERS = sorted(defenders._BUILTIN)
ATTACKERS = sorted(attackers._BUILTIN)
NAMES = [*((("defender", name)) for name in DEFENDERS), *(("attacker", name) for name in ATTACKERS)]


@pytest.fixture(scope="module")
def algorithms() -> Any:
    """The functions that the pages call."""
    sys.path.insert(0, str(DOCS))
    try:
        yield import_module("algorithms")
    finally:
        sys.path.remove(str(DOCS))


def text(kind: str, name: str) -> str:
    return (DOCS / f"{kind}s" / f"{name}.md").read_text()


def section(page: str, title: str) -> str:
    return page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def code_column(table: str, column: int) -> list[str]:
    """Return what stands in backticks in one column of a Markdown table."""
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines() if line.startswith("| ")][1:]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row[column])]


def expressions(module: ModuleType) -> set[str]:
    """Return all names, attributes and calls that a module's code holds, and what it defines."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text())):
        if isinstance(node, ast.expr):
            found.add(ast.unparse(node))
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found |= {node.name, f"self.{node.name}"}
    return found


def test_there_is_a_page_for_each() -> None:
    assert sorted(p.stem for kind, p in PAGES if kind == "defender") == DEFENDERS
    assert sorted(p.stem for kind, p in PAGES if kind == "attacker") == sorted([*ATTACKERS, "scripted", "transfer"])


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_symbols_are_in_the_code(algorithms: Any, kind: str, name: str) -> None:
    found = algorithms.algorithm_class(kind, name)
    known = expressions(import_module(found.__module__))
    known |= expressions(maddpg) if kind == "defender" else set()
    fields = {f.name for f in dataclasses.fields(found.Config)}
    known |= {f"{root}config.{field}" for root in ("", "self.", "self._") for field in fields}
    named = code_column(section(text(kind, name), "Symbols"), 1)
    assert len(named) >= 5
    assert [expression for expression in named if expression not in known] == []


def logged(kind: str, name: str) -> set[str]:
    return set(code_column(section(text(kind, name), "What it logs"), 0))


@pytest.mark.parametrize("name", DEFENDERS)
def test_defenders_log_what_their_pages_say(name: str, toy: list[str]) -> None:
    metrics: set[str] = set()
    variant = mir2bench.spec(toy[1])
    settings = {"hidden": 8, "worlds": 4, "batch_size": 8, "warmup": 20}
    defender = defenders.make_defender(name, variant, settings)
    defender.train(variant, seed=0, budget=80, callback=lambda progress: metrics.update(progress.metrics))
    said = logged("defender", name) | logged("defender", "maddpg")
    assert metrics == said - {"greedy_win_rate"}  # nobody wins in this world


@pytest.mark.parametrize("name", ["learned", "sb3-ppo"])
def test_attackers_log_what_their_pages_say(name: str, toy: list[str]) -> None:
    metrics: set[str] = set()
    variant = mir2bench.spec(toy[1])
    team, phi = RandomPolicy(variant.layout), Partition((1, 0, 0))
    attacker = attackers.make_attacker(name, variant)
    attacker.attack(variant, team, phi, seed=0, budget=200, callback=lambda p: metrics.update(p.metrics))
    assert metrics == logged("attacker", name)


@pytest.mark.parametrize(("kind", "page"), PAGES, ids=lambda value: value.stem if isinstance(value, Path) else value)
def test_what_is_generated_is_whole(algorithms: Any, kind: str, page: Path) -> None:
    made = {name: getattr(algorithms, name)(*rest.split()) for name, rest in GENERATED.findall(page.read_text())}
    assert made
    assert all(made.values())
    if "details" not in made:
        return
    for title in ("Settings", "What to expect"):
        assert "\n| --- |" in section("\n" + made["details"], title)
    fields = [f.name for f in dataclasses.fields(algorithms.algorithm_class(kind, page.stem).Config)]
    settings = code_column(section("\n" + made["details"], "Settings"), 0)
    shared = (
        {f.name for f in dataclasses.fields(maddpg.Config)} if kind == "defender" and page.stem != "maddpg" else set()
    )
    assert settings == [field for field in fields if field not in shared]
    assert ("<img " in made["details"]) == (page.stem != "greedy")  # which learns nothing


def test_expected_returns_are_those_of_the_study(algorithms: Any) -> None:
    """The ranges of seeds come from the episodes, the means from the summary: they must agree."""
    compared = 0
    for folder, _, result in algorithms._entries():
        for defender, entry in result["defenders"].items():
            for arm in (CLEAN, entry["headline"]):
                means = algorithms.seed_means(folder, result["variant"], defender, arm)
                assert list(means.index) == entry["seeds"]
                assert np.mean(means) == pytest.approx(entry["arms"][arm]["mean"], abs=1e-9)
                compared += 1
    assert compared > 10


def test_a_setting_that_no_one_explains_is_an_error(algorithms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algorithms, "attributes", lambda config: {})
    with pytest.raises(KeyError):
        algorithms.settings("defender", "mir2")
