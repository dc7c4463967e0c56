"""Jobs on a Ray cluster: the same results, also when a node dies."""

from __future__ import annotations

import io
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from evaluation_stubs import BUDGET, DEFENDER, EAGER, PROTOCOL, EagerDefender, tally
from rich.console import Console

import mir2bench
from mir2bench.errors import MissingDependencyError, StudyError, UnknownNameError
from mir2bench.evaluation import study as study_module
from mir2bench.evaluation.executor import Failure
from mir2bench.evaluation.jobs import Job
from mir2bench.evaluation.limits import ANY, Limits
from mir2bench.evaluation.monitor import Monitor
from mir2bench.evaluation.ray_executor import _check_room, _do
from mir2bench.evaluation.study import Study

ROOT = Path(__file__).parents[1]


def _run(out: Path, **options: Any) -> bytes:
    study = Study.resolve((DEFENDER,), variants=[tally().id], budget=BUDGET, protocol=PROTOCOL, seeds=1)
    summary = study.run(out, console=Console(file=io.StringIO(), width=300), workers=1, **options)
    assert summary["failures"] == []
    return (out / "scores.parquet").read_bytes()


@pytest.fixture(autouse=True)
def _tally(fresh_registry: None, monkeypatch: pytest.MonkeyPatch) -> None:
    mir2bench.register(tally())
    monkeypatch.setattr(study_module, "write_report", lambda *_: None)


@pytest.fixture
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    built = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=built.address, runtime_env={"env_vars": {"PYTHONPATH": path}}, log_to_driver=False)
    yield built
    ray.shutdown()
    built.shutdown()


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_node_that_dies_changes_no_result(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    finished = Monitor.finished
    ended: list[str] = []

    def kill_once(self: Monitor, job: Any) -> None:
        finished(self, job)
        ended.append(job.key)
        if len(ended) == 3:
            cluster.remove_node(second, allow_graceful=False)

    monkeypatch.setattr(Monitor, "finished", kill_once)
    scores = _run(tmp_path / "ray", executor="ray")
    assert len(ended) > 3
    assert scores == _run(tmp_path / "local")


def _no_cluster(*_: Any) -> Any:
    raise AssertionError("Ray itself was asked, which tries for minutes")


def test_a_wrong_address_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=_no_cluster))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        with pytest.raises(StudyError, match=f"no Ray cluster answers at {address}: .*refused. Check --ray-address"):
            _run(tmp_path / "study", executor="ray", address=address)
    assert not (tmp_path / "study").exists()


def test_no_node_has_what_a_job_needs() -> None:
    nodes = [{"Alive": alive, "Resources": {"CPU": 4.0, "memory": gb * 1e9}} for alive, gb in ((True, 3), (False, 9))]
    cluster = SimpleNamespace(nodes=lambda: nodes)
    _check_room(cluster, {"memory": 2 * 10**9})
    _check_room(cluster, {})
    with pytest.raises(StudyError, match="asks for 4 GB, but no node of the cluster lends more than 3.0 GB"):
        _check_room(cluster, {"memory": 4 * 10**9})


def test_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        _run(tmp_path / "study", executor="ray")


class TestOnANode:
    """What a node does, in this process."""

    def _training(self) -> Job:
        return Study.resolve((EAGER,), variants=[tally().id], budget=BUDGET, protocol=PROTOCOL, seeds=1).jobs()[0]

    def test_checkpoints_lie_where_the_next_node_finds_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job, seen = self._training(), []
        train = EagerDefender.train

        def look(self: Any, variant: Any, *, checkpoint: Any = None, **options: Any) -> Any:
            checkpoint.save({"rounds": 0})
            seen.extend(p.name for p in (tmp_path / "checkpoints").iterdir())
            checkpoint.drop()
            return train(self, variant, checkpoint=checkpoint, **options)

        monkeypatch.setattr(EagerDefender, "train", look)
        (tmp_path / "study.json").touch()
        files = _do(job, {}, ANY, str(tmp_path))
        assert isinstance(files, dict)
        assert {"job.json", "curve.json", "policy/policy.json"} <= files.keys()
        assert seen == [f"{job.key}.safetensors"]
        assert list((tmp_path / "checkpoints").iterdir()) == []

    def test_a_study_folder_on_another_disk(self, tmp_path: Path) -> None:
        assert isinstance(_do(self._training(), {}, ANY, str(tmp_path / "elsewhere")), dict)
        assert not (tmp_path / "elsewhere").exists()

    def test_limits_are_watched(self, tmp_path: Path) -> None:
        study = Study.resolve(
            (DEFENDER,), variants=[tally().id], budget=BUDGET, protocol=PROTOCOL, settings=["trouble=hang"], seeds=1
        )
        failure = _do(study.jobs()[0], {}, Limits(minutes=0.05), str(tmp_path))
        assert isinstance(failure, Failure)
        assert failure.message.startswith("it took longer than 0.05 minutes and was ended")


def test_executors_are_known(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean `local`"):
        _run(tmp_path / "study", executor="locale")
