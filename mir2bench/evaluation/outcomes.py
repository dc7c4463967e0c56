"""From episodes to what each defender earned: cells, arms, and what is missing.

A cell is one (defender seed, partition); its value under an attacker is the mean return of its episodes. An arm is a
table of cells. Where cells are missing, since jobs failed, an arm is read over the seeds that have all partitions, or,
if no seed has, over the partitions that all seeds have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mir2bench.evaluation.protocol import CLEAN, ROBUST, TRANSFER, WORST, is_transferred
from mir2bench.evaluation.scores import select

_CELL = ["defender_seed", "phi"]


@dataclass(frozen=True)
class Outcome:
    """What one defender earned on one variant.

    Attributes:
        defender: its name.
        seeds: S training seeds, ascending.
        phis: P partitions, as texts of zeros and ones; empty for plain Dec-POMDPs.
        clean: (S, E) returns of the clean episodes; NaN in the rows of seeds that were not played.
        clean_won: (S,) win rates of the clean episodes; NaN for seeds not played and in families that know no victory.
        arms: name -> table with one row per cell, indexed by (defender_seed, phi), columns attacker, return, length,
            won. There is an arm for each attacker; "transfer" (in each cell the strongest of the attackers that were
            trained against other defenders, which have no arms of their own); "robust" (the strongest of the attackers
            trained against this team) and "worst" (the strongest of all). Cells that lack one of their attackers are
            left out, except for transferred ones.
        clean_facts: mean length and win rate of the clean episodes.
        trained: names of the attackers trained against it.
        headline: the arm that robustness is judged by; "none" where nobody is adversarial.
        scripted: whether it is a scripted team, which no training seed can change.
        planned: arm -> cells that the study plans, without those in which the attacker cannot play; S * P by default.
        partial: arm -> cells whose strongest attacker was sought without all of the transferred ones.
        inapplicable: attacker -> (cells in which it cannot play, the reason).
    """

    defender: str
    seeds: tuple[int, ...]
    phis: tuple[str, ...]
    clean: np.ndarray
    clean_won: np.ndarray
    arms: dict[str, pd.DataFrame]
    clean_facts: dict[str, float]
    trained: tuple[str, ...]
    headline: str = ROBUST
    scripted: bool = False
    planned: Mapping[str, int] = field(default_factory=dict)
    partial: Mapping[str, int] = field(default_factory=dict)
    inapplicable: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    def grid(self, arm: str, value: str = "return") -> pd.DataFrame:
        """Return the mean returns of an arm by seed and partition, (S, P), or (S, 1) for the clean one.

        NaN where a cell is missing. With `value` "won" they are win rates.
        """
        if arm == CLEAN:
            means = self.clean.mean(axis=1) if self.clean.size else np.full(len(self.seeds), np.nan)
            return pd.DataFrame({"": means if value == "return" else self.clean_won}, index=pd.Index(self.seeds))
        if arm not in self.arms:
            return pd.DataFrame(dict.fromkeys(self.phis, np.nan), index=pd.Index(self.seeds))
        grid: Any = self.arms[arm][value].astype("Float64").astype(float).unstack("phi")
        return grid.reindex(index=list(self.seeds), columns=list(self.phis))

    def whole(self, arm: str) -> pd.DataFrame:
        """Return `grid` without gaps: its whole seeds, or if there is none the partitions that all its seeds have."""
        grid = self.grid(arm)
        seeds = grid.dropna()
        return seeds if len(seeds) else grid.dropna(how="all").dropna(axis=1)

    def matrix(self, arm: str) -> np.ndarray:
        """Return the mean returns of an arm without gaps: (S, P), or (S, 1) for the clean one."""
        return self.whole(arm).to_numpy(dtype=np.float64)

    def wins(self, arm: str) -> np.ndarray:
        """Return the win rates of the cells in `matrix`; NaN in families that know no victory."""
        whole = self.whole(arm)
        return self.grid(arm, "won").loc[whole.index, whole.columns].to_numpy(dtype=np.float64)

    def facts(self, arm: str) -> dict[str, float]:
        """Return mean length and win rate of the cells in `whole`."""
        if arm == CLEAN:
            return self.clean_facts
        whole, table = self.whole(arm), self.arms[arm]
        seeds, phis = (table.index.get_level_values(level) for level in _CELL)
        return facts_of(table[seeds.isin(whole.index) & phis.isin(whole.columns)])


def tabulate(
    scores: pd.DataFrame,
    variant: str,
    defenders: Sequence[str],
    *,
    headline: str = ROBUST,
    cells: pd.DataFrame | None = None,
    scripted: Iterable[str] = (),
) -> list[Outcome]:
    """Gather the table of episodes into one `Outcome` for each of `defenders`, in their order.

    Args:
        scores: see `scores.collect_scores`.
        variant: which part of it.
        defenders: whose.
        headline: the arm that the protocol judges by.
        cells: what was planned, see `scores.collect_cells`; None if nothing but what is in `scores`.
        scripted: which defenders are scripted teams.
    """
    if cells is None:
        cells = scores.drop_duplicates(["variant", "defender", *_CELL, "attacker"]).assign(state="done", reason="")
    return [
        _outcome(
            name,
            select(scores, variant=variant, defender=name),
            select(cells, variant=variant, defender=name),
            headline,
            name in scripted,
        )
        for name in defenders
    ]


def _outcome(defender: str, rows: Any, cells: Any, headline: str, scripted: bool) -> Outcome:
    seeds = tuple(sorted(int(s) for s in cells["defender_seed"].unique()))
    clean_rows = rows[rows["attacker"] == CLEAN]
    clean = clean_rows.pivot(index="defender_seed", columns="episode", values="return").reindex(list(seeds))
    clean_won = clean_rows["won"].astype("Float64").groupby(clean_rows["defender_seed"]).mean().reindex(list(seeds))
    attacked = rows[rows["attacker"] != CLEAN].copy()
    attacked["won"] = attacked["won"].astype("Float64")
    trained_rows = attacked["attacker_seed"].notna() & ~attacked["attacker"].map(is_transferred).astype(bool)
    attacked["attacker_seed"] = attacked["attacker_seed"].fillna(-1)
    means = attacked.groupby([*_CELL, "attacker", "attacker_seed"])[["return", "length", "won"]].mean().reset_index()
    trained = tuple(sorted(attacked.loc[trained_rows, "attacker"].unique()))

    attacks = cells[cells["attacker"] != CLEAN]
    missing = attacks[attacks["state"] == "missing"]
    inapplicable = attacks[attacks["state"] == "not applicable"]
    names = sorted(attacks["attacker"].unique())
    members = {name: [name] for name in names if not is_transferred(name)}
    if len(members) < len(names):
        members[TRANSFER] = [name for name in names if is_transferred(name)]
    if trained:
        members[ROBUST] = list(trained)
    if names:
        members[WORST] = names
    arms, planned, partial = {}, {}, {}
    for arm, who in members.items():
        gaps = missing[missing["attacker"].isin(who)]
        foreign = gaps["attacker"].map(is_transferred).astype(bool)
        table = means[means["attacker"].isin(who)].sort_values("return", kind="stable").groupby(_CELL).first()
        arms[arm] = table[~table.index.isin(_cells_of(gaps[~foreign]))]
        partial[arm] = int(arms[arm].index.isin(_cells_of(gaps[foreign])).sum())
        wanted = attacks[attacks["attacker"].isin(who) & (attacks["state"] != "not applicable")]
        planned[arm] = len(_cells_of(wanted).unique())
    return Outcome(
        defender=defender,
        seeds=seeds,
        phis=tuple(sorted(attacks["phi"].unique(), reverse=True)),  # first agent first
        clean=clean.to_numpy(dtype=np.float64),
        clean_won=clean_won.to_numpy(dtype=np.float64),
        arms={arm: table for arm, table in arms.items() if len(table)},
        clean_facts=facts_of(clean_rows),
        trained=trained,
        headline=headline if names else CLEAN,
        scripted=scripted,
        planned={**planned, CLEAN: len(seeds)},
        partial=partial,
        inapplicable={
            str(name): (len(part), str(next(iter(part["reason"])))) for name, part in inapplicable.groupby("attacker")
        },
    )


def _cells_of(rows: Any) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(rows[_CELL])


def weak_attacks(outcome: Outcome) -> list[dict[str, Any]]:
    """Return the cells in which another attacker beat those trained against the team: there the training fell short."""
    if ROBUST not in outcome.arms or WORST not in outcome.arms:
        return []
    robust = outcome.arms[ROBUST]["return"].to_frame("robust")
    both: Any = outcome.arms[WORST].join(robust, how="inner").reset_index()
    return both.loc[both["return"] < both["robust"], [*_CELL, "robust", "attacker", "return"]].to_dict("records")


def facts_of(table: Any) -> dict[str, float]:
    """Return mean length and win rate, NaN in families that know no victory, of a table of cells or episodes."""
    won = table["won"].astype("Float64").dropna()
    return {
        "length": float(table["length"].mean()),
        "win_rate": float(won.mean()) if len(won) else float("nan"),
    }
