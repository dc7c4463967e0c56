"""The study folder: what it holds, who may work in it, and how a finished job gets there.

study.json                what is studied; another study cannot use the folder
jobs/<key>/               a finished job: job.json and its results, renamed into place
checkpoints/<key>.safetensors  where a training that is not finished stands
logs/<label>/             TensorBoard
failures/<key>.txt        why a job failed
scores.parquet, attacks.parquet (curves of the trained attacks), summary.json, report/
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from mir2bench.errors import StudyError
from mir2bench.evaluation.files import differences, plain, settle_folder, storage_error, storing, write_json
from mir2bench.evaluation.jobs import Job, digest

RESULT = "episodes.json"
"""What a roll-out writes: lists "return", "length" and "won" (or null) over its episodes; "lost", how many of them a
crash cut short, if any; "program", the outside program that played, if any. Or `NOT_APPLICABLE`."""
NOT_APPLICABLE = "not_applicable"
"""Key of the reason why an attacker cannot play against a team."""
_CARD = "job.json"
_OWN = {"study.json", ".lock"}


class Store:
    """One study folder; a context manager that holds its lock.

    Args:
        root: the folder; made if it does not exist.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.jobs = self.root / "jobs"
        self.checkpoints = self.root / "checkpoints"
        self._lock: int | None = None

    def open(self, config: Mapping[str, Any], *, resume: bool = False, command: str = "") -> None:
        """Lock the folder and claim it for the study that `config` describes.

        Args:
            config: the study's resolved configuration, plain data.
            resume: continue the same study, which lies there already.
            command: how it is started, for whoever must start it again.

        Raises:
            StudyError: another study or other files lie there, the same study does and `resume` is off, none does and
                `resume` is on, somebody works on it now, or the folder cannot be written.
        """
        with storing(self.root):
            if self.root.exists() and not self.root.is_dir():
                raise StudyError(f"{self.root} is a file, not a folder. Choose another --out.")
            if self.root.is_dir() and not self._study_file.exists():
                foreign = sorted(p.name for p in self.root.iterdir() if not _is_ours(p.name))
                if foreign:
                    raise StudyError(
                        f"{self.root} is not empty and holds no study: {', '.join(foreign[:3])}"
                        f"{' ...' if len(foreign) > 3 else ''}. Choose a new folder with --out."
                    )
            if resume and not self._study_file.exists():
                raise StudyError(
                    f"{self.root} holds no study that could be resumed. Check --out, or leave --resume off to begin."
                )
            self.root.mkdir(parents=True, exist_ok=True)
            self._acquire()
            try:
                self._claim(config, resume, command)
            except BaseException:
                self.close()
                raise

    @property
    def _study_file(self) -> Path:
        return self.root / "study.json"

    def _claim(self, config: Mapping[str, Any], resume: bool, command: str) -> None:
        config = plain(config)
        if self._study_file.exists():
            there = _read_json(self._study_file)
            differing = differences(there.get("config", {}), config)
            if differing:
                started = f" It was started with: {there['command']}." if there.get("command") else ""
                raise StudyError(
                    f"{self.root} holds another study; they differ in {'; '.join(differing[:4])}"
                    f"{' ...' if len(differing) > 4 else ''}. Choose another --out.{started}"
                )
            if not resume:
                raise StudyError(f"{self.root} holds this study already. Add --resume to continue it.")
        else:
            write_json(self._study_file, {"hash": digest(config), "command": command, "config": config})
        self.jobs.mkdir(exist_ok=True)
        for leftover in self.jobs.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for leftover in self.checkpoints.glob(".*"):
            leftover.unlink(missing_ok=True)

    def _acquire(self) -> None:
        # The kernel drops the lock when its holder dies, however it dies.
        import fcntl

        descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise StudyError(
                f"process {owner or 'unknown'} works on {self.root} right now. Wait for it, or choose another --out."
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._lock = descriptor

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def folder(self, key: str) -> Path:
        """Return where a job's results lie once it is finished."""
        return self.jobs / key

    def is_finished(self, key: str) -> bool:
        """Whether that job's folder is in place."""
        return (self.folder(key) / _CARD).is_file()

    def begin(self, key: str) -> Path:
        """Return an empty folder for the results of a job; nobody takes it for finished.

        Raises:
            StorageError: it cannot be made.
        """
        folder = self.jobs / f".{key}-{os.getpid()}"
        with storing(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        return folder

    def commit(self, job: Job, folder: Path, *, wall_s: float, cpu_s: float) -> None:
        """Rename a job's folder into place, complete and, if it was dear, on the disk.

        A roll-out takes no longer than waiting for the disk: if the machine crashes before it got there, `drop_changed`
        finds out.

        Raises:
            StorageError: the disk is full, read-only or broken; the job counts as not done then.
        """
        with storing(folder):
            write_json(
                folder / _CARD,
                {
                    "key": job.key,
                    "kind": job.kind,
                    "label": job.label,
                    "variant": job.variant.id,
                    "params": dict(job.params),
                    "needs": dict(job.needs),
                    "wall_s": wall_s,
                    "cpu_s": cpu_s,
                    "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                    "files": _hashes(folder),
                },
                sync=False,
            )
            try:
                settle_folder(folder, self.folder(job.key), sync=job.kind != "rollout")
            except OSError as error:
                if not self.is_finished(job.key):
                    raise storage_error(error, folder) from error
                shutil.rmtree(folder, ignore_errors=True)  # somebody was faster; the results are the same
            if job.kind == "train":
                self.checkpoint(job.key).unlink(missing_ok=True)

    def drop_changed(self, jobs: Iterable[Job]) -> tuple[list[Job], list[Job]]:
        """Forget finished jobs whose files are not what they wrote, and all that rest on them.

        What lies in the place of a job and is none counts as such.

        Args:
            jobs: in an order in which each stands behind its needs.

        Returns:
            The jobs that were changed or damaged, and the others that were dropped.
        """
        changed, resting, dropped = [], [], set()
        for job in jobs:
            folder = self.folder(job.key)
            if not os.path.lexists(folder):
                continue
            if not self._is_whole(job.key):
                changed.append(job)
            elif not dropped.isdisjoint(job.needs.values()):
                resting.append(job)
            else:
                continue
            dropped.add(job.key)
            with storing(folder):
                if folder.is_dir() and not folder.is_symlink():
                    shutil.rmtree(folder)
                else:
                    folder.unlink()
        return changed, resting

    def _is_whole(self, key: str) -> bool:
        try:
            files = self.read(key, _CARD)["files"]
            return files.items() <= _hashes(self.folder(key)).items()
        except (StudyError, OSError, TypeError, KeyError, AttributeError):
            return False

    def read(self, key: str, name: str) -> Any:
        """Return the content of a JSON file of a finished job; None if the job wrote none of that name.

        Raises:
            StudyError: the file is damaged.
        """
        path = self.folder(key) / name
        return _read_json(path) if path.exists() else None

    def checkpoint(self, key: str) -> Path:
        """Return where a job that trains keeps its state while it is not finished."""
        return self.checkpoints / f"{key}.safetensors"

    def logs(self, job: Job) -> Path:
        """Return the folder of a job's TensorBoard logs."""
        return self.root / "logs" / job.label.replace(":", "-")

    def write_failure(self, job: Job, trace: str) -> Path:
        """Keep a failed job's traceback and return where."""
        path = self.root / "failures" / f"{job.key}.txt"
        with storing(path):
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{job.label}\n\n{trace}", encoding="utf-8")
        return path

    def forget_failures(self, jobs: Iterable[Job]) -> None:
        """Drop the tracebacks of jobs that are about to run again."""
        with storing(self.root / "failures"):
            for job in jobs:
                (self.root / "failures" / f"{job.key}.txt").unlink(missing_ok=True)


def _hashes(folder: Path) -> dict[str, str]:
    """Return path -> sha256 of a job's results."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / _CARD)
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _is_ours(name: str) -> bool:
    return name in _OWN or name.startswith(".study.json.")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudyError(
            f"{path} cannot be read: {error}. If it is one job's file, delete that job's folder and continue with "
            "--resume; if it is study.json, restore it: it says which study the finished jobs belong to."
        ) from error
