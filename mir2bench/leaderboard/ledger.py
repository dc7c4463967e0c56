"""The keepers' ledger, `ledger.json`: which verified results were written by `verify` and `challenge`.

Whoever sends an entry could also send a `verified` block that nobody measured. A block counts only if the ledger beside
the boards names its hash, and only the keepers change the ledger: a pull request that touches it is refused.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from mir2bench.evaluation.files import replace_file
from mir2bench.leaderboard.entry import Entry, EntryError

LEDGER = "ledger.json"


def fingerprint(entry: Entry) -> str:
    """Return the sha256 of what keepers write into an entry: `verified`, `challenges` and `history`, as JSON."""
    kept = entry.model_dump(mode="json", include={"variant", "entry", "verified", "challenges", "history"})
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def record(entry: Entry, board: Path, *, beside: Entry | None = None) -> None:
    """Write an entry's present verdict into the ledger of a board; the keepers' part of `verify` and `challenge`.

    With `beside`, the entry as it is before that, both count: until the one has taken the other's place.
    """
    hashes = " ".join(fingerprint(one) for one in (entry, beside) if one is not None)
    rows = {**read_ledger(board), str(entry.folder): hashes}
    text = json.dumps(dict(sorted(rows.items())), indent=1) + "\n"
    replace_file(board / LEDGER, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def require(entry: Entry, board: Path) -> None:
    """Refuse what only keepers write if the ledger does not name it.

    Raises:
        EntryError: it does not, or the ledger cannot be read.
    """
    if entry.verified is None and not entry.challenges and not entry.history:
        return
    if fingerprint(entry) not in read_ledger(board).get(str(entry.folder), "").split():
        raise EntryError(
            f"{entry.folder} has verified results, challenges or a history that {board / LEDGER} does not name: only "
            "`verify` and `challenge`, run by the board's keepers, write them. Leave them out."
        )


def read_ledger(board: Path) -> dict[str, str]:
    """Return entry -> hash; empty if there is no ledger.

    Raises:
        EntryError: the file is no ledger.
    """
    path = board / LEDGER
    if not path.exists():
        return {}
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EntryError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}.") from error
    if not isinstance(rows, dict) or not all(isinstance(value, str) for value in rows.values()):
        raise EntryError(f"{path} must map entries to hashes.")
    return rows
