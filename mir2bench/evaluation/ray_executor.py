"""Running jobs on a Ray cluster, whose nodes need to share no disk: results come back to the coordinator's store."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mir2bench.errors import MissingDependencyError, StudyError
from mir2bench.evaluation.executor import ONE_THREAD, Failure, Listener, Queue
from mir2bench.evaluation.files import settle_folder, storing
from mir2bench.evaluation.jobs import Job
from mir2bench.evaluation.limits import ANY, Limits
from mir2bench.evaluation.store import Store
from mir2bench.evaluation.work import run_job

Files = dict[str, bytes]
_RETRIES = 3  # of a job whose node or process died
_LOOK_EVERY = 0.5  # s between looks at the cluster's size and at limits


def execute_on_ray(
    jobs: Sequence[Job], store: Store, *, address: str | None, listener: Listener, limits: Limits = ANY
) -> dict[str, Failure]:
    """Run all jobs that the store does not hold yet on a Ray cluster, one core each; see `executor.execute`.

    Args:
        jobs: in an order in which each stands behind its needs.
        store: opened and locked by the caller.
        address: of the cluster's head; None starts one on this machine. A connection that exists is used.
        listener: told of everything but the progress of trainings.
        limits: time counts from when the job was handed to the cluster; memory is reserved on the node, not watched.

    Raises:
        MissingDependencyError: Ray is not installed.
        StudyError: there is no cluster at the address.
        StorageError: the study folder cannot be written any more.
    """
    try:
        import ray  # type: ignore[import-not-found]
    except ImportError as error:
        raise MissingDependencyError('Ray is not installed. Run: pip install "mir2bench[ray]"') from error
    connected = ray.is_initialized()
    if not connected:
        paths = os.environ.get("PYTHONPATH", "")
        variables = {**ONE_THREAD, **({"PYTHONPATH": paths} if paths else {})}
        try:
            ray.init(address=address or "local", runtime_env={"env_vars": variables}, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise StudyError(f"no Ray cluster answers at {address}: {error}. Start one with `ray start`.") from error
    queue = Queue(jobs, store)
    store.forget_failures(queue.waiting)
    try:
        _feed(ray, queue, store, listener, limits)
    finally:
        if not connected:
            ray.shutdown()
    return queue.failures


def _feed(ray: Any, queue: Queue, store: Store, listener: Listener, limits: Limits) -> None:
    needs = {} if limits.memory_gb is None else {"memory": int(limits.memory_gb * 1e9)}
    remote = ray.remote(num_cpus=1, max_retries=_RETRIES, **needs)(_do)
    running: dict[Any, tuple[Job, float]] = {}
    try:
        while True:
            slots = max(1, int(ray.cluster_resources().get("CPU", 1)))
            while len(running) < slots and (job := queue.take()) is not None:
                listener.started(job)
                inputs = {key: _read(store.folder(key)) for key in job.needs.values()}
                running[remote.remote(job, inputs)] = job, time.monotonic()
            if not running:
                return
            for task in ray.wait(list(running), num_returns=1, timeout=_LOOK_EVERY)[0]:
                job, _ = running.pop(task)
                try:
                    result = ray.get(task)
                    failure = result if isinstance(result, Failure) else _keep(store, job, result)
                except ray.exceptions.RayError as error:
                    failure = Failure(f"its node or process died {_RETRIES + 1} times: {type(error).__name__}")
                queue.settle(job, failure, store, listener)
            for task, (job, since) in list(running.items()):
                breach = limits.breach(None, time.monotonic() - since)
                if breach:
                    ray.cancel(task, force=True)
                    del running[task]
                    queue.settle(job, Failure(breach), store, listener)
    finally:
        for task in running:
            ray.cancel(task, force=True)


def _do(job: Job, inputs: dict[str, Files]) -> Files | Failure:
    """Do a job on a node, in a store of its own that holds only what the job needs."""
    with tempfile.TemporaryDirectory() as root:
        store = Store(Path(root))
        try:
            for key, files in inputs.items():
                _write(store.folder(key), files)
            run_job(store, job)
            return _read(store.folder(job.key))
        except Exception as error:
            failure = Failure.of(error)
            return Failure(failure.message, failure.trace)  # a node's full disk is not the study's


def _keep(store: Store, job: Job, files: Files) -> None:
    folder = store.begin(job.key)
    with storing(folder):
        _write(folder, files)
        settle_folder(folder, store.folder(job.key), sync=job.kind != "rollout")


def _read(folder: Path) -> Files:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
