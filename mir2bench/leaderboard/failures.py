"""What an evaluation counts that the policy failed: never more than what playing on would have given."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mir2bench.evaluation.scores import COLUMNS
from mir2bench.leaderboard.check import read_episodes
from mir2bench.leaderboard.entry import EntryError, read_entry
from mir2bench.registration import VariantSpec


def lowest_return(variant: VariantSpec, folder: Path, tables: Iterable[pd.DataFrame]) -> float:
    """Return the lowest of the variant's floor and all finite returns of some tables and of the board's sanity rows.

    A floor alone would not do: a strong attack can push a team below it, and failing would pay.

    Args:
        variant: the world.
        folder: the entry's; the board's sanity rows lie beside it.
        tables: raw episodes.
    """
    found = [np.array([variant.floor.score])] + [table["return"].to_numpy(np.float64) for table in tables]
    for sibling in sorted(p for p in folder.absolute().parent.iterdir() if p.is_dir() and not p.name.startswith(".")):
        with contextlib.suppress(EntryError):  # whatever else lies there
            entry = read_entry(sibling)
            if entry.method.kind == "scripted" and entry.variant == variant.id and entry.verified is not None:
                found.append(read_episodes(sibling / entry.verified.episodes.path)["return"].to_numpy(np.float64))
    values = np.concatenate(found)
    return float(values[np.isfinite(values)].min())


def with_failures(rows: pd.DataFrame, lost: pd.DataFrame, pay: float, episodes: int) -> pd.DataFrame:
    """Add the evaluations that the policy failed: episodes of no step that pay the lowest return.

    Args:
        rows: raw episodes of those that it did not fail.
        lost: a row for each failed evaluation, with the columns variant, defender, defender_seed, attacker, and phi.
        pay: see `lowest_return`.
        episodes: of each evaluation.
    """
    if lost.empty:
        return rows.reset_index(drop=True)
    won: Any = pd.NA if bool(rows["won"].isna().to_numpy().all()) else False
    # Restarts of an attack that all failed are told apart by numbers that no attack's seed can be.
    again = lost.groupby(["defender_seed", "attacker", "phi"]).cumcount().to_list()
    added: list[dict[Any, Any]] = [
        {**cell, "attacker_seed": -n if n else pd.NA, "episode": episode, "return": pay, "length": 0, "won": won}
        for cell, n in zip(lost.to_dict("records"), again, strict=True)
        for episode in range(episodes)
    ]
    table: Any = pd.DataFrame(added)
    return pd.concat([rows, table[list(COLUMNS)].astype(COLUMNS)], ignore_index=True)
