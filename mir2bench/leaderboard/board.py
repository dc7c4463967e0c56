"""The leaderboards' folder: which entries lie there."""

from __future__ import annotations

from pathlib import Path

from mir2bench.content import content_dir
from mir2bench.leaderboard.entry import Entry, EntryError, read_entry


def all_entries(board: Path | None = None) -> list[Path]:
    """Return the folders of all entries, sorted by variant and name; None looks into this installation's board."""
    board = content_dir("leaderboards") if board is None else board
    variants = [folder for folder in sorted(board.iterdir()) if _is_ours(folder)]
    return [folder for variant in variants for folder in sorted(variant.iterdir()) if _is_ours(folder)]


def read_board(board: Path | None = None) -> dict[str, list[Entry]]:
    """Return variant id -> its entries.

    Raises:
        EntryError: an entry is damaged, or lies where another belongs.
    """
    board = content_dir("leaderboards") if board is None else board
    found: dict[str, list[Entry]] = {}
    for folder in all_entries(board):
        entry = read_entry(folder)
        if folder != board / entry.folder:
            raise EntryError(f"{folder} holds the entry {entry.folder}: it must lie there.")
        found.setdefault(entry.variant, []).append(entry)
    return found


def _is_ours(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and not folder.name.startswith((".", "_"))
