"""The notebooks run from start to end, and are committed with what they printed and drew."""

from __future__ import annotations

import json
import os
import re
import runpy
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
STRICT = "import warnings\nwarnings.simplefilter('error')"


def execute(notebook: Any) -> None:
    """Run all cells at smoke budget, as `make notebooks` does, in a kernel in which warnings are errors."""
    notebook.cells.insert(0, nbformat.v4.new_code_cell(STRICT))
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "MIR2BENCH_SMOKE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    runpy.run_path(str(ROOT / "docs" / "execute.py"))["execute"](notebook, env=env)


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def pictures(notebook: Any) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def said_in_error(notebook: Any) -> list[str]:
    """Return what was written to stderr, and the errors."""
    return [json.dumps(o) for o in outputs(notebook) if o["output_type"] == "error" or o.get("name") == "stderr"]


def test_there_are_two() -> None:
    assert [p.stem for p in NOTEBOOKS] == ["break_a_team", "inside_mir2"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path: Path) -> None:
    committed = nbformat.read(path, as_version=4)
    notebook = nbformat.read(path, as_version=4)
    execute(notebook)
    assert said_in_error(notebook) == []
    assert pictures(notebook) == pictures(committed)


@pytest.mark.parametrize("code", ["1 / 0", "import warnings\nwarnings.warn('old', stacklevel=1)"])
def test_a_broken_notebook_fails(code: str) -> None:
    with pytest.raises(CellExecutionError, match="ZeroDivisionError|UserWarning"):
        execute(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_notebook_is_whole(path: Path) -> None:
    text = path.read_text()
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(notebook.cells) <= 25
    assert len(text.encode()) < 1_000_000
    assert pictures(notebook) >= 5
    # Run once, from start to end.
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert said_in_error(notebook) == []
    # Pictures are base64, in which a slash means nothing.
    written = re.sub(r'"image/png": "[^"]*"', "", text)
    assert re.findall(r"(?<![\w.])/(?:home|root|tmp|usr|work|Users|mnt|opt|var)\b|[A-Z]:\\\\", written) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_links_lead_somewhere(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#]+)\)", prose)
    assert len(links) >= 3
    assert [x for x in links if not x.startswith("https://") and not (path.parent / x).exists()] == []
