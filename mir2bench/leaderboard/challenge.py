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

from mir2bench.evaluation.protocol import get_protocol
from mir2bench.evaluation.scores import environment
from mir2bench.leaderboard.check import check_entry, read_episodes
from mir2bench.leaderboard.entry import (
    CHALLENGES,
    Challenge,
    Entry,
    EntryError,
    Verified,
    dump_entry,
    explain,
    parse_entry,
)
from mir2bench.leaderboard.failures import lowest_return, with_failures
from mir2bench.leaderboard.new import About, copy_bundle
from mir2bench.leaderboard.play import play, tables_of
from mir2bench.leaderboard.salt import salt_hash, salted_draw
from mir2bench.leaderboard.scoring import scores_of
from mir2bench.leaderboard.write import write_verified
from mir2bench.registration import spec


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

    A policy that fails against them counts as lowered: see `failures`.

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
    first = salted_draw(salt, variant, get_protocol(verified.protocol), None).first_episode
    phis, episodes = sorted({cell.phi for cell in verified.cells}), verified.budget.episodes
    played = play(entry, folder, bundles, phis, first, episodes, isolated=isolated)
    column = f"challenge:{about.name}"
    added, lost = tables_of(entry, column, played)
    before = read_episodes(folder / verified.episodes.path)
    pay = lowest_return(variant, folder, [before, added])
    lowered = _lowered(verified, played, pay)
    if not lowered:
        raise EntryError(
            f"`{about.name}` is not stronger than what the row has met already, in any of {len(played)} cells: "
            "nothing changes."
        )
    rows = with_failures(pd.concat([before, added], ignore_index=True), lost, pay, episodes)
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
        **{name: kept[name] for name in ("attackers_sha256", "curves", "salt_sha256", "cells_total")},
    }
    if verdict["worst"]["mean"] > kept["worst"]["mean"]:
        raise EntryError("a challenge cannot raise a row.")
    reason = f"a stronger attack, {column}, lowered {lowered} of {len(kept['cells'])} cells"

    def change(stage: Path) -> Entry:
        return _with_challenge(entry, stage, bundles, {**claim, "lowered": lowered}, played)

    return write_verified(entry, folder, verdict, rows, "challenge", reason, change), lowered


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


def _lowered(verified: Verified, played: Sequence[dict[str, Any]], pay: float) -> int:
    """Return in how many cells the challenger is the strongest so far; where the policy failed it counts `pay`."""
    failed = {(cell["seed"], cell["phi"]) for cell in played if "failed" in cell}
    best: dict[tuple[int, str], float] = {}
    for cell in played:
        key = (cell["seed"], cell["phi"])
        best[key] = min(best.get(key, np.inf), pay if "failed" in cell else float(np.mean(cell["return"])))
    keys = [((cell.seed, cell.phi), cell.worst) for cell in verified.cells]
    return sum(key in failed or best.get(key, np.inf) < worst for key, worst in keys)


def _with_challenge(
    entry: Entry, folder: Path, bundles: Sequence[Path], claim: Mapping[str, Any], played: Sequence[dict[str, Any]]
) -> Entry:
    """Copy the bundles into the entry's folder and name them in the entry."""
    shutil.rmtree(folder / CHALLENGES / claim["name"], ignore_errors=True)
    phis = {cell["bundle"]: cell["phi"] for cell in played}
    adversaries = [
        {"phi": phis[number], "files": copy_bundle(bundle, folder, f"{CHALLENGES}/{claim['name']}/{number}")}
        for number, bundle in enumerate(bundles)
    ]
    content = json.loads(dump_entry(entry))
    content["challenges"].append({**claim, "adversaries": adversaries})
    return parse_entry(json.dumps(content), str(folder))
