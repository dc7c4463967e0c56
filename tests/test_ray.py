"""Jobs on a Ray cluster: the same results, also when a node dies."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evaluation_stubs import BUDGET, DEFENDER, PROTOCOL, tally
from rich.console import Console

import mir2bench
from mir2bench.errors import UnknownNameError
from mir2bench.evaluation import study as study_module
from mir2bench.evaluation.monitor import Monitor
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


def test_executors_are_known(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean `local`"):
        _run(tmp_path / "study", executor="locale")
