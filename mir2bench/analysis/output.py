"""The folder that an analysis writes: tables as CSV and Parquet, figures as PNG and SVG, and summary.json."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mir2bench.analysis.options import command_line
from mir2bench.errors import StudyError
from mir2bench.evaluation.figures import STYLE
from mir2bench.evaluation.files import plain, replace_file, write_json
from mir2bench.evaluation.films import write_film
from mir2bench.evaluation.monitor import default_console
from mir2bench.evaluation.scores import environment
from mir2bench.evaluation.single import claim_folder, default_out
from mir2bench.evaluation.tables import number
from mir2bench.registration import VariantSpec


def short_id(variant: VariantSpec) -> str:
    """Return a variant's id without its namespace, for titles."""
    return variant.id.rsplit("/", 1)[-1]


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Give every matplotlib `Figure` that is made inside the style of all our figures."""
    with matplotlib.rc_context(STYLE):
        yield


class Output:
    """What an analysis leaves behind. Every file is written whole or not at all.

    Args:
        name: the analysis.
        options: its options; `out` and, where it has one, `resume` say which folder is claimed.
        console: where tables and messages are shown; None for standard output.

    Raises:
        StudyError: the folder holds something already, and it is not this analysis to be resumed.
        StorageError: the folder cannot be made.
    """

    def __init__(self, name: str, options: Any, *, console: Console | None = None) -> None:
        self.name = name
        self.options = options
        self.console = console or default_console()
        self._files: list[str] = []
        root = options.out
        if not getattr(options, "resume", False):
            self.root = claim_folder(root or default_out((name,)), name)
            return
        if root is None:
            raise StudyError("--resume needs --out: the folder of the analysis to continue.")
        # What lies in study/ is compared with the options when the study is opened.
        if root.exists() and not (root.is_dir() and ((root / "study").is_dir() or not any(root.iterdir()))):
            raise StudyError(f"{root} holds no analysis that could be resumed. Choose another --out.")
        root.mkdir(parents=True, exist_ok=True)
        self.root = root.absolute()

    @property
    def study(self) -> Path:
        """Where the study lies that the analysis is built on."""
        return self.root / "study"

    def table(self, stem: str, frame: pd.DataFrame) -> None:
        """Write a table as `<stem>.csv` and `<stem>.parquet`, without its index."""
        self._write(f"{stem}.csv", lambda path: frame.to_csv(path, index=False))
        self._write(f"{stem}.parquet", lambda path: frame.to_parquet(path, index=False))

    def figure(self, stem: str, figure: Figure) -> None:
        """Write a figure as `<stem>.png` and `<stem>.svg`; the same figure gives the same files."""
        with drawing():
            self._write(f"{stem}.png", lambda path: figure.savefig(path, format="png", dpi=150))
            self._write(f"{stem}.svg", lambda path: figure.savefig(path, format="svg", metadata={"Date": None}))

    def film(self, stem: str, frames: Sequence[np.ndarray], fps: int) -> None:
        """Write frames (H, W, 3) uint8 as `<stem>.gif`."""
        write_film(self.root / f"{stem}.gif", frames, fps)
        self._files.append(f"{stem}.gif")

    def summary(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """Write summary.json: the results, the command, versions, commit and hardware. Say where all files lie.

        Returns:
            Its content.
        """
        content = {
            "schema": 1,
            "analysis": self.name,
            "command": command_line(self.name, self.options),
            **results,
            **environment(),
        }
        write_json(self.root / "summary.json", content)
        names = [*dict.fromkeys(self._files), "summary.json"]
        self.console.print(f"\n{self.root}: {', '.join(names)}", highlight=False, soft_wrap=True)
        return plain(content)

    def show(self, frame: pd.DataFrame, title: str) -> None:
        """Print a small table; numbers as in the tables of evaluation."""
        self.console.print(f"\n[bold]{escape(title)}", highlight=False, soft_wrap=True)
        table = Table(box=SIMPLE_HEAD)
        for place, column in enumerate(frame.columns):
            table.add_column(escape(str(column)), justify="right" if place else "left")
        for row in frame.itertuples(index=False):
            table.add_row(*(escape(_text(value)) for value in row))
        self.console.print(table)

    def _write(self, name: str, write: Any) -> None:
        replace_file(self.root / name, write)
        self._files.append(name)


def _text(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)
