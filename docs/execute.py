"""Execute the notebooks in `docs/notebooks/` and keep what they print and draw: `make notebooks`.

The same software gives the same files: no times are recorded, and pieces of one output are joined.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).with_name("notebooks")


def execute(notebook: Any, **options: Any) -> None:
    """Run all cells of a notebook, in place, in a new kernel of this Python.

    Args:
        notebook: of nbformat 4.
        options: of the kernel, such as `env`.

    Raises:
        CellExecutionError: a cell failed.
    """
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(FOLDER)}},
    ).execute(**options)


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.ipynb")):
        print(path.name)
        opened = nbformat.read(path, as_version=4)
        execute(opened)
        nbformat.write(opened, path)
