"""Results as data: one row per evaluation episode, and what the study ran on."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

import mir2bench
from mir2bench.errors import StudyError
from mir2bench.evaluation.jobs import Job
from mir2bench.evaluation.store import NOT_APPLICABLE, RESULT, Store

COLUMNS = {
    "variant": "string",
    "defender": "string",
    "defender_seed": "int64",
    "attacker": "string",  # "none" in the clean control arm
    "attacker_seed": "Int64",  # missing where the attacker is not trained
    "phi": "string",  # N zeros and ones
    "episode": "int64",  # the same number is the same start in every cell
    "return": "float64",  # undiscounted sum of the team's raw reward
    "length": "int64",  # steps
    "won": "boolean",  # missing in families that know no victory
}
_PACKAGES = (
    *("numpy", "numba", "torch", "gymnasium", "scipy", "pandas", "rliable", "safetensors"),
    *("mujoco", "gymnasium-robotics", "jax", "jaxmarl", "onnxruntime"),  # not everywhere
)


def collect_scores(jobs: Iterable[Job], store: Store) -> pd.DataFrame:
    """Return the table of all episodes played so far, in an order that depends on the study alone.

    Columns: see `COLUMNS`.

    Raises:
        StudyError: a job's result is damaged.
    """
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for job, episodes in _played(jobs, store):
        if episodes is None or NOT_APPLICABLE in episodes:
            continue
        p, count = job.params, len(episodes["return"])
        cell = {
            "variant": job.variant.id,
            "defender": job.defender,
            "defender_seed": job.defender_seed,
            "attacker": p["attacker"],
            "attacker_seed": pd.NA if p["attacker_seed"] is None else p["attacker_seed"],
            "phi": p["phi"],
        }
        for name, value in cell.items():
            columns[name] += [value] * count
        columns["episode"] += range(count)
        columns["return"] += episodes["return"]
        columns["length"] += episodes["length"]
        columns["won"] += [pd.NA] * count if episodes["won"] is None else episodes["won"]
    keys = ["variant", "defender", "defender_seed", "phi", "attacker", "attacker_seed", "episode"]
    return pd.DataFrame(columns).astype(COLUMNS).sort_values(keys, kind="stable", ignore_index=True)


def collect_cells(jobs: Iterable[Job], store: Store) -> pd.DataFrame:
    """Return what became of each cell that was planned: one row per roll-out.

    Columns: variant, defender, defender_seed, attacker, phi, state ("done", "missing", or "not applicable" where the
    attacker cannot play against that team) and reason (of the last).

    Raises:
        StudyError: a job's result is damaged.
    """
    rows = []
    for job, episodes in _played(jobs, store):
        reason = (episodes or {}).get(NOT_APPLICABLE, "")
        state = "missing" if episodes is None else "not applicable" if reason else "done"
        p = job.params
        rows.append((job.variant.id, job.defender, job.defender_seed, p["attacker"], p["phi"], state, reason))
    columns = ("variant", "defender", "defender_seed", "attacker", "phi", "state", "reason")
    return pd.DataFrame(rows, columns=pd.Index(columns))


def _played(jobs: Iterable[Job], store: Store) -> Iterator[tuple[Job, dict[str, Any] | None]]:
    """Yield each roll-out with its result, or None if it is not finished."""
    for job in jobs:
        if job.kind != "rollout":
            continue
        result = store.read(job.key, RESULT) if store.is_finished(job.key) else None
        complete = isinstance(result, dict) and (NOT_APPLICABLE in result or {"return", "length", "won"} <= set(result))
        if store.is_finished(job.key) and not complete:
            raise StudyError(f"the result of {job.label} is missing or damaged; delete {store.folder(job.key)}.")
        yield job, result


def count_lost(jobs: Iterable[Job], store: Store) -> int:
    """Return how many episodes played so far were cut short by a crash or an unstable simulation."""
    return sum(int(episodes.get("lost", 0)) for _, episodes in _played(jobs, store) if episodes is not None)


def collect_programs(jobs: Iterable[Job], store: Store) -> list[str]:
    """Return names and versions of the outside programs that played; one for each family that has one, or [].

    Two versions of one game in a study are both named: their scores do not compare.
    """
    played = (episodes for _, episodes in _played(jobs, store) if episodes is not None)
    return sorted({episodes["program"] for episodes in played if episodes.get("program")})


def select(table: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """Return the rows whose columns have the given values."""
    rows: Any = table
    for column, value in values.items():
        rows = rows[rows[column] == value]
    return rows


def collect_curves(jobs: Iterable[Job], store: Store, kind: str, *metrics: str) -> pd.DataFrame:
    """Return metrics that the trainings of one kind reported.

    Args:
        jobs: the study's jobs.
        store: where their results lie.
        kind: "train" or "attack".
        metrics: their names; jobs that never reported one are left out of it.

    Returns:
        Columns metric, variant, defender, seed, attacker, phi, restart, steps, value.
    """
    rows = [
        (
            metric,
            job.variant.id,
            job.defender,
            job.defender_seed,
            job.params.get("attacker", ""),
            job.params.get("phi", ""),
            job.restart,
            row["steps"],
            row[metric],
        )
        for job in jobs
        if job.kind == kind
        for row in store.read(job.key, "curve.json") or []
        for metric in metrics
        if row.get(metric) is not None
    ]
    columns = ("metric", "variant", "defender", "seed", "attacker", "phi", "restart", "steps", "value")
    return pd.DataFrame(rows, columns=pd.Index(columns))


def environment() -> dict[str, Any]:
    """Return versions, git commit (None outside a checkout) and hardware."""
    return {
        "versions": {
            "mir2bench": mir2bench.__version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        },
        "git_commit": _git_commit(),
        "hardware": {
            "platform": platform.platform(),
            "machine": platform.machine(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": _memory_gib(),
        },
    }


def compute_time(jobs: Iterable[Job], store: Store) -> dict[str, float]:
    """Return wall and CPU seconds of the finished jobs, summed over all of them, in whichever session they ran."""
    cards = [store.read(job.key, "job.json") for job in jobs if store.is_finished(job.key)]
    return {
        "jobs_wall_s": round(sum(card["wall_s"] for card in cards), 3),
        "jobs_cpu_s": round(sum(card["cpu_s"] for card in cards), 3),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit of the checkout that this package is run from, with "+changes" if files differ from it."""
    package = Path(mir2bench.__file__).resolve().parent

    def git(*arguments: str) -> str:
        result = subprocess.run(
            ["git", "-C", str(package), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
        return result.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != package.parent:
            return None  # installed into some other project's checkout
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
