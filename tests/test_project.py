"""The project's files agree with each other: versions, dependencies, commands, documents, code rules."""

from __future__ import annotations

import ast
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mir2bench

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
SOURCES = sorted((ROOT / "mir2bench").rglob("*.py"))
DOCUMENTS = sorted(p for p in ROOT.glob("*.md")) + sorted(
    p for folder in ("docs", "baselines", "leaderboards") for p in (ROOT / folder).rglob("*.md")
)
MAKEFILE = (ROOT / "Makefile").read_text()


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# --- code ---


def forbidden(tree: ast.AST) -> Iterator[str]:
    """Name what the package must not do: pickle, assert, or seed torch's global generator without restoring it."""
    forked = {
        id(inner)
        for block in ast.walk(tree)
        if isinstance(block, ast.With) and any("fork_rng" in ast.unparse(i.context_expr) for i in block.items)
        for inner in ast.walk(block)
    }
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        for module in modules:
            if module.split(".")[0] in ("pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "random"):
                yield f"line {node.lineno}: imports {module}"
        if isinstance(node, ast.Assert):
            yield f"line {node.lineno}: asserts"
        if isinstance(node, ast.Call) and id(node) not in forked:
            called = ast.unparse(node.func)
            if called in ("torch.load", "torch.save", "torch.manual_seed"):
                yield f"line {node.lineno}: calls {called}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield f"line {node.value.lineno}: allow_pickle"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import pickle", "line 1: imports pickle"),
        ("from cloudpickle import dumps", "line 1: imports cloudpickle"),
        ("x = 1\nassert x", "line 2: asserts"),
        ("torch.load(path)", "line 1: calls torch.load"),
        ("np.load(path, allow_pickle=True)", "line 1: allow_pickle"),
        ("torch.manual_seed(0)", "line 1: calls torch.manual_seed"),
        ("with torch.random.fork_rng():\n    torch.manual_seed(0)", None),
        ("import numpy.random", None),
    ],
)
def test_the_search_for_forbidden_code_finds_it(code: str, found: str | None) -> None:
    assert list(forbidden(ast.parse(code))) == ([found] if found else [])


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_sources_keep_the_rules(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    watched = ["imports random"] if path.parent.name == "testing" else []  # only to see that nobody touches its state
    assert [found for found in forbidden(tree) if found.partition(": ")[2] not in watched] == []
    assert text.count("\n") < 500, "look for a seam"


def test_only_engine_and_registry_name_a_family() -> None:
    word = re.compile("rendezvous", re.IGNORECASE)
    general = [p for p in SOURCES if p.parent.name in ("learning", "defenders", "attackers", "views")]
    assert len(general) > 10
    assert [name(p) for p in general if word.search(_code(p))] == []


def _code(path: Path) -> str:
    """A file's text without docstrings and comments."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [n for n in body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]  # type: ignore[attr-defined]
    return ast.unparse(tree)


# --- versions and dependencies ---


def test_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == mir2bench.__version__
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    releases = re.findall(r"^## (\d+\.\d+\.\d+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert releases[0] == mir2bench.__version__


def test_lock_pins_every_dependency_within_its_range() -> None:
    lines = [x for x in (ROOT / "requirements.lock").read_text().splitlines() if not x.startswith("#")]
    # Plain pins alone: no addresses, no paths, no builds of one machine.
    assert [x for x in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", x)] == []
    pins = {canonicalize_name(x.split("==")[0]): x.split("==")[1] for x in lines}
    assert len(pins) == len(lines)
    assert pins["torch"] == "2.13.0"
    wanted = [Requirement(r) for r in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]
    wrong = [str(r) for r in wanted if not r.specifier.contains(pins.get(canonicalize_name(r.name), "0"))]
    assert wrong == []


def test_dependencies_are_those_that_are_imported() -> None:
    imported: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    distributions = {"PIL": "pillow", "sklearn": "scikit-learn"}
    # Films, extras and a peer for speed; the errors of the former name the pip line.
    optional = {"imageio_ffmpeg", "jax", "jaxmarl", "jinja2", "mujoco", "gymnasium_robotics", "onnx", "onnxruntime"}
    optional |= {"envpool", "ray"}
    declared = {canonicalize_name(Requirement(r).name) for r in PROJECT["dependencies"]}
    third = {m for m in imported if m not in sys.stdlib_module_names} - {"mir2bench"} - optional
    assert {canonicalize_name(distributions.get(m, m)) for m in third} <= declared


def test_extras_that_errors_name_exist() -> None:
    needed = {mir2bench.spec(i).requires for i in mir2bench.list_variants()} - {""}
    assert needed <= set(PROJECT["optional-dependencies"])


# --- commands ---


def test_the_two_commands_are_make_targets() -> None:
    commands = re.findall(r"^make (\w+)", README, re.MULTILINE)
    assert commands == ["evaluate", "test"]
    for command in commands:
        assert re.search(rf"^{command}:", MAKEFILE, re.MULTILINE)
    assert "-m mir2bench.evaluate --algo maddpg mir2\n" in MAKEFILE


def test_continuous_integration_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().endswith("make test")


def test_readme_names_every_command_line_and_no_other() -> None:
    commands = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for p in SOURCES
        if 'if __name__ == "__main__":' in p.read_text() and p.stem != "sandbox"  # that one is started by another
    } - {"mir2bench"}  # the console command, which calls these
    rows = re.findall(r"^\| (`mir2bench\.\w+`(?:, `mir2bench\.\w+`)*) \|", README, re.MULTILINE)
    assert sorted(re.findall(r"mir2bench\.\w+", " ".join(rows))) == sorted(commands)
    for document in DOCUMENTS:
        assert set(re.findall(r"python -m (mir2bench\.\w+)", document.read_text())) <= commands


def test_precommit_hooks_use_installed_tools() -> None:
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repo["repo"] == "local"
    tools = {hook["entry"].split()[0].rpartition("/")[2] for hook in repo["hooks"]} - {"sh"}
    assert tools == {"ruff", "codespell", "lint-imports"}
    assert tools <= set(re.findall(r"\$\(BIN\)/([\w-]+)", MAKEFILE))


# --- documents ---


def test_readme_is_short_and_shows_a_picture() -> None:
    assert len(README.splitlines()) <= 100
    (image,) = re.findall(r"!\[.+\]\((.+)\)", README)
    assert 10_000 < (ROOT / image).stat().st_size < 2_000_000


def test_readme_shows_the_current_board() -> None:
    board = json.loads((ROOT / "leaderboards/Rendezvous10-adv1-v0/board.json").read_text())
    shown = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \|$", README, re.MULTILINE)

    def text(score: dict[str, Any]) -> str:
        return f"{score['mean']:.2f} [{score['ci'][0]:.2f}, {score['ci'][1]:.2f}]"

    rows = [(row["group"], row["name"], text(row["clean"]), text(row["worst"])) for row in board["verified"]]
    assert shown == [row for row in rows if row[1] not in ("Scripted: idle", "Scripted: random")]
