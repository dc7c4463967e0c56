"""The leaderboards' folder: which entries lie there."""

from __future__ import annotations

from pathlib import Path

from mir2bench.content import content_dir


def all_entries(board: Path | None = None) -> list[Path]:
    """Return the folders of all entries, sorted by variant and name; None looks into this installation's board."""
    board = content_dir("leaderboards") if board is None else board
    return sorted(folder for folder in board.glob("*/*") if folder.is_dir())
