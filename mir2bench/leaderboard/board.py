"""The leaderboards' folder: which entries lie there."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from mir2bench.content import content_dir
from mir2bench.leaderboard.entry import Entry, EntryError, read_entry
from mir2bench.leaderboard.ledger import require


def all_entries(board: Path | None = None) -> list[Path]:
    """Return the folders of all entries, sorted by variant and name; None looks into this installation's board."""
    board = content_dir("leaderboards") if board is None else board
    if not board.is_dir():
        raise EntryError(f"{board} is no folder: name the one that holds <variant>/<entry>/entry.json.")
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
        require(entry, board)
        found.setdefault(entry.variant, []).append(entry)
    for entries in found.values():
        _refuse_copies(entries)
    return found


def _refuse_copies(entries: list[Entry]) -> None:
    """Refuse two entries of a board with the same name, small and capital letters being equal, or the same policy."""
    names: dict[str, Entry] = {}
    for entry in entries:
        own = [f.sha256 for p in entry.policies for f in p.files if f.path in p.networks]
        for mark in (unicodedata.normalize("NFKC", entry.method.name).casefold(), *own):
            other = names.setdefault(mark, entry)
            if other is not entry:
                what = "a policy" if mark in own else "the name"
                raise EntryError(f"{entry.folder} has {what} of {other.folder}. Each row needs its own.")


def _is_ours(folder: Path) -> bool:
    if folder.name.startswith((".", "_")):
        return False
    if folder.is_symlink():
        raise EntryError(f"{folder} is a link: entries are plain folders.")
    return folder.is_dir()
