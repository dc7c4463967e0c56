"""From a run to a draft of an entry, and from a draft into the leaderboards' folder."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import mir2bench
from mir2bench.content import content_dir
from mir2bench.defenders import get_defender
from mir2bench.errors import Mir2BenchError
from mir2bench.evaluation.contenders import SCRIPTED, hash_folder
from mir2bench.evaluation.files import plain, settle_folder
from mir2bench.evaluation.scores import environment, select
from mir2bench.leaderboard.check import BUNDLE_FILES, check_entry
from mir2bench.leaderboard.entry import (
    ENTRY_FILE,
    EPISODES,
    FORMAT,
    POLICIES,
    REPORTED,
    EntryError,
    dump_entry,
    parse_entry,
)
from mir2bench.leaderboard.fields import NAME
from mir2bench.leaderboard.scoring import scores_of
from mir2bench.policies import ADVERSARY, read_bundle
from mir2bench.registration import VariantSpec, spec


@dataclass(frozen=True)
class About:
    """What no run can know.

    Attributes:
        name: the entry's short name, which is its folder.
        title: what the row is called; by default the algorithm.
        description: one line; by default the first of the defender's docstring.
        authors: by default git's user.
        paper, code, page: links.
        seen: attackers that took part in training or tuning.
        steps: environment steps per seed, for bundles that do not tell.
    """

    name: str
    title: str = ""
    description: str = ""
    authors: Sequence[str] = ()
    paper: str | None = None
    code: str | None = None
    page: str | None = None
    seen: Sequence[str] = ()
    steps: int | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(NAME, self.name):
            raise EntryError(f"a short name has small letters, digits and hyphens, 63 at most; {self.name!r} is none.")


def new_entry(
    run: Path,
    about: About,
    *,
    defender: str | None = None,
    variant: str | None = None,
    policies: Sequence[Path] = (),
    out: Path | None = None,
) -> Path:
    """Write a draft of an entry from a finished study.

    Args:
        run: the study folder.
        about: what no run can know.
        defender: whose; needed if the study has several.
        variant: where; needed if the study has several.
        policies: the bundles that a study of existing policies evaluated; it keeps their hashes only.
        out: the draft's folder; by default `entries/<variant>/<name>` in the run.

    Returns:
        The draft's folder.

    Raises:
        EntryError: the run is unfinished or lacks something, or the folder exists already.
    """
    summary = _read_summary(run)
    world = spec(_choose("variant", variant, [result["variant"] for result in summary["results"]], "--env"))
    (result,) = [found for found in summary["results"] if found["variant"] == world.id]
    name = _choose("defender", defender, list(result["defenders"]), "--defender")
    (contender,) = [found for found in summary["study"]["contenders"] if found["name"] == name]
    bundles = _bundles(run, summary, contender, world, policies)
    episodes, attacks = _tables(run, world, name)
    result = result["defenders"][name]
    final = out or run / "entries" / world.id.removeprefix("mir2bench/") / about.name
    if final.exists():
        raise EntryError(f"{final} exists already. Remove it, or choose another --out.")
    final.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    try:
        cards = [_copy_bundle(source, draft, seed) for seed, source in bundles]
        (draft / REPORTED).mkdir()
        episodes.to_parquet(draft / REPORTED / EPISODES, index=False, compression="zstd")
        scores = scores_of(
            episodes,
            attacks,
            world,
            summary["study"],
            commit=summary["git_commit"],
            provisional=summary["board_reason"],
            not_applicable={arm: about["reason"] for arm, about in result["not_applicable"].items()},
        )
        content = {
            "format": FORMAT,
            "variant": world.id,
            "entry": about.name,
            "method": _method(about, contender),
            "training": _training(about, contender, world, summary, [source for _, source in bundles]),
            "policies": cards,
            "reported": {
                **scores,
                "command": summary["command"] or None,
                "episodes": describe(draft, f"{REPORTED}/{EPISODES}"),
            },
        }
        entry = parse_entry(json.dumps(plain(content)), "the draft")
        (draft / ENTRY_FILE).write_text(dump_entry(entry), encoding="utf-8")
        draft.chmod(0o755)
        settle_folder(draft, final)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return final


def new_sanity_row(team: str, about: About, variant: str, out: Path) -> Path:
    """Write a draft for a scripted team of the package, without any scores; see `new_entry`."""
    world = spec(variant)
    contender = {"name": team, "kind": "scripted", "algorithm": team, "config": {}, "configs": {}}
    here = {**environment(), "study": {"mir2bench": mir2bench.__version__}}
    content = {
        "format": FORMAT,
        "variant": world.id,
        "entry": about.name,
        "method": _method(about, contender),
        "training": _training(about, contender, world, here, []),
        "policies": [],
    }
    entry = parse_entry(json.dumps(plain(content)), "the draft")
    if out.exists():
        raise EntryError(f"{out} exists already. Remove it, or choose another --out.")
    out.mkdir(parents=True)
    (out / ENTRY_FILE).write_text(dump_entry(entry), encoding="utf-8")
    return out


def submit_entry(draft: Path, board: Path | None = None, *, isolated: bool = True) -> Path:
    """Check a draft and copy it into the leaderboards' folder, whole or not at all.

    Args:
        draft: its folder.
        board: the leaderboards' folder; None for that of this checkout.
        isolated: see `check_entry`.

    Returns:
        The entry's folder.

    Raises:
        EntryError: it breaks a rule, or an entry of that name is there already: entries are never overwritten.
    """
    entry = check_entry(draft, isolated=isolated)
    if entry.verified is not None or entry.history or entry.challenges:
        raise EntryError("only the board's keepers write `verified`, `challenges` and `history`: leave them out.")
    final = free_folder(entry.variant, entry.entry, board)
    final.parent.mkdir(parents=True, exist_ok=True)
    whole = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    try:
        for path in [ENTRY_FILE, *(file.path for file in entry.files())]:
            (whole / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(draft / path, whole / path, follow_symlinks=False)
        whole.chmod(0o755)
        settle_folder(whole, final)
    except BaseException:
        shutil.rmtree(whole, ignore_errors=True)
        raise
    return final


def free_folder(variant: str, name: str, board: Path | None = None) -> Path:
    """Return where an entry goes.

    Args:
        variant: its id.
        name: its short name.
        board: the leaderboards' folder; None for that of this checkout.

    Raises:
        EntryError: an entry of that name is there already, or this is an installed package without a checkout.
    """
    if board is None:
        board = content_dir("leaderboards")
        if board.parent.name == "_content":
            raise EntryError(
                "entries are submitted from a checkout of the repository: give its `leaderboards` as --board."
            )
    final = board / variant.removeprefix("mir2bench/") / name
    if final.exists():
        raise EntryError(
            f"{final} exists already, and entries are never overwritten: give the new one another name. A correction "
            "is a pull request of its own."
        )
    return final


def submit_run(run: Path, name: str, board: Path | None = None, *, policies: Sequence[Path] = ()) -> Path:
    """Draft an entry from a run with a single defender on a single variant, and submit it.

    Raises:
        EntryError: see `new_entry` and `submit_entry`.
    """
    with tempfile.TemporaryDirectory(prefix="mir2bench-") as scratch:
        return submit_entry(new_entry(run, About(name), policies=policies, out=Path(scratch) / name), board)


def describe(folder: Path, path: str) -> dict[str, Any]:
    """Return what an entry says about a file."""
    content = (folder / path).read_bytes()
    return {"path": path, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def copy_bundle(source: Path, folder: Path, to: str) -> list[dict[str, Any]]:
    """Copy the files that a bundle may hold, and return what an entry says about them."""
    files = []
    for part in ("", f"{ADVERSARY}/"):
        for name in BUNDLE_FILES:
            path = source / f"{part}{name}"
            if path.is_file() and not path.is_symlink():
                target = folder / to / f"{part}{name}"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
                files.append(describe(folder, f"{to}/{part}{name}"))
    return files


def _copy_bundle(source: Path, draft: Path, seed: int) -> dict[str, Any]:
    files = copy_bundle(source, draft, f"{POLICIES}/seed{seed}")
    onnx = any(file["path"].endswith("/policy.onnx") for file in files)
    return {"seed": seed, "format": "onnx" if onnx else "safetensors", "files": files}


def _read_summary(run: Path) -> dict[str, Any]:
    try:
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EntryError(f"{run} holds no finished study: summary.json cannot be read ({error}).") from error
    if not isinstance(summary, dict) or "study" not in summary or "results" not in summary:
        raise EntryError(f"{run}/summary.json is not a study's. Give the folder that `mir2bench.evaluate` wrote.")
    if summary["failures"] or summary["missing"]:
        raise EntryError(f"the study in {run} is incomplete: finish it with --resume first.")
    return summary


def _choose(kind: str, wanted: str | None, there: Sequence[str], flag: str) -> str:
    matches = [
        name for name in there if wanted is None or name.removeprefix("mir2bench/") == wanted.removeprefix("mir2bench/")
    ]
    if len(matches) != 1:
        raise EntryError(f"name one {kind} of this run with {flag}: {', '.join(there)}.")
    return matches[0]


def _bundles(
    run: Path, summary: Mapping[str, Any], contender: Mapping[str, Any], variant: VariantSpec, given: Sequence[Path]
) -> list[tuple[int, Path]]:
    """Return each training seed's bundle."""
    if contender["kind"] == "scripted":
        return []
    if contender["kind"] == "trained":
        return [
            (bundle["seed"], run / bundle["path"])
            for bundle in summary["bundles"]
            if bundle["variant"] == variant.id and bundle["algorithm"] == contender["algorithm"]
        ]
    known = {hash_folder(folder): folder for folder in given}
    found = []
    for seed, expected in zip(contender["seeds"], contender["hashes"], strict=True):
        if expected not in known:
            raise EntryError(
                f"the study played a bundle of seed {seed} that is not among those given: name all of its "
                f"{len(contender['seeds'])} bundles with --policy, unchanged."
            )
        found.append((seed, known[expected]))
    return found


def _tables(run: Path, variant: VariantSpec, name: str) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    try:
        episodes = pd.read_parquet(run / "scores.parquet")
        attacks = pd.read_parquet(run / "attacks.parquet") if (run / "attacks.parquet").exists() else None
    except (OSError, ValueError) as error:
        raise EntryError(f"the tables in {run} cannot be read: {error}.") from error
    rows = select(episodes, variant=variant.id, defender=name).reset_index(drop=True)
    return rows, None if attacks is None else select(attacks, variant=variant.id, defender=name)


def _method(about: About, contender: Mapping[str, Any]) -> dict[str, Any]:
    scripted = contender["kind"] == "scripted"
    algorithm = contender["algorithm"]
    return {
        "name": about.title or contender["name"].removeprefix(SCRIPTED),
        "description": about.description or (f"Scripted team: {algorithm}." if scripted else _first_line(algorithm)),
        "authors": list(about.authors) or [_git_user()],
        "links": {"paper": about.paper, "code": about.code, "page": about.page},
        "kind": "scripted" if scripted else "trained",
        "algorithm": algorithm,
    }


def _training(
    about: About,
    contender: Mapping[str, Any],
    variant: VariantSpec,
    summary: Mapping[str, Any],
    bundles: Sequence[Path],
) -> dict[str, Any]:
    cards = [read_bundle(bundle) for bundle in bundles]
    steps = about.steps
    if steps is None and contender["kind"] == "trained":
        steps = summary["study"]["budget"]["train_steps"]
    if steps is None:
        told = {card.get("steps") for card in cards} - {None}
        if bundles and len(told) != 1:
            raise EntryError("the bundles do not tell how long they were trained: give --steps.")
        steps = told.pop() if told else 0
    seen = list(about.seen)
    if any((bundle / ADVERSARY).is_dir() for bundle in bundles):
        seen.append("an adversary that learned beside the team")
    machine = summary["hardware"]
    return {
        "config": contender["configs"].get(variant.id, contender["config"]) if bundles else {},
        "seeds": [] if contender["kind"] == "scripted" else list(contender["seeds"]),
        "steps": steps,
        "adversaries_seen": seen,
        "code": {
            "mir2bench": cards[0].get("mir2bench", summary["study"]["mir2bench"])
            if cards
            else summary["study"]["mir2bench"],
            "commit": summary["git_commit"],
            "repository": about.code,
        },
        "hardware": {
            "processor": machine.get("processor") or machine.get("machine") or "unknown",
            "cores": machine.get("cores"),
            "memory_gib": machine.get("memory_gib"),
        },
    }


def _first_line(algorithm: str) -> str:
    try:
        text = inspect.getdoc(get_defender(algorithm)) or ""
    except Mir2BenchError:
        text = ""
    return text.partition("\n\n")[0].replace("\n", " ")[:300] or "No description was given."


def _git_user() -> str:
    try:
        found = subprocess.run(["git", "config", "user.name"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip() or "unknown"
