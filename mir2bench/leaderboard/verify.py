"""Attack entries anew: fresh attackers, seeds that nobody knew, the machinery of every study."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from mir2bench.errors import Mir2BenchError, StudyError
from mir2bench.evaluation.contenders import Contender, hash_folder
from mir2bench.evaluation.executor import execute
from mir2bench.evaluation.jobs import Job
from mir2bench.evaluation.protocol import TRANSFER, Budget, Draw, Protocol, get_budget, get_protocol
from mir2bench.evaluation.scores import collect_cells, collect_curves, collect_scores, environment, select
from mir2bench.evaluation.store import Store
from mir2bench.evaluation.study import Study
from mir2bench.leaderboard.check import check_entry
from mir2bench.leaderboard.entry import PICTURE, POLICIES, VERIFIED, Challenge, Entry, EntryError
from mir2bench.leaderboard.failures import lowest_return, with_failures
from mir2bench.leaderboard.picture import picture_task, strongest_script
from mir2bench.leaderboard.play import play, tables_of, work_limits
from mir2bench.leaderboard.salt import salt_hash, salted_draw
from mir2bench.leaderboard.sandbox import Limits, TimeoutFailure, crashed, run_limited
from mir2bench.leaderboard.scoring import scores_of
from mir2bench.leaderboard.settings import Setting
from mir2bench.leaderboard.write import write_verified
from mir2bench.learning.progress import Progress
from mir2bench.registration import spec

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
        weaker: whether a verification may be replaced that was more thorough.
    """

    protocol: str = "suite-v1"
    budget: str = "quick"
    attack_steps: int | None = None
    partitions: int | None = 1
    workers: int = 1
    weaker: bool = False

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
    salt: bytes | Callable[[], bytes],
    effort: Effort,
    *,
    isolated: bool = True,
    tell: Callable[[str], None] = print,
) -> list[Entry]:
    """Attack the entries of one variant anew and write `verified` into each.

    Attackers that were trained against one of them also play against the others, and the adversaries of accepted
    challenges play again. An answer that cannot be played, or takes too much processor time, is the policy's failure:
    see `failures`.

    Args:
        folders: the entries, as they lie in the leaderboards' folder.
        work: the study folder; if the same verification lies there, it is continued.
        salt: the secret that all seeds derive from, see `salt`; a function is asked once all else is known to be fine.
        effort: how thoroughly.
        isolated: whether to work in a process with limits.
        tell: takes lines for people.

    Raises:
        EntryError: an entry breaks a rule, or has a verification that was more thorough than this one would be.
        StudyError: the board's own part failed; nothing was written.
    """
    entries = [check_entry(folder, isolated=isolated) for folder in folders]
    variants = {entry.variant for entry in entries}
    if len(variants) != 1:
        raise EntryError(f"entries of one variant are verified together, not of {len(variants)}.")
    variant = spec(variants.pop())
    protocol, budget = get_protocol(effort.protocol), effort.resolve()
    everyone = len(protocol.partitions(variant, get_budget("standard"))) or 1
    drawn = everyone if effort.partitions is None else min(effort.partitions, everyone)
    lacks = {e.entry: _weaknesses(e, protocol, budget, drawn, alone=len(entries) == 1) for e in entries}
    _refuse_weaker(lacks, effort)
    secret = salt() if callable(salt) else salt
    draw = salted_draw(secret, variant, protocol, effort.partitions)
    for entry in entries:
        lacks[entry.entry] += [f"without the challenge `{c.name}`" for c in entry.challenges if _undrawn(c, draw)]
    _refuse_weaker(lacks, effort)
    study = Study(
        variants=(variant,),
        contenders=tuple(contender_of(entry, folder) for entry, folder in zip(entries, folders, strict=True)),
        protocol=protocol,
        budget=budget,
        draw=draw,
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
    commit = environment()["git_commit"]  # before the entries are written, which are files of the checkout
    landmarks = [select(scores, defender=e.entry) for e in entries if e.method.kind == "scripted"]
    replayed = [_replay(entry, folder, study, isolated) for entry, folder in zip(entries, folders, strict=True)]
    done = []
    for entry, folder, (again, failed) in zip(entries, folders, replayed, strict=True):
        own = select(cells, defender=entry.entry)
        lost = pd.concat([select(own, state="missing"), failed], ignore_index=True)
        absent = select(own, state="not applicable").drop_duplicates("attacker")
        rows = pd.concat([select(scores, defender=entry.entry), again], ignore_index=True)
        pay = lowest_return(variant, folder, [rows, *landmarks])
        rows = with_failures(rows, lost, pay, budget.episodes)
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
            "salt_sha256": salt_hash(secret),
            "cells_total": (len(entry.training.seeds) or 1) * everyone,
        }

        def change(stage: Path, entry: Entry = entry, verdict: dict[str, Any] = verdict) -> Entry:
            (stage / VERIFIED / PICTURE).unlink(missing_ok=True)
            if (chosen := strongest_script(entry, verdict)) is not None:
                _draw(stage, *chosen, isolated=isolated)
            return entry

        reason = f"attacked anew: {effort.protocol}, {budget.attack_steps:,} steps per attack"
        if lacks[entry.entry]:
            text = f"{reason}; weaker, as the keepers asked for with --weaker: {'; '.join(lacks[entry.entry])}"
            reason = text if len(text) <= 300 else f"{text[:297]}..."
        done.append(write_verified(entry, folder, verdict, rows, "verify", reason, change))
    return done


def _weaknesses(entry: Entry, protocol: Protocol, budget: Budget, partitions: int, *, alone: bool) -> list[str]:
    """Return in what a new verification falls short of the one that the entry has."""
    if entry.verified is None:
        return []
    effort = (budget.name, budget.attack_steps, budget.attack_restarts, budget.episodes)
    found = Setting(protocol.name, *effort, ("",) * partitions).weaknesses(Setting.of(entry.verified))
    if alone and protocol.transfer and TRANSFER in entry.verified.attackers:
        found.append("without attackers of other entries, which are verified together")
    return found


def _refuse_weaker(lacks: Mapping[str, Sequence[str]], effort: Effort) -> None:
    for name, found in lacks.items():
        if found and not effort.weaker:
            raise EntryError(
                f"{name} has a verification that was more thorough: this one has {'; '.join(found)}. Verify it as "
                "thoroughly, or add --weaker, which its history will tell."
            )


def _undrawn(challenge: Challenge, draw: Draw) -> bool:
    return any(adversary.phi not in draw.partitions for adversary in challenge.adversaries)


def _replay(entry: Entry, folder: Path, study: Study, isolated: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Play the adversaries of all accepted challenges again; return episodes and failed cells, see `play.tables_of`."""
    tables = [tables_of(entry, "", [])]
    for challenge in entry.challenges:
        drawn = [adversary for adversary in challenge.adversaries if adversary.phi in study.draw.partitions]
        bundles = [folder / min((PurePosixPath(f.path).parent for f in a.files), key=str) for a in drawn]
        if bundles:
            where = study.draw.partitions, study.draw.first_episode, study.budget.episodes
            played = play(entry, folder, bundles, *where, isolated=isolated)
            tables.append(tables_of(entry, f"challenge:{challenge.name}", played))
    rows, lost = zip(*tables, strict=True)
    return pd.concat(rows, ignore_index=True), pd.concat(lost, ignore_index=True)


def _draw(folder: Path, attacker: str, phi: str, *, isolated: bool) -> None:
    """Draw an attacked episode; a policy that cannot be played has no picture."""
    (folder / VERIFIED).mkdir(exist_ok=True)
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
    """Whether a job failed since the policy's answer cannot be played, or since answering crashed the process."""
    if died := re.match(r"its process died with exit code (-?\d+)", message):
        return crashed(int(died[1]))
    last = next((line for line in reversed(trace.splitlines()) if line.startswith(_MACHINE)), "")
    kinds = ("PolicyError", "ActionError")
    return last.startswith(tuple(f"{_MACHINE}{kind}" for kind in kinds)) and not message.startswith("the attacker ")


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
    played = sum(job.params["episodes"] for job in jobs if job.kind == "rollout") * study.variants[0].horizon
    limits = work_limits(sum(job.steps for job in jobs if job.kind == "attack") + played)
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
        if not error.blame:
            raise StudyError(
                f"not verified: {error} That is no verdict on the entry. What is finished lies in {work}: with --work "
                "and the same options it goes on."
            ) from error
        if not single:
            raise StudyError(f"{error} Verify the entries one by one to see which is to blame.") from error
        if not (work / "study.json").exists():
            raise StudyError(f"the verification did not start: {error}") from error
        tell(f"{error} What is not finished counts as failures of the policy.")
        return {}
