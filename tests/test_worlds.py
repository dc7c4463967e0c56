"""`Worlds`: starts, seeds, partitions and actions of a batch of episodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import mir2bench
from mir2bench.engines.base import Worlds
from mir2bench.errors import ActionError, PartitionError, StateError
from mir2bench.partition import Partition
from mir2bench.registration import VariantSpec

POSES = np.array([[50, 50, 0.5], [50, 150, 3.0], [150, 50, 6.0]], dtype=np.float64)


def variant(n_agents: int, horizon: int = 200) -> VariantSpec:
    """Return rendezvous with any number of robots."""
    spec = mir2bench.spec("Rendezvous5-adv1-v0")
    return replace(spec, id=f"mir2bench/Any{n_agents}-adv1-v0", n_agents=n_agents, horizon=horizon)


def started(poses: Any, batch: int = 1, horizon: int = 200) -> Worlds:
    """Return worlds that start from `poses`."""
    worlds = Worlds(variant(len(poses), horizon), batch)
    worlds.reset(seeds=range(batch), initial_state={"poses": poses})
    return worlds


def test_a_start_can_be_set_and_read() -> None:
    worlds = started([(0, 200, -0.5), (13, 14, 7.0)])
    snapshot = worlds.engine.snapshot(0)
    expected = np.array([[0, 200, 2 * np.pi - 0.5], [13, 14, 7.0 - 2 * np.pi]])
    np.testing.assert_allclose(snapshot["poses"], expected, atol=1e-12)
    snapshot["poses"][:] = 0
    assert worlds.engine.snapshot(0)["poses"][1, 0] == 13
    assert started([(0, 0, -1e-20), (1, 1, 0)]).engine.snapshot(0)["poses"][0, 2] == 0.0


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"pose": POSES}, r'must be \{"poses": \(3, 3\) numbers\} here, but it holds \[\'pose\'\]'),
        ({"poses": POSES, "speed": 1}, "but it holds"),
        (POSES, "but it holds ndarray"),
        ({"poses": POSES[:2]}, r"poses has shape \(2, 3\), but it must be \(3, 3\)"),
        ({"poses": [[0, 0], [1]]}, "poses must be an array of shape .* rows are uneven"),
        ({"poses": [["a"] * 3] * 3}, "poses must hold real numbers in an array of shape"),
        ({"poses": [[0, 0, 0], [1, 1, np.nan], [1, np.inf, 0]]}, r"poses of agents \[1, 2\] are not finite or outside"),
        ({"poses": [[0, 0, 0], [200.001, 1, 0], [1, 1, 0]]}, r"agents \[1\].*must lie in \[0, 200\] cm.*200.001"),
        ({"poses": [[0, -0.1, 0], [1, 1, 0], [1, 1, 0]]}, r"agents \[0\]"),
    ],
)
def test_bad_starts_change_nothing(start: Any, message: str) -> None:
    worlds = Worlds(variant(3), 2)
    worlds.reset(seeds=[0, 1])
    before, states = worlds.engine.obs.copy(), [g and g.bit_generator.state for g in worlds.generators]
    with pytest.raises(StateError, match=message):
        worlds.reset([0], seeds=[5], initial_state=start)
    assert worlds.engine.obs.tobytes() == before.tobytes()
    assert [g and g.bit_generator.state for g in worlds.generators] == states


def test_starts_depend_on_neither_phi_nor_a_set_start() -> None:
    drawn, given, placed = Worlds(variant(3), 1), Worlds(variant(3), 1), Worlds(variant(3), 1)
    drawn.reset(seeds=[4])
    given.reset(seeds=[4], phi=[0, 0, 0])
    placed.reset(seeds=[4], initial_state={"poses": POSES})
    assert drawn.engine.obs.tobytes() == given.engine.obs.tobytes()
    assert drawn.phi.sum() == 1
    assert given.phi.sum() == 0
    assert placed.phi.tolist() == drawn.phi.tolist()
    for worlds in (drawn, given, placed):
        worlds.reset()
    assert drawn.engine.obs.tobytes() == given.engine.obs.tobytes() == placed.engine.obs.tobytes()
    assert drawn.phi.tolist() == given.phi.tolist() == placed.phi.tolist()


def test_phi_for_each_world() -> None:
    worlds = Worlds(variant(3), 2)
    worlds.reset(phi=[[0, 1, 0], [0, 0, 0]])
    assert worlds.phi.tolist() == [[0, 1, 0], [0, 0, 0]]
    worlds.reset([1], phi=np.array([[0, 0, 1], [1, 0, 0]]))
    assert worlds.phi.tolist() == [[0, 1, 0], [1, 0, 0]]
    worlds.reset(phi=[Partition((0, 0, 1)), Partition((1, 0, 0))])
    assert worlds.phi.tolist() == [[0, 0, 1], [1, 0, 0]]
    worlds.reset(phi=Partition((0, 1, 0)))
    assert worlds.phi.tolist() == [[0, 1, 0], [0, 1, 0]]
    with pytest.raises(PartitionError, match="phi has 3 rows, but there are 2 worlds"):
        worlds.reset(phi=np.eye(3))
    with pytest.raises(PartitionError, match="names 2 adversaries"):
        worlds.reset(phi=[[0, 1, 0], [0, 1, 1]])
    assert worlds.phi.tolist() == [[0, 1, 0], [0, 1, 0]]


def test_unseeded_worlds_differ() -> None:
    worlds = Worlds(variant(3), 2)
    worlds.reset()
    assert not np.array_equal(worlds.engine.obs[0], worlds.engine.obs[1])
    with pytest.raises(ValueError, match="batch must be 1 or more, but it is 0"):
        Worlds(variant(3), 0)


# --- actions ---


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((2, 2)), r"shape \(2, 2\), but mir2bench/Any2-adv1-v0 expects \(1, 2, 2\): \(worlds, agents, compon"),
        ([[[0, 0], [0, np.nan]]], r"finite and in \[-1, 1\], but world 0, agent 1, component 1: nan\. Clip"),
        ([[[0, np.inf], [0, 0]]], "component 1: inf"),
        ([[[-1.0001, 0], [2, 0]]], "agent 0, component 0: -1.0001; world 0, agent 1, component 0: 2.0"),
        (np.full((1, 2, 2), -128, np.int8), "component 0: -128"),
        ([[["a", "b"], ["c", "d"]]], "their dtype is <U1"),
        (np.zeros((1, 2, 2), dtype=bool), "their dtype is bool"),
        (np.zeros((1, 2, 2), dtype=complex), "their dtype is complex128"),
    ],
)
def test_bad_actions_change_nothing(actions: Any, message: str) -> None:
    worlds = started([(10, 20, 0), (30, 40, 1)])
    before = worlds.engine.snapshot(0)["poses"]
    with pytest.raises(ActionError, match=message):
        worlds.step(actions)
    assert worlds.engine.snapshot(0)["poses"].tobytes() == before.tobytes()
    assert worlds.elapsed[0] == 0


def test_many_bad_actions_are_counted() -> None:
    with pytest.raises(ActionError, match=r"component 0: 3\.0; .* and 7 more\. Clip them first"):
        started(POSES, batch=2).step(np.full((2, 3, 2), 3.0))
