"""Running jobs on a Ray cluster, whose nodes need to share no disk: results come back to the coordinator's store."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mir2bench.errors import MissingDependencyError, StudyError
from mir2bench.evaluation.executor import ONE_THREAD, Failure, Listener, Queue, Silent, execute
from mir2bench.evaluation.files import settle_folder, storing
from mir2bench.evaluation.jobs import Job
from mir2bench.evaluation.limits import ANY, Limits
from mir2bench.evaluation.store import Store

Files = dict[str, bytes]
_RETRIES = 3  # of a job whose node or process died
_LOOK_EVERY = 0.5  # s between looks at the cluster's size
_PATIENCE = 5.0  # s to wait for the head's first answer


class Cluster:
    """A connection to a Ray cluster; a context manager. One that exists already is used, and left open.

    Args:
        address: HOST:PORT of the cluster's head, "auto", or None to start one on this machine.

    Attributes:
        name: what users call it.

    Raises:
        MissingDependencyError: Ray is not installed.
        StudyError: there is no cluster at the address.
    """

    def __init__(self, address: str | None) -> None:
        try:
            import ray  # type: ignore[import-not-found]
        except ImportError as error:
            raise MissingDependencyError('Ray is not installed. Run: pip install "mir2bench[ray]"') from error
        self.ray: Any = ray
        self.name = f"Ray at {address}" if address else "Ray on this machine"
        self._own = not ray.is_initialized()
        if not self._own:
            return
        paths = os.environ.get("PYTHONPATH", "")
        variables = {**ONE_THREAD, **({"PYTHONPATH": paths} if paths else {})}
        try:
            _knock(address)  # Ray itself would try for minutes
            ray.init(address=address or "local", runtime_env={"env_vars": variables}, log_to_driver=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise StudyError(
                f"no Ray cluster answers at {address or 'this machine'}: {error}. Check --ray-address, or start a "
                "cluster with `ray start --head`."
            ) from error

    @property
    def cores(self) -> int:
        """How many cores its living nodes lend."""
        return int(self.ray.cluster_resources().get("CPU", 0))

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        if self._own:
            self.ray.shutdown()


def _knock(address: str | None) -> None:
    """Raise `OSError` if nobody listens at HOST:PORT."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()


def execute_on_ray(
    jobs: Sequence[Job],
    store: Store,
    *,
    cluster: Cluster,
    listener: Listener,
    workers: int | None = None,
    limits: Limits = ANY,
) -> dict[str, Failure]:
    """Run all jobs that the store does not hold yet on a Ray cluster, one core each; see `executor.execute`.

    Args:
        jobs: in an order in which each stands behind its needs.
        store: opened and locked by the caller.
        cluster: where.
        listener: told of everything but the progress of trainings.
        workers: most jobs at once; None takes as many as the cluster has cores.
        limits: watched on the node, where a job with limits works in a process of its own; memory is reserved as well.

    Raises:
        StudyError: no node has what one job needs.
        StorageError: the study folder cannot be written any more.
    """
    queue = Queue(jobs, store)
    store.forget_failures(queue.waiting)
    ray = cluster.ray
    needs = {} if limits.memory_gb is None else {"memory": int(limits.memory_gb * 1e9)}
    remote = ray.remote(num_cpus=1, max_retries=_RETRIES, **needs)(_do)
    running: dict[Any, Job] = {}
    try:
        while True:
            slots = max(1, cluster.cores) if workers is None else workers
            while len(running) < slots and (job := queue.take()) is not None:
                _check_room(ray, needs)
                listener.started(job)
                inputs = {key: _read(store.folder(key)) for key in job.needs.values()}
                running[remote.remote(job, inputs, limits, str(store.root))] = job
            if not running:
                return queue.failures
            for task in ray.wait(list(running), num_returns=1, timeout=_LOOK_EVERY)[0]:
                job = running.pop(task)
                try:
                    result = ray.get(task)
                    failure = result if isinstance(result, Failure) else _keep(store, job, result)
                except ray.exceptions.RayError as error:
                    failure = Failure(f"its node or process died {_RETRIES + 1} times: {type(error).__name__}")
                queue.settle(job, failure, store, listener)
    finally:
        for task in running:
            ray.cancel(task, force=True)


def _check_room(ray: Any, needs: Mapping[str, int]) -> None:
    """Raise `StudyError` if no living node can ever hold one job, which Ray would wait for in silence."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if nodes and needs and not any(n.get("CPU", 0) >= 1 and n.get("memory", 0) >= needs["memory"] for n in nodes):
        largest = max(n.get("memory", 0) for n in nodes) / 1e9
        raise StudyError(
            f"--job-memory asks for {needs['memory'] / 1e9:g} GB, but no node of the cluster lends more than "
            f"{largest:.1f} GB. Lower it, or add a larger node."
        )


def _do(job: Job, inputs: dict[str, Files], limits: Limits, study: str) -> Files | Failure:
    """Do a job on a node, in a store of its own that holds only what the job needs.

    Where the study folder is on a disk that this node sees, a training keeps its checkpoint there, so that it goes on
    wherever it is tried again.
    """
    with tempfile.TemporaryDirectory() as root:
        store = Store(Path(root))
        try:
            for key, files in inputs.items():
                _write(store.folder(key), files)
            if (Path(study) / "study.json").is_file():
                (Path(study) / store.checkpoints.name).mkdir(exist_ok=True)
                store.checkpoints.symlink_to(Path(study) / store.checkpoints.name)
            failure = execute([job], store, workers=1, listener=Silent(), limits=limits).get(job.key)
            if failure is None:
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
