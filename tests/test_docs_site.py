"""The documentation site builds without a warning, and its tables leave out no number that agents see."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mkdocs.exceptions import PluginError

import mir2bench
from mir2bench.errors import MissingDependencyError

ROOT = Path(__file__).parent.parent
FAMILIES = sorted({mir2bench.spec(v).family for v in mir2bench.list_variants()})


@pytest.fixture(scope="module")
def reference() -> Any:
    found = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {p.relative_to(tmp_path / "site").as_posix(): p.read_text() for p in tmp_path.rglob("*.html")}
    assert "mir2bench/Rendezvous10-v0" in pages["environments/rendezvous.html"]
    assert "2,000,000,000,000" in pages["protocols.html"]
    for notebook in ("break_a_team", "inside_mir2"):
        assert pages[f"notebooks/{notebook}.html"].count('src="data:image/png;base64,') >= 5
    assert "generated:" not in "".join(pages.values())
    # Nothing is fetched from elsewhere when a page is viewed.
    fetched = re.compile(
        r"""<(?:script|img|iframe)[^>]*\ssrc="?https?:|<link[^>]*rel="?stylesheet[^>]*href="?https?:"""
    )
    assert [name for name, text in pages.items() if fetched.search(text)] == []


@pytest.mark.parametrize("missing", ["nowhere.md", "nowhere/", "repository/NOWHERE.md"])
def test_a_page_of_the_navigation_that_is_not_there_is_an_error(missing: str) -> None:
    hooks = runpy.run_path(str(ROOT / "docs" / "hooks.py"))
    config = SimpleNamespace(docs_dir=str(ROOT / "docs"), nav=["index.md", {"Notebooks": ["notebooks/"]}])
    expected = ["index.md", {"Notebooks": ["notebooks/break_a_team.md", "notebooks/inside_mir2.md"]}]
    assert hooks["on_config"](config).nav == expected
    config.nav = ["index.md", {"Home": [{"Page": missing}]}]
    with pytest.raises(PluginError, match=missing):
        hooks["on_config"](config)


@pytest.mark.parametrize("variant", mir2bench.list_variants())
def test_every_field_is_described_once(reference: Any, variant: str) -> None:
    chosen = mir2bench.spec(variant)
    try:
        layout = chosen.layout
    except MissingDependencyError as error:
        pytest.skip(str(error))
    for kind, names in (("Observation", layout.observation_fields), ("State", layout.state_fields)):
        lines = reference.field_lines(chosen.engine.partition(":")[0], kind)
        for name in {reference.general(n) for n in names}:
            found = [p for patterns, _, _ in lines for p in patterns if fnmatchcase(name, p)]
            assert len(found) == 1, (kind, name)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_page(family: str) -> None:
    pages = [p.read_text() for p in (ROOT / "docs" / "environments").glob("*.md")]
    assert sum(f"<!-- generated: variants {family} -->" in page for page in pages) == 1
