"""Rendezvous against numbers worked out by hand and against an independent, slow implementation."""

from __future__ import annotations

import copy
import math
import multiprocessing
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import rendezvous_reference as reference

import mir2bench
from mir2bench.engines import rendezvous_kernels
from mir2bench.engines.base import Worlds
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


# --- numbers by hand ---


@pytest.mark.parametrize(
    ("pose", "action", "expected", "velocity"),
    [
        ((100, 100, 0), (1, 1), (101.50688, 100, 0), (15.0688, 0)),
        ((100, 100, 0), (-1, 1), (100, 100, 0.530124), (0, 0)),
        (
            (100, 100, 0),
            (0, 1),
            (100.74592047535857, 100.08939618350483, 0.265062),
            (7.321027689911788, 1.7803755007146274),
        ),
        ((100, 100, 2), (1, 0.5), (99.59207109344847, 101.05309347179525, 1.8674689999999998), None),
        ((199.8, 100, 0), (1, 1), (200, 100, 0), (15.0688, 0)),  # a wall stops the robot but not its velocity
        ((0.1, 0.2, 1.25 * math.pi), (1, 1), (0, 0, 1.25 * math.pi), None),  # into the corner
        ((100, 100, 0), (1, -1), (100, 100, 2 * math.pi - 0.530124), None),  # headings stay in [0, 2 pi)
        ((100, 100, 0), (-1, -1), (98.49312, 100, 0), (-15.0688, 0)),
    ],
)
def test_one_step_by_hand(pose: Any, action: Any, expected: Any, velocity: Any) -> None:
    worlds = started([pose, (20, 30, 1)])
    worlds.step(np.array([[action, (0, 0)]], dtype=np.float64))
    engine: Any = worlds.engine
    assert engine.poses[0, 0] == pytest.approx(expected, abs=1e-11)
    assert engine.poses[0, 1] == pytest.approx((20, 30, 1), abs=1e-13)
    if velocity is not None:
        assert engine.velocity[0, 0] == pytest.approx(velocity, abs=1e-11)


def test_a_tiny_turn_to_the_right_leaves_no_heading_of_two_pi() -> None:
    worlds = started([(100, 100, 0), (20, 30, 1)])
    worlds.step(np.array([[(1e-17, 0), (0, 0)]]))
    assert worlds.engine.snapshot(0)["poses"][0, 2] == 0.0


def test_arctangent_is_accurate_to_1e_10() -> None:
    for turn in np.linspace(-math.pi, math.pi, 2001)[1:]:
        for radius in (1e-9, 1.0, 282.0):
            x, y = radius * math.cos(turn), radius * math.sin(turn)
            assert rendezvous_kernels._atan2(y, x) == pytest.approx(math.atan2(y, x), abs=1e-10)
    for y, x in ((0, 0), (0, 1), (1, 0), (-1, 0), (0, -1), (1, 1), (-1, -1)):
        assert rendezvous_kernels._atan2(float(y), float(x)) == pytest.approx(math.atan2(y, x), abs=1e-10)


def test_observation_by_hand() -> None:
    expected = [
        [0.354610, 0.479426, -0.877583, -0.141120, -0.989992, 0.354610, 0.877583, 0.479426, -0.960170, 0.279415],
        [0.354610, -0.141120, -0.989992, 0.479426, -0.877583, 0.501494, -0.799817, -0.600243, -0.876520, -0.481366],
        [0.354610, -0.960170, 0.279415, 0.877583, 0.479426, 0.501494, -0.876520, -0.481366, -0.799817, -0.600243],
    ]
    obs = started(POSES).engine.obs[0]
    assert obs.dtype == np.float32
    for i in range(3):
        identity = [float(k == i) for k in range(3)]
        assert obs[i] == pytest.approx([*expected[i], 1, 0, 0, 0, 0, *identity], abs=1e-6)


def test_state_by_hand() -> None:
    expected = [0.354610, 0.354610, 0.501494, 0.159155, -0.340845, 0.159155]
    expected += [-0.545070, 0.954930, -0.795070, 0.909859, -0.840141, -0.090141]
    state = started(POSES).engine.state[0]
    assert state.dtype == np.float32
    assert state == pytest.approx(expected, abs=1e-6)


def test_reward_by_hand() -> None:
    worlds = started(POSES)
    worlds.step(np.zeros((1, 3, 2)))
    assert worlds.engine.reward[0] == pytest.approx(-0.403571343, abs=1e-9)
    # At full speed backwards and forwards the pairs move, but the price of the actions is 0.001.
    worlds.step(np.array([[[1, 1], [-1, 1], [1, -1]]], dtype=np.float64))
    channels = worlds.engine.channels
    assert channels["action"][0] == pytest.approx(-0.001, abs=1e-15)
    assert channels["team"][0] == worlds.engine.reward[0] == channels["distance"][0] + channels["action"][0]
    # Half speed on one wheel of three robots: 0.001 * 0.25 / 6.
    worlds.step(np.array([[[0.5, 0], [0, 0], [0, 0]]]))
    assert worlds.engine.channels["action"][0] == pytest.approx(-0.001 * 0.25 / 6, abs=1e-15)


def test_distances_are_capped_in_the_reward_but_not_in_the_observation() -> None:
    worlds = started([(0, 0, 0), (200, 200, 0)])
    worlds.step(np.zeros((1, 2, 2)))
    assert worlds.engine.reward[0] == -1.0
    assert worlds.engine.obs[0, 0, 0] == np.float32(math.sqrt(80000) / 282)


@pytest.mark.parametrize(
    ("pose", "wall"),
    [
        ((199.5, 100, 0.3), (0.5, math.cos(-0.3), math.sin(-0.3))),  # right
        ((100, 199.25, 0.3), (0.75, math.cos(math.pi / 2 - 0.3), math.sin(math.pi / 2 - 0.3))),  # top
        ((0.25, 100, 0.3), (0.25, math.cos(math.pi - 0.3), math.sin(math.pi - 0.3))),  # left
        ((100, 0, 0.3), (0, math.cos(1.5 * math.pi - 0.3), math.sin(1.5 * math.pi - 0.3))),  # bottom
        ((199, 100, 0), (1, 1, 0)),  # at exactly 1 cm it is seen
        ((198.999, 100, 0), (1, 0, 0)),  # a little farther it is not
        ((199.5, 199.75, 0), (0.25, 0, 1)),  # the nearer of two
        ((200, 200, 0), (0, 1, 0)),  # on a tie the first of right, top, left, bottom
        ((0, 0, 0), (0, -1, 0)),
    ],
)
def test_wall_by_hand(pose: Any, wall: Any) -> None:
    obs = started([(100, 50, 0), pose]).engine.obs[0]
    assert obs[1, 5:10] == pytest.approx([*wall, 0, 0], abs=1e-6)
    assert obs[0, 5:10].tolist() == [1, 0, 0, 0, 0]


def test_coincident_robots_see_each_other_at_bearing_zero() -> None:
    engine = started([(70, 80, 0.4), (70, 80, 2.0)]).engine
    first = [0, math.cos(0.4), math.sin(0.4), math.cos(2.0), math.sin(2.0)]
    second = [0, math.cos(2.0), math.sin(2.0), math.cos(0.4), math.sin(0.4)]
    assert engine.obs[0, 0, :5] == pytest.approx(first, abs=1e-6)
    assert engine.obs[0, 1, :5] == pytest.approx(second, abs=1e-6)
    assert engine.state[0] == pytest.approx([0] + [v / math.pi for v in (0.4, 0.4, 2.0, 2.0)], abs=1e-6)


@pytest.mark.parametrize(
    ("second", "actions", "ends"),
    [
        ((100.999, 100, 0), ((0, 0), (0, 0)), True),
        ((101.001, 100, 0), ((0, 0), (0, 0)), False),  # 1 cm apart or more
        ((100.5, 100, 0), ((1, -1), (-1, 1)), True),  # turning on the spot counts as stopped
        # One of two robots at v cm/s: the mean of four squares is v^2 / 4 < 0.01, so v < 0.2 and u < 0.2 / 15.0688.
        ((100.5, 100, 0), ((0.01327, 0.01327), (0, 0)), True),
        ((100.5, 100, 0), ((0.01328, 0.01328), (0, 0)), False),
    ],
)
def test_termination_by_hand(second: Any, actions: Any, ends: bool) -> None:
    worlds = started([(100, 100, 0), second])
    worlds.step(np.array([actions], dtype=np.float64))
    assert worlds.engine.terminated[0] == ends
    assert not worlds.truncated[0]
    assert worlds.done[0] == ends


def test_time_limit_truncates_at_200_steps() -> None:
    worlds = started(POSES)
    for step in range(1, 201):
        worlds.step(np.zeros((1, 3, 2)))
        assert worlds.elapsed[0] == step
        assert bool(worlds.truncated[0]) == (step == 200)
        assert not worlds.engine.terminated[0]


def test_termination_at_the_time_limit_is_no_truncation() -> None:
    worlds = started([(100, 100, 0), (100.5, 100, 0)], horizon=1)
    worlds.step(np.zeros((1, 2, 2)))
    assert worlds.engine.terminated[0]
    assert not worlds.truncated[0]


def test_starts_are_uniform_in_the_inner_square() -> None:
    worlds = Worlds(variant(10), 2000)
    worlds.reset(seeds=range(2000))
    poses: Any = worlds.engine.poses  # type: ignore[attr-defined]
    x, y, heading = poses.reshape(-1, 3).T
    for values, low, high in ((x, 10, 190), (y, 10, 190), (heading, 0, 2 * math.pi)):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() < high
        # Of 20,000 uniform numbers the mean deviates by 0.002 of the range, the standard deviation by 0.001.
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.01 * (high - low))
        assert values.std() == pytest.approx((high - low) / math.sqrt(12), abs=0.006 * (high - low))
    # An idle team stays where it starts: two random points of a 180 cm square lie 93.85 cm apart on average.
    worlds.step(np.zeros((2000, 10, 2)))
    assert worlds.engine.reward.mean() * 200 == pytest.approx(-66.56, abs=0.7)


# --- the slow implementation ---


def random_poses(batch: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return states of every kind: anywhere, at walls, in a crowd, on one spot."""
    poses = rng.uniform([0, 0, 0], [200, 200, 2 * np.pi], (batch, n, 3))
    kind = rng.integers(0, 4, batch)
    at_wall = kind == 1
    near = rng.uniform(0, 2, poses[at_wall, :, :2].shape)
    poses[at_wall, :, :2] = np.where(poses[at_wall, :, :2] > 100, 200 - near, near)
    crowd = kind == 2
    poses[crowd, :, :2] = 100 + 0.005 * (poses[crowd, :, :2] - 100)
    poses[kind == 3, 1] = poses[kind == 3, 0]
    return poses


def assert_same_numbers(engine: Any, world: int) -> None:
    """Compare one world's observations and state with the slow implementation at the same poses."""
    poses = engine.poses[world]
    expected = np.array([reference.observation(poses, i) for i in range(len(poses))])
    np.testing.assert_allclose(engine.obs[world], expected, rtol=0, atol=1e-6)
    n_pairs = len(poses) * (len(poses) - 1) // 2
    difference = engine.state[world] - np.array(reference.state(poses))
    difference[n_pairs:] -= 2 * np.round(difference[n_pairs:] / 2)  # pi and -pi are the same angle
    np.testing.assert_allclose(difference, 0, atol=1e-6)


@pytest.mark.parametrize(("n", "batch"), [(2, 1500), (5, 1000), (10, 300), (40, 10)])
def test_random_states_against_the_slow_implementation(n: int, batch: int) -> None:
    rng = np.random.default_rng(n)
    worlds = Worlds(variant(n), batch)
    worlds.reset(seeds=range(batch))
    engine: Any = worlds.engine
    before = random_poses(batch, n, rng)
    engine.poses[:] = before
    actions = rng.uniform(-1, 1, (batch, n, 2))
    actions[::3] = np.sign(actions[::3])  # bang-bang
    actions[1::3] *= 0.01  # nearly stopped
    together = (before[:, 0] == before[:, 1]).all(axis=1)
    actions[together, 1] = actions[together, 0]
    worlds.step(actions)
    ended = 0
    for world in range(batch):
        moved = [reference.move(pose, action) for pose, action in zip(before[world], actions[world], strict=True)]
        poses, velocity = np.array([p for p, _ in moved]), np.array([v for _, v in moved])
        difference = engine.poses[world] - poses
        difference[:, 2] -= 2 * np.pi * np.round(difference[:, 2] / (2 * np.pi))
        np.testing.assert_allclose(difference, 0, atol=1e-9)
        np.testing.assert_allclose(engine.velocity[world], velocity, rtol=0, atol=1e-9)
        assert worlds.engine.reward[world] == pytest.approx(reference.reward(poses, actions[world]), abs=1e-9)
        assert engine.terminated[world] == reference.gathered(poses, velocity)
        ended += int(engine.terminated[world])
        assert_same_numbers(engine, world)
    assert ((engine.poses[..., 2] >= 0) & (engine.poses[..., 2] < 2 * np.pi)).all()
    if n == 2:
        assert 0 < ended < batch
    assert (engine.obs[together, 0, 0] == 0).all()
    assert together.any()


@pytest.mark.parametrize("seed", range(3))
def test_whole_episodes_against_the_slow_implementation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    worlds = Worlds(variant(4), 1)
    worlds.reset(seeds=[seed])
    engine: Any = worlds.engine
    poses = engine.poses[0].copy()
    for _ in range(200):
        actions = rng.uniform(-1, 1, (4, 2)) * rng.choice([1.0, 0.3])
        worlds.step(actions[None])
        poses = np.array([reference.move(pose, action)[0] for pose, action in zip(poses, actions, strict=True)])
        difference = engine.poses[0] - poses
        difference[:, 2] -= 2 * np.pi * np.round(difference[:, 2] / (2 * np.pi))
        np.testing.assert_allclose(difference, 0, atol=1e-9)
        assert engine.reward[0] == pytest.approx(reference.reward(poses, actions), abs=1e-9)
        assert_same_numbers(engine, 0)
    assert worlds.truncated[0]


# --- batches, threads, copies ---


@pytest.mark.parametrize("threads", [2, 3, None])
def test_threads_do_not_change_a_bit(threads: int | None) -> None:
    rng = np.random.default_rng(0)
    one, many = Worlds(variant(5), 400, threads=1), Worlds(variant(5), 400, threads=threads)
    for worlds in (one, many):
        worlds.reset(seeds=range(400))
    for _ in range(5):
        actions = rng.uniform(-1, 1, (400, 5, 2))
        one.step(actions)
        many.step(actions)
        for name in ("obs", "state", "reward", "terminated"):
            assert getattr(one.engine, name).tobytes() == getattr(many.engine, name).tobytes()


def _step_in_child(worlds: Worlds) -> None:
    worlds.step(np.zeros((256, 5, 2)))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_threads_work_in_a_forked_process() -> None:
    worlds = Worlds(variant(5), 256, threads=2)
    worlds.reset(seeds=range(256))
    _step_in_child(worlds)  # starts the threads here
    child = multiprocessing.get_context("fork").Process(target=_step_in_child, args=(worlds,))
    child.start()
    child.join(timeout=60)
    if child.is_alive():
        child.kill()
        pytest.fail("the forked process waits for ever")
    assert child.exitcode == 0


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda worlds: pickle.loads(pickle.dumps(worlds))])
def test_copies_go_on_by_themselves(duplicate: Any) -> None:
    worlds = Worlds(variant(5), 2)
    worlds.reset(seeds=[0, 1])
    twin = duplicate(worlds)
    actions = np.full((2, 5, 2), 0.5)
    worlds.step(actions)
    twin.step(actions)
    worlds.reset([1])
    twin.reset([1])
    for name, values in worlds.engine.channels.items():
        assert values.tobytes() == twin.engine.channels[name].tobytes()
        assert values.any()
    assert worlds.engine.obs.tobytes() == twin.engine.obs.tobytes()
    before = worlds.engine.obs.copy()
    twin.step(actions)
    assert worlds.engine.obs.tobytes() == before.tobytes()


def test_actions_of_every_kind_of_array_mean_the_same() -> None:
    values = np.array([[[1, -1], [0, 1], [-1, 0]]])
    read_only = values.astype(np.float64)
    read_only.flags.writeable = False
    forms = [values, values.tolist(), values.astype(np.float32), values.astype(np.int8), read_only]
    forms += [np.asfortranarray(values.astype(np.float64)), values.astype(np.float16)]
    results = set()
    for actions in forms:
        worlds = started(POSES)
        worlds.step(actions)
        results.add((worlds.engine.obs.tobytes(), float(worlds.engine.reward[0])))
    assert len(results) == 1
