"""Writing what keepers find into an entry: its folder and its files change together, or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mir2bench.evaluation.files import plain, replace_file, storing
from mir2bench.leaderboard.entry import ENTRY_FILE, EPISODES, PICTURE, VERIFIED, Entry, dump_entry, parse_entry
from mir2bench.leaderboard.ledger import record
from mir2bench.leaderboard.new import describe

_AT_FDCWD, _EXCHANGE = -100, 2  # of Linux's renameat2


def write_verified(
    entry: Entry,
    folder: Path,
    verdict: Mapping[str, Any],
    rows: pd.DataFrame,
    kind: str,
    reason: str,
    change: Callable[[Path], Entry] | None = None,
) -> Entry:
    """Write `verified` with its episodes; what it replaces goes into `history`.

    All of it is written into a copy of the folder, which takes the place of the old one in one step. The board's ledger
    names both until that is done: whenever this is interrupted, an entry lies there that keeps every rule.

    Args:
        entry: as it was.
        folder: where it lies.
        verdict: the content of `Verified`, without `episodes`.
        rows: the raw episodes.
        kind, reason: for the history.
        change: gets the copy, may write files into it, and returns the entry with what else is new.
    """
    board = folder.absolute().parent.parent
    with _staged(folder) as stage:
        content = json.loads(dump_entry(entry if change is None else change(stage)))
        if entry.verified is not None:
            old = content["verified"]
            content["history"].append(
                {
                    "date": verdict["date"],
                    "kind": kind,
                    "table": "verified",
                    "reason": reason,
                    **{name: old[name] for name in ("clean", "worst", "iqm", "salt_sha256")},
                }
            )
        (stage / VERIFIED).mkdir(exist_ok=True)
        path = stage / VERIFIED / EPISODES
        replace_file(path, lambda temporary: public(rows).to_parquet(temporary, index=False, compression="zstd"))
        content["verified"] = {**verdict, "episodes": describe(stage, f"{VERIFIED}/{EPISODES}")}
        if (stage / VERIFIED / PICTURE).exists():
            content["verified"]["picture"] = describe(stage, f"{VERIFIED}/{PICTURE}")
        written = parse_entry(json.dumps(plain(content)), str(folder / ENTRY_FILE))
        replace_file(stage / ENTRY_FILE, lambda temporary: temporary.write_text(dump_entry(written), encoding="utf-8"))
        record(written, board, beside=entry)
    record(written, board)
    return written


def public(rows: pd.DataFrame) -> pd.DataFrame:
    """Return raw episodes without the attackers' seeds, which would give the salt's away: they are numbered instead."""
    rows = rows.copy()
    rows["attacker_seed"] = rows.groupby(["defender_seed", "attacker"])["attacker_seed"].rank("dense").astype("Int64")
    return rows


@contextlib.contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """Lend a copy of a folder that takes its place at the end, in one step; after an error nothing has changed."""
    folder = folder.absolute()
    stage = folder.with_name(f".{folder.name}.tmp")
    with storing(folder):
        shutil.rmtree(stage, ignore_errors=True)  # left by a process that was killed
        shutil.copytree(folder, stage)
    try:
        yield stage
        with storing(folder):
            for path in sorted(p for p in stage.rglob("*") if p.is_file()):
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            _exchange(stage, folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders: in one step under Linux, elsewhere in three."""
    with contextlib.suppress(OSError, AttributeError):
        swap = ctypes.CDLL(None, use_errno=True).renameat2
        if swap(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0:
            return
    aside = one.with_name(f"{one.name}.old")
    os.rename(other, aside)
    os.rename(one, other)
    os.rename(aside, one)
