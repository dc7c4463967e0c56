"""Is an entry what it says? Files, hashes, names, numbers, and whether its policies act as policies must."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import re
import stat
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import mir2bench
from mir2bench.errors import Mir2BenchError
from mir2bench.evaluation.contenders import load_team_bundle, scripted_class
from mir2bench.evaluation.protocol import PROTOCOLS, get_budget, get_protocol, validation_seeds
from mir2bench.evaluation.scores import COLUMNS
from mir2bench.leaderboard.entry import (
    ENTRY_FILE,
    EPISODES,
    MAX_ENTRY,
    PICTURE,
    Entry,
    EntryError,
    File,
    PolicyFiles,
    Scores,
    read_entry,
)
from mir2bench.leaderboard.ledger import require
from mir2bench.leaderboard.sandbox import Limits, run_limited
from mir2bench.leaderboard.scoring import scores_of
from mir2bench.learning.rollout import Episodes, check_actions, rollout
from mir2bench.partition import Partition
from mir2bench.policies import Carry, Policy, read_bundle
from mir2bench.registration import VariantSpec, spec

BUNDLE_FILES = ("policy.json", "weights.safetensors", "critic.safetensors", "policy.onnx")
"""What a bundle may hold; the same once more in `adversary/`, the adversary that the team was trained against."""
MAX_FILES = 2_000
MAX_ANSWER = 0.2  # processor seconds for one step of 64 worlds, all agents together
MAX_ROWS = 2_000_000  # of a file of raw episodes
LIMITS = Limits(cpu_s=180, wall_s=900)
_LONGEST = 600  # characters of a refusal
_WORLDS, _STEPS = 64, 40
_COMPUTED = (
    "clean",
    "worst",
    "difference",
    "iqm",
    "median",
    "optimality_gap",
    "attackers",
    "partitions",
    "cells",
    "failures",
)


def check_entry(folder: str | Path, *, isolated: bool = True, board: Path | None = None) -> Entry:
    """Examine an entry's folder, and return the entry.

    Nothing is written, and nothing outside the folder is read but the board's ledger. All of it runs in a process of
    its own with limits (see `sandbox`), unless `isolated` is off.

    Args:
        folder: where it lies.
        isolated: see above.
        board: the leaderboards' folder it lies in; given that, what only keepers write must be in its ledger.

    Raises:
        EntryError: it breaks a rule; the message is one line that says which.
    """
    folder = Path(folder)
    if isolated:
        run_limited("inspect", {"folder": str(folder.absolute())}, LIMITS)
    else:
        inspect_entry(folder)
    entry = read_entry(folder)
    if board is not None:
        require(entry, board)
    return entry


def inspect_task(folder: str) -> None:
    """Examine an entry; see `check_entry`."""
    inspect_entry(Path(folder))


def inspect_entry(folder: Path) -> Entry:
    """Examine an entry in this process; see `check_entry`."""
    try:
        return _inspect(folder)
    except Mir2BenchError as error:
        text = " ".join(str(error).split())  # what strangers wrote may be long
        raise EntryError(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...") from error


def _inspect(folder: Path) -> Entry:
    found = plain_files(folder)
    entry = read_entry(folder)
    check_files(entry, folder, found)
    variant = check_names(entry)
    for table in ("reported", "verified"):
        scores = getattr(entry, table)
        if scores is not None:
            check_scores(scores, table, entry, variant)
            check_episodes(folder / scores.episodes.path, scores, variant)
    for bundle in entry.policies:
        root = folder / "policies" / f"seed{bundle.seed}"
        check_bundle(root, bundle, entry)
        try:
            policy = load_team_bundle(root, variant)
        except (OSError, OverflowError, RecursionError, MemoryError) as error:
            raise EntryError(f"{root} cannot be loaded: {type(error).__name__}.") from error
        try:
            try_policy(policy, variant)
        except Mir2BenchError as error:
            raise EntryError(f"the policy of seed {bundle.seed}: {error}") from error
    return entry


def plain_files(folder: Path) -> set[str]:
    """Return the paths of all files in a folder, relative to it.

    Raises:
        EntryError: it is no folder, or holds a link, a device or the like, or far too much.
    """
    if folder.is_symlink():
        raise EntryError(f"{folder} is a link: an entry is a plain folder.")
    if not folder.is_dir():
        raise EntryError(f"{folder} is no folder.")
    found: set[str] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        with os.scandir(here) as listing:
            items = list(listing)
        for item in items:
            path = Path(item.path).relative_to(folder).as_posix()
            mode = item.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                waiting.append(Path(item.path))
            elif stat.S_ISREG(mode):
                found.add(path)
            else:
                raise EntryError(f"{path!r} is neither a file nor a folder: links and devices are refused.")
            if len(found) + len(waiting) > MAX_FILES or path.count("/") > 8:
                raise EntryError(f"{folder} holds more than {MAX_FILES} files, or folders too deep.")
    return found


def check_files(entry: Entry, folder: Path, found: set[str]) -> None:
    """Compare the files that lie there with those that the entry names: none too many, sizes and hashes equal."""
    named: dict[str, File] = {}
    for file in entry.files():
        if file.path in named:
            raise EntryError(f"{file.path} is named twice.")
        named[file.path] = file
    strange = sorted(found - set(named) - {ENTRY_FILE})
    if strange:
        raise EntryError(f"{strange[0]!r} is not named in {ENTRY_FILE}: an entry holds no other files or archives.")
    missing = sorted(set(named) - found)
    if missing:
        raise EntryError(f"{missing[0]} is missing.")
    for path, file in named.items():
        parts = path.split("/")
        allowed = BUNDLE_FILES if parts[0] in ("policies", "challenges") else (EPISODES, PICTURE)
        beside = parts[{"policies": 2, "challenges": 3}.get(parts[0], len(parts) - 1) : -1]
        if parts[-1] not in allowed or beside not in ([], ["adversary"]):
            raise EntryError(f"{path} is no file of an entry: there are {', '.join(allowed)}.")
        if parts[-1] == PICTURE and not (folder / path).read_bytes().startswith(b"\x89PNG\r\n\x1a\n"):
            raise EntryError(f"{path} is no PNG.")
        size = (folder / path).stat().st_size
        if size != file.bytes:
            raise EntryError(f"{path} has {size} bytes, not {file.bytes} as {ENTRY_FILE} says.")
        if hashlib.sha256((folder / path).read_bytes()).hexdigest() != file.sha256:
            raise EntryError(f"{path} was altered: its SHA-256 is not the one that {ENTRY_FILE} names.")
    if not 0 < (folder / ENTRY_FILE).stat().st_size <= MAX_ENTRY:
        raise EntryError(f"{ENTRY_FILE} is empty or larger than {MAX_ENTRY} bytes.")


def check_names(entry: Entry) -> VariantSpec:
    """Return the entry's variant; variant, version and scripted team are known here."""
    try:
        variant = spec(entry.variant)
        if variant.id != entry.variant:
            raise EntryError(f"the variant is called {variant.id}, not {entry.variant}.")
        if entry.method.kind == "scripted":
            scripted_class(variant, entry.method.algorithm)
    except Mir2BenchError as error:
        raise EntryError(str(error)) from error
    for version in {entry.training.code.mir2bench, *(s.mir2bench for s in (entry.reported, entry.verified) if s)}:
        if not re.fullmatch(r"\d{1,4}\.\d{1,4}\.\d{1,4}", version):
            raise EntryError(f"mir2bench {version!r} is no version: give three numbers such as 0.1.0.")
        if _release(version) > _release(mir2bench.__version__):
            raise EntryError(f"mir2bench {version} is newer than the one that checks, {mir2bench.__version__}.")
    return variant


def _release(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:3]))


def check_scores(scores: Scores, table: str, entry: Entry, variant: VariantSpec) -> None:
    """Compare scores with the world that they are said to come from."""
    if (scores.floor, scores.ceiling) != (variant.floor.score, variant.ceiling.score):
        raise EntryError(
            f"`{table}`: floor and ceiling of {variant.id} are {variant.floor.score} and {variant.ceiling.score}, not "
            f"{scores.floor} and {scores.ceiling}."
        )
    if scores.protocol not in PROTOCOLS:
        raise EntryError(f"`{table}`: no protocol {scores.protocol!r}; there are {', '.join(PROTOCOLS)}.")
    if scores.date > datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=1):
        raise EntryError(f"`{table}`: its date, {scores.date}, is still to come.")
    if variant.n_adversaries:
        protocol = get_protocol(scores.protocol)
        needed = {*protocol.untrained(variant), *protocol.trained, *protocol.white_box}
        absent = sorted(needed - set(scores.attackers) - set(scores.not_applicable))
        if absent:
            raise EntryError(
                f"`{table}`: {scores.protocol} also attacks with {', '.join(absent)}; none may be left out."
            )
    if (scores.worst is None) != (variant.n_adversaries == 0):
        raise EntryError(f"`{table}`: a worst case is given exactly in variants with adversaries.")
    everyone = {"".join(map(str, phi.phi)) for phi in all_partitions(scores.protocol, variant)}
    strange = sorted(({cell.phi for cell in scores.cells} | set(scores.partitions)) - everyone)
    if strange:
        raise EntryError(f"`{table}`: {scores.protocol} does not attack the partition {strange[0]} of {variant.id}.")
    declared = len(entry.training.seeds) or 1
    total = getattr(scores, "cells_total", None)
    if total is not None and total != declared * len(everyone):
        raise EntryError(f"`{table}`: the whole protocol has {declared * len(everyone)} cells here, not {total}.")
    for name, score in (("clean", scores.clean), ("worst", scores.worst), *scores.attackers.items()):
        if score is not None and abs(float(variant.normalize(score.mean)) - score.normalized) > 1e-6:
            raise EntryError(f"`{table}`: {score.mean} of `{name}` is not {score.normalized} on the variant's scale.")


def all_partitions(protocol: str, variant: VariantSpec) -> list[Partition]:
    """Return the partitions of a whole protocol; the empty one in variants without adversaries."""
    return get_protocol(protocol).partitions(variant, get_budget("quick")) or [Partition.of(variant.n_agents)]


def check_episodes(path: Path, scores: Scores, variant: VariantSpec) -> None:
    """Compute all scores anew from the raw episodes and compare."""
    table = read_episodes(path)
    if set(table["variant"].unique()) != {variant.id} or table["defender"].nunique() != 1:
        raise EntryError(f"{path.name} must hold the episodes of one team on {variant.id}.")
    cells = table.groupby(["defender_seed", "attacker", "phi", "attacker_seed"], dropna=False, observed=True).size()
    if set(cells) != {scores.budget.episodes}:
        raise EntryError(
            f"{path.name} has cells of {min(cells)} to {max(cells)} episodes, but the budget says "
            f"{scores.budget.episodes}."
        )
    told = json.loads(scores.model_dump_json())
    study = {"protocol": {"name": ""}, "attackers": {}, "budget": told["budget"], "mir2bench": ""}
    try:
        found = scores_of(table, None, variant, study, commit=None)
    except (ValueError, KeyError, IndexError, TypeError, ZeroDivisionError) as error:
        raise EntryError(
            f"{path.name} is no whole table of cells: every seed needs its clean arm and cells."
        ) from error
    for name in _COMPUTED:
        difference = _differing(told[name], found[name], name)
        if difference:
            raise EntryError(f"{path.name} says otherwise: {difference}.")


def _differing(told: Any, found: Any, where: str) -> str:
    """Return the first place where what is told is not what was found, or "". Cells may come in any order."""
    if where == "cells":
        told, found = ({f"{cell['seed']}/{cell['phi']}": cell for cell in cells} for cells in (told, found))
    if isinstance(told, dict) and isinstance(found, dict):
        told, found = ({k: v for k, v in side.items() if v is not None} for side in (told, found))
        if set(told) != set(found):
            return f"`{where}` has {', '.join(sorted(map(str, set(told) ^ set(found)))[:3])} on one side only"
        return next((text for key in told if (text := _differing(told[key], found[key], f"{where}.{key}"))), "")
    if isinstance(told, list) and isinstance(found, list) and len(told) == len(found):
        pairs = enumerate(zip(told, found, strict=True))
        return next((text for i, pair in pairs if (text := _differing(*pair, f"{where}.{i}"))), "")
    if isinstance(told, int | float) and isinstance(found, int | float):
        same = math.isclose(told, found, rel_tol=1e-6, abs_tol=1e-6)
    else:
        same = told == found
    return "" if same else f"`{where}` is {found}, but {ENTRY_FILE} says {told}"


def read_episodes(path: Path) -> pd.DataFrame:
    """Read a file of raw episodes, with the columns of `evaluation.scores.COLUMNS` and finite returns.

    Raises:
        EntryError: it is something else, or too large.
    """
    import pyarrow.parquet as pq

    try:
        about = pq.ParquetFile(path)
        if about.metadata.num_rows > MAX_ROWS or about.metadata.num_columns != len(COLUMNS):
            raise EntryError(
                f"{path.name} must have the {len(COLUMNS)} columns of raw episodes and at most {MAX_ROWS} rows."
            )
        table = about.read().to_pandas()[list(COLUMNS)].astype(COLUMNS)
        if not np.isfinite(table["return"].to_numpy(np.float64)).all():
            raise EntryError(f"{path.name} holds returns that are not finite.")
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError, ArithmeticError) as error:
        if isinstance(error, EntryError):
            raise
        raise EntryError(f"{path.name} is no table of raw episodes: {' '.join(str(error).split())[:200]}.") from error
    return table


def check_bundle(root: Path, bundle: PolicyFiles, entry: Entry) -> None:
    """Compare a bundle's own card with the entry."""
    try:
        card = read_bundle(root)
    except Mir2BenchError as error:
        raise EntryError(str(error)) from error
    for name, told, found in (
        ("seed", bundle.seed, card["seed"]),
        ("algorithm", entry.method.algorithm, card["algorithm"]),
        ("config", entry.training.config, card["config"]),
    ):
        if told != found:
            raise EntryError(f"{root.name}/policy.json has another {name} than {ENTRY_FILE}: {str(found)[:100]!r}.")


class _Recorder:
    """Passes a policy's answers on and keeps what it was asked."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.asked: list[tuple[np.ndarray, np.ndarray | None]] = []
        self.answers: list[np.ndarray] = []

    def initial_carry(self, batch: int) -> Carry:
        return self.policy.initial_carry(batch)

    def act(self, obs: Any, carry: Any, mask: Any = None, *, rng: Any, deterministic: bool = True) -> Any:
        actions, carry = self.policy.act(obs, carry, mask, rng=rng, deterministic=deterministic)
        if len(self.asked) < _STEPS:
            self.asked.append((obs.copy(), None if mask is None else mask.copy()))
            self.answers.append(np.array(actions))
        return actions, carry


def try_policy(policy: Policy, variant: VariantSpec, *, max_answer: float = MAX_ANSWER) -> Episodes:
    """Let a policy play real and made-up observations, and return how it played.

    Raises:
        PolicyError: an action that cannot be played.
        EntryError: it is too slow, or its greedy answers depend on more than what each agent observed: on the call, on
            the generator, on a world's place in the batch, or on what other agents see.
    """
    slow = f"it takes more than {max_answer} s of processor time to answer for {_WORLDS} worlds."
    layout, started = variant.layout, time.process_time()
    obs = np.zeros((_WORLDS, layout.n_agents, layout.obs_dim), np.float32)
    mask = np.ones((_WORLDS, layout.n_agents, layout.action_dim), np.int8) if layout.discrete else None
    policy.act(obs, policy.initial_carry(_WORLDS), mask, rng=np.random.default_rng(0), deterministic=True)
    if time.process_time() - started > 10 * max_answer:  # a first answer may take longer than the next
        raise EntryError(slow)
    recorder = _Recorder(policy)
    seeds = validation_seeds(_WORLDS)
    started = time.process_time()
    played = rollout(variant, recorder, Partition.of(variant.n_agents), None, seeds, team_name="it")
    steps = int(played.lengths.max())
    if (time.process_time() - started) / steps > max_answer:
        raise EntryError(slow)
    asked = recorder.asked
    once, again = _replay(policy, asked, 1, repeat=True), _replay(policy, asked, 1)
    _compare(once, again, "it answers differently when asked again", exact=True)
    for seed in range(2, 10):
        answers = _replay(policy, asked[:3], seed)
        _compare(recorder.answers[:3], answers, "its greedy answers depend on the generator", exact=True)
    order = np.random.default_rng(0).permutation(_WORLDS)
    turned = [(obs[order], None if mask is None else mask[order]) for obs, mask in asked]
    expected = [answer[order] for answer in recorder.answers]
    _compare(expected, _replay(policy, turned, 1), "its answers depend on a world's place in the batch", exact=False)
    for agent in range(variant.n_agents):
        others = [i for i in range(variant.n_agents) if i != agent]
        swapped = [(_swap(obs, agent), mask) for obs, mask in asked[:3]]
        _compare(
            [answer[:, others] for answer in recorder.answers[:3]],
            [answer[:, others] for answer in _replay(policy, swapped, 1)],
            f"what agent {agent} observes changes what others do",
            exact=False,
        )
    _imagine(policy, variant)
    return played


def _swap(obs: np.ndarray, agent: int) -> np.ndarray:
    """Return observations in which one agent sees what it saw in the next world."""
    obs = obs.copy()
    obs[:, agent] = np.roll(obs[:, agent], 1, axis=0)
    return obs


def _replay(
    policy: Policy, asked: list[tuple[np.ndarray, np.ndarray | None]], seed: int, *, repeat: bool = False
) -> list[np.ndarray]:
    """Ask everything again from the start; with `repeat` twice at each step, where the answers must be equal."""
    carry, rng, answers = policy.initial_carry(_WORLDS), np.random.default_rng(seed), []
    for obs, mask in asked:
        first = None
        if repeat:
            first, _ = policy.act(obs.copy(), carry, None if mask is None else mask.copy(), rng=rng, deterministic=True)
        legal = None if mask is None else mask.copy()
        actions, after = policy.act(obs.copy(), carry, legal, rng=rng, deterministic=True)
        if first is not None and not np.array_equal(first, actions):
            raise EntryError("it answers differently when asked again. A policy must depend on its observations alone.")
        carry = after
        answers.append(np.array(actions))
    return answers


def _compare(first: list[np.ndarray], second: list[np.ndarray], complaint: str, *, exact: bool) -> None:
    for step, (a, b) in enumerate(zip(first, second, strict=True)):
        if exact or a.dtype.kind != "f":
            share = float((a != b).mean()) if a.shape == b.shape else 1.0
            wrong = share > (0.0 if exact else 0.01)  # rounding differs with the place, which can decide a close choice
        else:
            wrong = a.shape != b.shape or not np.allclose(a, b, atol=1e-3)
        if wrong:
            raise EntryError(f"{complaint} (step {step}). A policy must depend on its observations and memory alone.")


def _imagine(policy: Policy, variant: VariantSpec) -> None:
    """Ask about observations that no world has shown, of several batch sizes: none may break it."""
    layout, rng = variant.layout, np.random.default_rng(0)
    for batch in (1, 3, _WORLDS):
        carry = policy.initial_carry(batch)
        for scale in (0.0, 1.0, 3.0):
            obs = (scale * rng.uniform(-1, 1, (batch, layout.n_agents, layout.obs_dim))).astype(np.float32)
            mask = None
            if layout.discrete:
                mask = (rng.random((batch, layout.n_agents, layout.action_dim)) < 0.5).astype(np.int8)
                np.put_along_axis(mask, rng.integers(layout.action_dim, size=(batch, layout.n_agents, 1)), 1, axis=2)
            actions, carry = policy.act(obs, carry, mask, rng=rng, deterministic=True)
            actions = check_actions(actions, layout, batch, layout.n_agents, "it")
            if mask is not None and not np.take_along_axis(mask, actions[..., None], axis=2).all():
                raise EntryError("it chooses illegal actions.")
