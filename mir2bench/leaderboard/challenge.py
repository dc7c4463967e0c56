"""A stronger attack, given as bundles of adversaries: it can only lower a row, and the old value stays in `history`."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from mir2bench.errors import Mir2BenchError
from mir2bench.evaluation.contenders import load_team_bundle, make_scripted
from mir2bench.evaluation.jobs import phi_of, phi_text
from mir2bench.evaluation.protocol import get_protocol
from mir2bench.evaluation.scores import COLUMNS, environment
from mir2bench.evaluation.single import load_adversaries
from mir2bench.leaderboard.check import check_entry, plain_files, read_episodes
from mir2bench.leaderboard.entry import (
    CHALLENGES,
    POLICIES,
    Challenge,
    Entry,
    EntryError,
    Verified,
    dump_entry,
    explain,
    parse_entry,
)
from mir2bench.leaderboard.new import About, copy_bundle
from mir2bench.leaderboard.salt import salt_hash, salted_draw
from mir2bench.leaderboard.sandbox import Limits, run_limited
from mir2bench.leaderboard.scoring import scores_of
from mir2bench.leaderboard.verify import write_verified
from mir2bench.learning.rollout import rollout
from mir2bench.registration import VariantSpec, spec

_LIMITS = Limits(cpu_s=600, wall_s=1800)


def challenge_entry(
    folder: Path, bundles: Sequence[Path], about: About, salt: bytes, *, isolated: bool = True
) -> tuple[Entry, int]:
    """Play adversaries against a verified entry, on the seeds of its verification; lower the row if they are stronger.

    Args:
        folder: the entry.
        bundles: adversaries, each for one partition that the verification attacked; each plays against all seeds.
        about: the attack's name, its authors, description and links.
        salt: the secret of the entry's verification.
        isolated: whether to play in a process with limits.

    Returns:
        The entry as it is now, and the number of cells that were lowered.

    Raises:
        EntryError: the entry is not verified or with another salt, the name is taken, a bundle does not fit, or no cell
            was lowered: then nothing has changed.
    """
    claim = _claim(about)
    entry = check_entry(folder, isolated=isolated, board=folder.absolute().parent.parent)
    verified, variant = entry.verified, spec(entry.variant)
    if verified is None:
        raise EntryError(f"{entry.entry} is not verified yet: `verify` it first.")
    if verified.salt_sha256 != salt_hash(salt):
        raise EntryError("the entry was verified with another salt: name that one with --salt, or verify again.")
    if about.name in {challenge.name for challenge in entry.challenges}:
        raise EntryError(f"there is a challenge `{about.name}` already. Choose another --name.")
    arguments = {
        "folder": str(folder.absolute()),
        "bundles": [str(bundle.absolute()) for bundle in bundles],
        "first_seed": salted_draw(salt, variant, get_protocol(verified.protocol), None).first_episode,
        "episodes": verified.budget.episodes,
    }
    played = run_limited("play", arguments, _LIMITS) if isolated else play_task(**arguments)
    column = f"challenge:{about.name}"
    added = pd.DataFrame(
        [
            (entry.variant, entry.entry, cell["seed"], column, number, cell["phi"], episode, value, length, won)
            for cell in played
            for number in (cell["bundle"] + 1,)
            for episode, (value, length, won) in enumerate(
                zip(cell["return"], cell["length"], cell["won"] or [pd.NA] * len(cell["return"]), strict=True)
            )
        ],
        columns=pd.Index(list(COLUMNS)),
    ).astype(COLUMNS)
    lowered = _lowered(verified, played)
    if not lowered:
        raise EntryError(
            f"`{about.name}` is not stronger than what the row has met already, in any of {len(played)} cells: "
            "nothing changes."
        )
    rows = pd.concat([read_episodes(folder / verified.episodes.path), added], ignore_index=True)
    study = {
        "protocol": {"name": verified.protocol},
        "attackers": {},
        "budget": verified.budget.model_dump(),
        "mir2bench": environment()["versions"]["mir2bench"],
    }
    found = scores_of(
        rows,
        None,
        variant,
        study,
        commit=environment()["git_commit"],
        provisional=verified.provisional,
        not_applicable=verified.not_applicable,
    )
    kept = json.loads(verified.model_dump_json())
    verdict = {
        **found,
        **{name: kept[name] for name in ("attackers_sha256", "curves", "salt_sha256", "cells_total", "failures")},
    }
    if verdict["worst"]["mean"] > kept["worst"]["mean"]:
        raise EntryError("a challenge cannot raise a row.")
    reason = f"a stronger attack, {column}, lowered {lowered} of {len(kept['cells'])} cells"
    try:
        challenged = _with_challenge(entry, folder, bundles, {**claim, "lowered": lowered}, played)
        return write_verified(challenged, folder, verdict, rows, "challenge", reason), lowered
    except BaseException:
        shutil.rmtree(folder / CHALLENGES / about.name, ignore_errors=True)
        raise


def _claim(about: About) -> dict[str, Any]:
    """Return what a challenge says about itself.

    Raises:
        EntryError: a text or a link breaks a rule.
    """
    placeholder = {"path": f"{CHALLENGES}/{about.name}/0/policy.json", "sha256": "0" * 64, "bytes": 1}
    claim = {
        "name": about.name,
        "description": about.description or f"Adversaries of {about.name}.",
        "authors": list(about.authors) or ["unknown"],
        "links": {"paper": about.paper, "code": about.code, "page": about.page},
        "date": str(datetime.datetime.now(datetime.UTC).date()),
    }
    try:
        Challenge.model_validate_json(
            json.dumps({**claim, "lowered": 1, "adversaries": [{"phi": "1", "files": [placeholder, placeholder]}]})
        )
    except ValidationError as error:
        raise EntryError(f"the challenge: {explain(error)}.") from error
    return claim


def play_task(folder: str, bundles: list[str], first_seed: int, episodes: int) -> list[dict[str, Any]]:
    """Play each bundle of adversaries against each policy of an entry; return the episodes of each cell."""
    entry = check_entry(folder, isolated=False)
    variant = spec(entry.variant)
    verified = {cell.phi for cell in entry.verified.cells} if entry.verified else set()
    seeds = [first_seed + episode for episode in range(episodes)]
    played = []
    for number, bundle in enumerate(bundles):
        plain_files(Path(bundle))
        try:
            phi, adversary = load_adversaries(Path(bundle), variant)
        except (Mir2BenchError, ValueError) as error:
            raise EntryError(str(error)) from error
        if phi_text(phi) not in verified:
            raise EntryError(
                f"{bundle} plays phi {phi.label}, which was not verified: only verified cells can be lowered."
            )
        for seed, team in _teams(entry, Path(folder), variant):
            found = rollout(variant, team, phi_of(phi_text(phi)), adversary, seeds, adversary_name="the challenger")
            won = None if found.won is None else found.won.tolist()
            cell = {"bundle": number, "seed": seed, "phi": phi_text(phi), "won": won}
            played.append({**cell, "return": found.returns.tolist(), "length": found.lengths.tolist()})
    if not played:
        raise EntryError("name at least one bundle of adversaries.")
    return played


def _teams(entry: Entry, folder: Path, variant: VariantSpec) -> list[tuple[int, Any]]:
    if entry.method.kind == "scripted":
        return [(0, make_scripted(variant, entry.method.algorithm))]
    return [(seed, load_team_bundle(folder / POLICIES / f"seed{seed}", variant)) for seed in entry.training.seeds]


def _lowered(verified: Verified, played: Sequence[dict[str, Any]]) -> int:
    """Return in how many cells the challenger is the strongest so far."""
    best: dict[tuple[int, str], float] = {}
    for cell in played:
        key = (cell["seed"], cell["phi"])
        best[key] = min(best.get(key, np.inf), float(np.mean(cell["return"])))
    return sum(best.get((cell.seed, cell.phi), np.inf) < cell.worst for cell in verified.cells)


def _with_challenge(
    entry: Entry, folder: Path, bundles: Sequence[Path], claim: Mapping[str, Any], played: Sequence[dict[str, Any]]
) -> Entry:
    """Copy the bundles into the entry's folder and name them in the entry."""
    root = folder / CHALLENGES / claim["name"]
    if root.exists():
        shutil.rmtree(root)
    phis = {cell["bundle"]: cell["phi"] for cell in played}
    adversaries = [
        {"phi": phis[number], "files": copy_bundle(bundle, folder, f"{CHALLENGES}/{claim['name']}/{number}")}
        for number, bundle in enumerate(bundles)
    ]
    content = json.loads(dump_entry(entry))
    content["challenges"].append({**claim, "adversaries": adversaries})
    return parse_entry(json.dumps(content), str(folder))
