"""Attack entries anew: fresh attackers, seeds that nobody knew, the machinery of every study."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mir2bench.errors import Mir2BenchError, StudyError
from mir2bench.evaluation.contenders import Contender, hash_folder
from mir2bench.evaluation.executor import execute
from mir2bench.evaluation.files import plain, replace_file
from mir2bench.evaluation.jobs import Job
from mir2bench.evaluation.protocol import Budget, Draw, get_budget, get_protocol
from mir2bench.evaluation.scores import COLUMNS, collect_cells, collect_curves, collect_scores, environment, select
from mir2bench.evaluation.store import Store
from mir2bench.evaluation.study import Study
from mir2bench.leaderboard.check import check_entry
from mir2bench.leaderboard.entry import (
    ENTRY_FILE,
    EPISODES,
    PICTURE,
    POLICIES,
    VERIFIED,
    Entry,
    EntryError,
    dump_entry,
    parse_entry,
)
from mir2bench.leaderboard.ledger import record
from mir2bench.leaderboard.new import describe
from mir2bench.leaderboard.picture import picture_task, strongest_script
from mir2bench.leaderboard.salt import salt_hash, salted_draw
from mir2bench.leaderboard.sandbox import Limits, TimeoutFailure, run_limited
from mir2bench.leaderboard.scoring import scores_of
from mir2bench.learning.progress import Progress
from mir2bench.registration import VariantSpec, spec

_SECONDS_PER_STEP = 2e-3  # processor seconds that a step of an attack may take; ours take a twentieth of it
_MACHINE = "mir2bench.errors."


@dataclass(frozen=True)
class Effort:
    """How thoroughly to verify.

    Attributes:
        protocol: its name.
        budget: its name.
        attack_steps: environment steps of each trained attack, if not the budget's.
        partitions: how many partitions are attacked, of those of the protocol and for all training seeds; None for all.
        workers: processes.
    """

    protocol: str = "suite-v1"
    budget: str = "quick"
    attack_steps: int | None = None
    partitions: int | None = 1
    workers: int = 1

    def resolve(self) -> Budget:
        """Return the budget."""
        budget = dataclasses.replace(get_budget(self.budget), partitions=None)
        return budget if self.attack_steps is None else dataclasses.replace(budget, attack_steps=self.attack_steps)

    def provisional(self) -> str:
        """Return why the results are not final, or ""."""
        if self.attack_steps is not None:
            return f"attacks of {self.attack_steps:,} steps are for a first look"
        if not get_budget(self.budget).board:
            return f"the {self.budget} budget is for a first look"
        return "" if self.partitions is None else f"{self.partitions} of the protocol's partitions were attacked"


def verify_entries(
    folders: Sequence[Path],
    work: Path,
    salt: bytes,
    effort: Effort,
    *,
    isolated: bool = True,
    tell: Callable[[str], None] = print,
) -> list[Entry]:
    """Attack the entries of one variant anew and write `verified` into each.

    Attackers that were trained against one of them also play against the others. An answer that cannot be played, or
    none in time, is the policy's failure: that evaluation counts as the variant's floor.

    Args:
        folders: the entries, as they lie in the leaderboards' folder.
        work: the study folder; if the same verification lies there, it is continued.
        salt: the secret that all seeds derive from, see `salt`.
        effort: how thoroughly.
        isolated: whether to work in a process with limits.
        tell: takes lines for people.

    Raises:
        EntryError: an entry breaks a rule.
        StudyError: the board's own part failed; nothing was written.
    """
    entries = [check_entry(folder, isolated=isolated) for folder in folders]
    variants = {entry.variant for entry in entries}
    if len(variants) != 1:
        raise EntryError(f"entries of one variant are verified together, not of {len(variants)}.")
    variant = spec(variants.pop())
    protocol = get_protocol(effort.protocol)
    study = Study(
        variants=(variant,),
        contenders=tuple(contender_of(entry, folder) for entry, folder in zip(entries, folders, strict=True)),
        protocol=protocol,
        budget=effort.resolve(),
        draw=salted_draw(salt, variant, protocol, effort.partitions),
    )
    jobs = study.jobs()
    tell(
        f"{', '.join(e.entry for e in entries)} on {variant.id}: {sum(job.kind == 'attack' for job in jobs)} attacks, "
        f"{sum(job.kind == 'rollout' for job in jobs)} evaluations; {work}"
    )
    failures = _work(study, jobs, work, effort.workers, isolated, len(entries) == 1, tell)
    store = Store(work)
    scores, cells = collect_scores(jobs, store), collect_cells(jobs, store)
    attacks = collect_curves(jobs, store, "attack", "attacked_return")
    ours = [why["message"] for why in failures.values() if not why["policy"]]
    if ours:
        raise StudyError(f"{len(ours)} evaluations failed for a reason of ours, and nothing was written: {ours[0]}")
    everyone = study_partitions(study)
    commit = environment()["git_commit"]  # before the entries are written, which are files of the checkout
    done = []
    for entry, folder in zip(entries, folders, strict=True):
        own = select(cells, defender=entry.entry)
        lost = select(own, state="missing")
        absent = select(own, state="not applicable").drop_duplicates("attacker")
        rows = _with_failures(select(scores, defender=entry.entry), lost, variant, study.budget.episodes)
        found = scores_of(
            rows,
            select(attacks, defender=entry.entry),
            variant,
            study.to_dict(),
            commit=commit,
            provisional=effort.provisional(),
            not_applicable=dict(zip(absent["attacker"], absent["reason"], strict=True)),
        )
        verdict = {
            **found,
            "salt_sha256": salt_hash(salt),
            "cells_total": (len(entry.training.seeds) or 1) * everyone,
            "failures": len(lost),
        }
        if (chosen := strongest_script(entry, verdict)) is not None:
            _draw(folder, *chosen, isolated=isolated)
        reason = f"attacked anew: {effort.protocol}, {study.budget.attack_steps:,} steps per attack"
        done.append(write_verified(entry, folder, verdict, rows, "verify", reason))
    return done


def _draw(folder: Path, attacker: str, phi: str, *, isolated: bool) -> None:
    """Draw an attacked episode; a policy that cannot be played has no picture."""
    (folder / VERIFIED).mkdir(exist_ok=True)
    (folder / VERIFIED / PICTURE).unlink(missing_ok=True)
    order = {"folder": str(folder.resolve()), "attacker": attacker, "phi": phi}
    with contextlib.suppress(Mir2BenchError):
        if isolated:
            run_limited("picture", order, Limits())
        else:
            picture_task(**order)


def contender_of(entry: Entry, folder: Path) -> Contender:
    """Return an entry as a study's contender."""
    if entry.method.kind == "scripted":
        return Contender(entry.entry, "scripted", entry.method.algorithm)
    seeds = tuple(sorted(entry.training.seeds))
    bundles = tuple(str((folder / POLICIES / f"seed{seed}").resolve()) for seed in seeds)
    hashes = tuple(hash_folder(Path(bundle)) for bundle in bundles)
    return Contender(entry.entry, "bundle", entry.method.algorithm, {}, seeds, bundles, hashes)


def study_partitions(study: Study) -> int:
    """Return how many partitions the whole protocol has; 1 in variants without adversaries."""
    return len(study.protocol.partitions(study.variants[0], get_budget("standard"))) or 1


def write_verified(
    entry: Entry, folder: Path, verdict: Mapping[str, Any], rows: pd.DataFrame, kind: str, reason: str
) -> Entry:
    """Write `verified` with its episodes; what it replaces goes into `history`.

    Args:
        entry: as it was; with everything new but `verified` and `history` already.
        folder: where it lies.
        verdict: the content of `Verified`, without `episodes`.
        rows: the raw episodes.
        kind, reason: for the history.
    """
    content = json.loads(dump_entry(entry))
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
    (folder / VERIFIED).mkdir(exist_ok=True)
    path = folder / VERIFIED / EPISODES
    replace_file(path, lambda temporary: public(rows).to_parquet(temporary, index=False, compression="zstd"))
    content["verified"] = {**verdict, "episodes": describe(folder, f"{VERIFIED}/{EPISODES}")}
    if (folder / VERIFIED / PICTURE).exists():
        content["verified"]["picture"] = describe(folder, f"{VERIFIED}/{PICTURE}")
    written = parse_entry(json.dumps(plain(content)), str(folder / ENTRY_FILE))
    replace_file(folder / ENTRY_FILE, lambda temporary: temporary.write_text(dump_entry(written), encoding="utf-8"))
    record(written, folder.absolute().parent.parent)
    return written


def public(rows: pd.DataFrame) -> pd.DataFrame:
    """Return raw episodes without the attackers' seeds, which would give the salt's away: they are numbered instead."""
    rows = rows.copy()
    rows["attacker_seed"] = rows.groupby(["defender_seed", "attacker"])["attacker_seed"].rank("dense").astype("Int64")
    return rows


def attack_task(
    variant: str,
    protocol: str,
    budget: dict[str, Any],
    draw: dict[str, Any],
    contenders: list[dict[str, Any]],
    root: str,
    workers: int,
) -> dict[str, dict[str, Any]]:
    """Do a verification's jobs; return key -> message of each that failed, and whether the policy is to blame."""
    study = Study(
        variants=(spec(variant),),
        contenders=tuple(map(_contender, contenders)),
        protocol=get_protocol(protocol),
        budget=Budget(**budget),
        draw=Draw(**{**draw, "partitions": tuple(draw["partitions"])}),
    )
    return _execute(study, Path(root), workers)


def _contender(content: Mapping[str, Any]) -> Contender:
    """Return a contender from what `dataclasses.asdict` and JSON made of it."""
    plain_content: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    return Contender(**plain_content)


def _execute(study: Study, root: Path, workers: int) -> dict[str, dict[str, Any]]:
    with Store(root) as store:
        store.open(study.to_dict(), resume=(root / "study.json").exists())
        jobs = study.jobs()
        store.drop_changed(jobs)
        failures = execute(jobs, store, workers=workers, listener=_Quiet())
    return {
        key: {"message": failure.message, "policy": _is_the_policys(failure.trace, failure.message)}
        for key, failure in failures.items()
    }


def _is_the_policys(trace: str, message: str) -> bool:
    """Whether a job failed since the policy's answer cannot be played, or since answering killed the process."""
    last = next((line for line in reversed(trace.splitlines()) if line.startswith(_MACHINE)), "")
    kinds = ("PolicyError", "ActionError")
    return last.startswith(tuple(f"{_MACHINE}{kind}" for kind in kinds)) or message.startswith("its process died")


class _Quiet:
    """Hears of every job and says nothing."""

    def started(self, job: Job) -> None: ...

    def progress(self, job: Job, progress: Progress) -> None: ...

    def finished(self, job: Job) -> None: ...

    def failed(self, job: Job, failure: Any) -> None: ...


def _work(
    study: Study,
    jobs: Sequence[Job],
    work: Path,
    workers: int,
    isolated: bool,
    single: bool,
    tell: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    if not isolated:
        return _execute(study, work, workers)
    steps = sum(job.steps for job in jobs)
    limits = Limits(cpu_s=int(120 + steps * _SECONDS_PER_STEP), wall_s=int(600 + 4 * steps * _SECONDS_PER_STEP))
    told = [0]

    def meanwhile() -> None:
        folder = work / "jobs"
        done = sum(not name.startswith(".") for name in os.listdir(folder)) if folder.is_dir() else 0
        if done >= told[0] + max(1, len(jobs) // 10):
            told[0] = done
            tell(f"{done} of {len(jobs)} jobs")

    order = {
        "variant": study.variants[0].id,
        "protocol": study.protocol.name,
        "budget": dataclasses.asdict(study.budget),
        "draw": dataclasses.asdict(study.draw),
        "contenders": [dataclasses.asdict(contender) for contender in study.contenders],
        "root": str(work.absolute()),
        "workers": workers,
    }
    work.mkdir(parents=True, exist_ok=True)
    try:
        return run_limited("attack", order, limits, meanwhile)
    except TimeoutFailure as error:
        if not single:
            raise StudyError(f"{error} Verify the entries one by one to see which is to blame.") from error
        if not (work / "study.json").exists():
            raise StudyError(f"the verification did not start: {error}") from error
        tell(f"{error} What is not finished counts as failures of the policy.")
        return {}


def _with_failures(rows: pd.DataFrame, lost: pd.DataFrame, variant: VariantSpec, episodes: int) -> pd.DataFrame:
    """Add the evaluations that the policy failed: episodes of no step that pay the variant's floor."""
    if lost.empty:
        return rows.reset_index(drop=True)
    won: Any = pd.NA if bool(rows["won"].isna().to_numpy().all()) else False
    pay = {"return": variant.floor.score, "length": 0, "won": won}
    added: list[dict[Any, Any]] = [
        {**cell, "attacker_seed": pd.NA, "episode": episode, **pay}
        for cell in lost.to_dict("records")
        for episode in range(episodes)
    ]
    table: Any = pd.DataFrame(added)
    return pd.concat([rows, table[list(COLUMNS)].astype(COLUMNS)], ignore_index=True)
