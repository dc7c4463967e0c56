"""Playing bundles of adversaries against an entry: a new challenge, or an accepted one once more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mir2bench.errors import Mir2BenchError, PolicyError
from mir2bench.evaluation.contenders import load_team_bundle, make_scripted
from mir2bench.evaluation.jobs import phi_of, phi_text
from mir2bench.evaluation.scores import COLUMNS
from mir2bench.evaluation.single import load_adversaries
from mir2bench.leaderboard.check import MAX_ANSWER, check_entry, plain_files
from mir2bench.leaderboard.entry import POLICIES, Entry, EntryError
from mir2bench.leaderboard.sandbox import Limits, run_limited
from mir2bench.learning.rollout import rollout
from mir2bench.registration import VariantSpec, spec

_TEAM = "the entry's team"
_SECONDS_PER_STEP = 2e-3 + MAX_ANSWER / 64  # of a world and an attack, and of the slowest policy that `check` passes


def work_limits(steps: int) -> Limits:
    """Return limits for so many steps of single worlds. The clock's is for a machine with much other work."""
    seconds = steps * _SECONDS_PER_STEP
    return Limits(cpu_s=int(120 + seconds), wall_s=int(1200 + 10 * seconds))


def play(
    entry: Entry,
    folder: Path,
    bundles: Sequence[Path],
    phis: Sequence[str],
    first_seed: int,
    episodes: int,
    *,
    isolated: bool,
) -> list[dict[str, Any]]:
    """Play each bundle of adversaries against each policy of an entry.

    Args:
        entry: what is attacked.
        folder: where it lies.
        bundles: the adversaries.
        phis: partitions that they may play.
        first_seed: of the first episode; the others count up from it.
        episodes: of each cell.
        isolated: whether to play in a process with limits.

    Returns:
        Cells: "bundle" (its place), "seed" (of the policy), "phi", and "return", "length" and "won" of their episodes,
        or "failed" where the policy failed.

    Raises:
        EntryError: a bundle does not fit, or its own answer cannot be played.
    """
    order = {
        "folder": str(folder.absolute()),
        "bundles": [str(bundle.absolute()) for bundle in bundles],
        "phis": list(phis),
        "first_seed": first_seed,
        "episodes": episodes,
    }
    steps = len(bundles) * (len(entry.training.seeds) or 1) * episodes * spec(entry.variant).horizon
    return run_limited("play", order, work_limits(steps)) if isolated else play_task(**order)


def play_task(folder: str, bundles: list[str], phis: list[str], first_seed: int, episodes: int) -> list[dict[str, Any]]:
    """See `play`."""
    entry = check_entry(folder, isolated=False)
    variant = spec(entry.variant)
    seeds = [first_seed + episode for episode in range(episodes)]
    played = []
    for number, bundle in enumerate(bundles):
        plain_files(Path(bundle))
        try:
            phi, adversary = load_adversaries(Path(bundle), variant)
        except (Mir2BenchError, ValueError) as error:
            raise EntryError(str(error)) from error
        if phi_text(phi) not in phis:
            raise EntryError(
                f"{bundle} plays phi {phi.label}, which was not verified: only verified cells can be lowered."
            )
        for seed, team in _teams(entry, Path(folder), variant):
            cell = {"bundle": number, "seed": seed, "phi": phi_text(phi)}
            try:
                found = rollout(
                    variant,
                    team,
                    phi_of(phi_text(phi)),
                    adversary,
                    seeds,
                    team_name=_TEAM,
                    adversary_name="the challenger",
                )
            except PolicyError as error:
                if not str(error).startswith((f"{_TEAM}: ", f"{_TEAM} returned ")):
                    raise EntryError(str(error)) from error
                played.append({**cell, "failed": str(error)})
                continue
            won = None if found.won is None else found.won.tolist()
            played.append({**cell, "return": found.returns.tolist(), "length": found.lengths.tolist(), "won": won})
    if not played:
        raise EntryError("name at least one bundle of adversaries.")
    return played


def tables_of(entry: Entry, attacker: str, played: Sequence[Mapping[str, Any]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the raw episodes of what was played, and the cells that the policy failed, see `with_failures`."""
    rows = [
        (entry.variant, entry.entry, cell["seed"], attacker, cell["bundle"] + 1, cell["phi"], episode, *values)
        for cell in played
        if "failed" not in cell
        for episode, values in enumerate(
            zip(cell["return"], cell["length"], cell["won"] or [pd.NA] * len(cell["return"]), strict=True)
        )
    ]
    lost = [(entry.variant, entry.entry, cell["seed"], attacker, cell["phi"]) for cell in played if "failed" in cell]
    table = pd.DataFrame(rows, columns=pd.Index(list(COLUMNS))).astype(COLUMNS)
    return table, pd.DataFrame(lost, columns=pd.Index(["variant", "defender", "defender_seed", "attacker", "phi"]))


def _teams(entry: Entry, folder: Path, variant: VariantSpec) -> list[tuple[int, Any]]:
    if entry.method.kind == "scripted":
        return [(0, make_scripted(variant, entry.method.algorithm))]
    return [(seed, load_team_bundle(folder / POLICIES / f"seed{seed}", variant)) for seed in entry.training.seeds]
