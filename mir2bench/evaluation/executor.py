"""Running jobs on this machine: in this process, or in several that share the study folder and nothing else.

A worker is a fresh process with one thread for numba, torch and BLAS each, so a result depends neither on the number of
workers nor on their order.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from mir2bench.errors import Mir2BenchError
from mir2bench.evaluation.files import StorageError
from mir2bench.evaluation.jobs import Job
from mir2bench.evaluation.limits import ANY, Limits
from mir2bench.evaluation.store import Store
from mir2bench.evaluation.work import run_job
from mir2bench.learning.progress import Progress

ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMBA", "NUMEXPR")}
_LOOK_EVERY = 0.5  # s between looks at what limited jobs use


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job gave no result.

    Attributes:
        message: one line.
        trace: the traceback, or "" if there is none.
        storage: whether the disk is the reason, so that no other job can succeed either.
    """

    message: str
    trace: str = ""
    storage: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe an exception."""
        text = " ".join(str(error).split())
        if not isinstance(error, Mir2BenchError):
            text = f"{type(error).__name__}: {text}" if text else type(error).__name__
        return cls(text, traceback.format_exc(), isinstance(error, StorageError))


class Listener(Protocol):
    """Who wants to know how the jobs fare."""

    def started(self, job: Job) -> None:
        """A worker took the job."""
        ...

    def progress(self, job: Job, progress: Progress) -> None:
        """A training reported."""
        ...

    def finished(self, job: Job) -> None:
        """The result is in the store."""
        ...

    def failed(self, job: Job, failure: Failure) -> None:
        """There is no result."""
        ...


class Silent:
    """A listener who wants to know nothing."""

    def started(self, job: Job) -> None:
        """See `Listener`."""

    def progress(self, job: Job, progress: Progress) -> None:
        """See `Listener`."""

    def finished(self, job: Job) -> None:
        """See `Listener`."""

    def failed(self, job: Job, failure: Failure) -> None:
        """See `Listener`."""


def default_workers() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def execute(
    jobs: Sequence[Job], store: Store, *, workers: int, listener: Listener, limits: Limits = ANY
) -> dict[str, Failure]:
    """Run all jobs that the store does not hold yet, each after those it needs.

    A job that fails, or whose process dies, loses only itself and those that need it.

    Args:
        jobs: in an order in which each stands behind its needs.
        store: opened and locked by the caller.
        workers: number of processes; 1 works in this one, unless there are limits.
        listener: told of everything, in this thread.
        limits: what one job may use.

    Returns:
        Key -> failure of each job that failed; jobs that needed one of those are not in it.

    Raises:
        StorageError: the study folder cannot be written any more.
        KeyboardInterrupt: the user stopped; finished jobs stay.
    """
    queue = Queue(jobs, store)
    store.forget_failures(queue.waiting)
    if workers == 1 and not limits:
        _run_here(queue, store, listener)
    else:
        _run_in_processes(queue, store, min(workers, max(1, len(queue.waiting))), listener, limits)
    return queue.failures


class Queue:
    """Which jobs may start: the first in the plan whose needs are met."""

    def __init__(self, jobs: Sequence[Job], store: Store) -> None:
        self.failures: dict[str, Failure] = {}
        waiting = {job.key: job for job in jobs if not store.is_finished(job.key)}
        self.waiting = list(waiting.values())
        self._unmet = [{key for key in job.needs.values() if key in waiting} for job in self.waiting]
        self._needed_by: dict[str, list[int]] = {}
        for place, needs in enumerate(self._unmet):
            for key in needs:
                self._needed_by.setdefault(key, []).append(place)
        self._ready = [place for place, needs in enumerate(self._unmet) if not needs]  # ascending: a heap already

    def take(self) -> Job | None:
        """Return the first job whose needs are met, or None if none may start now."""
        return self.waiting[heapq.heappop(self._ready)] if self._ready else None

    def settle(self, job: Job, failure: Failure | None, store: Store, listener: Listener) -> None:
        """Take note of how a job ended; those that need a failed one never become ready."""
        if failure is None:
            for place in self._needed_by.get(job.key, ()):
                self._unmet[place].remove(job.key)
                if not self._unmet[place]:
                    heapq.heappush(self._ready, place)
            listener.finished(job)
            return
        if failure.storage:
            raise StorageError(failure.message)
        self.failures[job.key] = failure
        if failure.trace:
            store.write_failure(job, failure.trace)
        listener.failed(job, failure)


def _run_here(queue: Queue, store: Store, listener: Listener) -> None:
    while (job := queue.take()) is not None:
        listener.started(job)
        failure = None
        try:
            run_job(store, job, lambda progress, job=job: listener.progress(job, progress))
        except Exception as error:
            failure = Failure.of(error)
        queue.settle(job, failure, store, listener)


class _Worker:
    """One process, our end of its pipe, and what it works on."""

    def __init__(self, root: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.job: Job | None = None
        self.since = 0.0
        self.process = context.Process(target=_work, args=(theirs, str(root)), daemon=True)
        with _child_environment():
            self.process.start()
        theirs.close()

    def give(self, job: Job) -> bool:
        """Hand over a job; False if the process has died."""
        try:
            self.connection.send(job)
        except OSError:
            return False
        self.job, self.since = job, math.inf  # a fresh process must first import everything
        return True

    def stop(self, *, at_once: bool = False) -> None:
        """End the process; `at_once` if it is known not to listen."""
        if not at_once:
            self.process.terminate()
            self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()


def _run_in_processes(queue: Queue, store: Store, workers: int, listener: Listener, limits: Limits) -> None:
    pool: list[_Worker] = []
    try:
        while True:
            idle = [worker for worker in pool if worker.job is None]
            while idle or len(pool) < workers:
                job = queue.take()
                if job is None:
                    break
                if not idle:
                    pool.append(_Worker(store.root))
                    idle = pool[-1:]
                worker = idle.pop()
                listener.started(job)
                if not worker.give(job):
                    worker.job = job  # its death is handled below like any other
            busy = {worker.connection: worker for worker in pool if worker.job is not None}
            if not busy:
                return
            for connection in wait(list(busy), _LOOK_EVERY if limits else None):
                worker = busy[connection]  # type: ignore[index]
                if not _listen(worker, queue, store, listener):
                    pool.remove(worker)
                    worker.stop()
            for worker in [w for w in pool if w.job is not None]:
                breach = limits.breach(worker.process.pid, time.monotonic() - worker.since)
                if breach and not worker.connection.poll():
                    pool.remove(worker)
                    worker.stop(at_once=True)
                    queue.settle(worker.job, Failure(breach), store, listener)  # type: ignore[arg-type]
    finally:
        for worker in pool:
            worker.stop()


def _listen(worker: _Worker, queue: Queue, store: Store, listener: Listener) -> bool:
    """Take one message from a worker; return False if it has died."""
    job = worker.job
    if job is None:
        raise RuntimeError("an idle worker sent a message")
    try:
        kind, content = worker.connection.recv()
    except (EOFError, OSError):
        worker.process.join(5)
        code = worker.process.exitcode
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        queue.settle(job, Failure(f"its process died with exit code {code}{hint}"), store, listener)
        return False
    if kind == "begun":
        worker.since = time.monotonic()
    elif kind == "progress":
        listener.progress(job, content)
    else:
        worker.job = None
        queue.settle(job, content, store, listener)
    return True


@contextlib.contextmanager
def _child_environment() -> Iterator[None]:
    """Let a child start with one thread everywhere, and deaf to Ctrl-C, which is for the coordinator."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    main = threading.current_thread() is threading.main_thread()
    handler: Any = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _work(connection: Connection, root: str) -> None:
    """The life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    store = Store(Path(root))
    with contextlib.suppress(EOFError, ConnectionError):  # the coordinator has died, or is done
        while True:
            job = connection.recv()
            connection.send(("begun", None))
            failure = None
            try:
                run_job(store, job, lambda progress: connection.send(("progress", progress)))
            except BaseException as error:  # whatever it is, the coordinator must hear of it
                failure = Failure.of(error)
            connection.send(("settled", failure))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        # Nobody is left to take the result; a resumed study does the job again.
        os._exit(1)
