"""Run the notebooks of `docs/notebooks` and keep what they print and draw: `python docs/notebooks.py`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent / "notebooks"


def run(path: Path) -> Any:
    """Return the notebook with the outputs of a run from its first cell to its last.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    options = {"kernel_name": "python3", "resources": where, "record_timing": False, "coalesce_streams": True}
    NotebookClient(notebook, timeout=600, **options).execute()
    return notebook


if __name__ == "__main__":
    for name in sorted(FOLDER.glob("*.ipynb")):
        print(name)
        nbformat.write(run(name), name)
    sys.exit()
