"""MuJoCo's robots: bad input, unstable simulations, forks and threads, and brakes that hold."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from test_mamujoco import seeded, spec_of

import mir2bench
from mir2bench.engines.base import Layout, Worlds
from mir2bench.engines.mamujoco import MamujocoEngine
from mir2bench.engines.mamujoco_physics import without_warnings
from mir2bench.engines.mamujoco_robotics import PARTITIONS, RoboticsEngine
from mir2bench.engines.mamujoco_robots import ROBOTS
from mir2bench.engines.mamujoco_scripted import FreezeTraitor
from mir2bench.errors import ConfigError, PolicyError, SpecError, StateError
from mir2bench.policies import IdlePolicy, RandomPolicy
from mir2bench.views.gym_env import GymEnv
from mir2bench.views.vector_env import VectorEnv

ENGINES = ("mamujoco:MamujocoEngine", "mamujoco_robotics:RoboticsEngine")

# --- starts and arguments ---


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"qpos": np.zeros(9)}, r"must be \{\"qpos\": \(9,\), \"qvel\": \(9,\)\} here, but it holds \['qpos'\]"),
        ([1], "but it holds list"),
        ({"qpos": np.zeros(8), "qvel": np.zeros(9)}, r"qpos has shape \(8,\), but it must be \(9,\)"),
        ({"qpos": np.zeros(9), "qvel": np.full(9, np.nan)}, "qvel must be 9 finite numbers"),
        ({"qpos": np.full(9, 1.1e10), "qvel": np.zeros(9)}, r"qpos must hold numbers from -1e\+10 to 1e\+10, .*11000"),
        ({"qpos": np.zeros(9), "qvel": np.full(9, -2e10)}, r"qvel must hold numbers from -1e\+10 to 1e\+10"),
        ({"qpos": "x", "qvel": np.zeros(9)}, r"qpos must hold real numbers in an array of shape \(9,\)"),
    ],
)
def test_bad_starts(start: Any, message: str) -> None:
    for kind in (MamujocoEngine, RoboticsEngine):
        engine = kind(1, 2, scenario="HalfCheetah", partition="2x3")
        engine.reset([0], seeded(0), None)
        before = engine.obs.copy()
        with pytest.raises(StateError, match=message):
            engine.reset([0], seeded(0), start)
        assert np.array_equal(engine.obs, before)


@pytest.mark.parametrize("scenario", ROBOTS)
def test_the_largest_starts_are_not_replaced(scenario: str) -> None:
    partition = next(iter(ROBOTS[scenario].partitions))
    for kind in (MamujocoEngine, RoboticsEngine):
        engine = kind(1, len(ROBOTS[scenario].partitions[partition]), scenario=scenario, partition=partition)
        engine.reset([0], seeded(0), None)
        start = engine.snapshot(0)
        for values in start.values():
            values[-1], values[-2] = 1e10, -1e10
        engine.reset([0], seeded(0), start)
        assert np.array_equal(engine.snapshot(0)["qpos"], start["qpos"])
        assert np.array_equal(engine.snapshot(0)["qvel"], start["qvel"])


@pytest.mark.parametrize(
    ("args", "n_agents", "message"),
    [
        ({"scenario": "HalfCheeta", "partition": "2x3"}, 2, "Did you mean `HalfCheetah`"),
        ({"scenario": "HalfCheetah", "partition": "3x2"}, 2, "No partition of HalfCheetah `3x2`. .*2x3"),
        ({"scenario": "HalfCheetah", "partition": "2x3"}, 3, "HalfCheetah 2x3 has 2 agents, but the variant says 3"),
        ({"scenario": "Hopper", "partition": "3x1", "agent_obsk": -1}, 3, "0 or more, not -1"),
    ],
)
def test_bad_arguments(args: dict[str, Any], n_agents: int, message: str) -> None:
    for kind in (MamujocoEngine, RoboticsEngine):
        with pytest.raises(SpecError, match=message):
            kind(1, n_agents, **args)


def test_other_scenarios_are_sent_to_the_wrapper() -> None:
    for scenario in ("Swimmer", "Zebra"):
        with pytest.raises(SpecError, match="mamujoco_robotics:RoboticsEngine") as caught:
            MamujocoEngine(1, 2, scenario=scenario, partition="2x1")
        assert str(caught.value).count("HalfCheetah") == 1
    with pytest.raises(SpecError, match="No partition of ManySegmentAnt `2x`. .* Give numbers, such as 4x2"):
        RoboticsEngine(1, 2, scenario="ManySegmentAnt", partition="2x")
    assert set(ROBOTS) < set(PARTITIONS)


@pytest.mark.parametrize(("scenario", "partition"), [("CoupledHalfCheetah", "1p1"), ("ManySegmentSwimmer", "1x1")])
def test_what_fails_in_gymnasium_robotics_itself(scenario: str, partition: str) -> None:
    with pytest.raises(
        SpecError, match=rf"Gymnasium-Robotics \S+ cannot simulate {scenario} {partition} with MuJoCo 3"
    ):
        RoboticsEngine(1, 2, scenario=scenario, partition=partition)


@pytest.mark.parametrize("threads", ["x", -5, 0, 1.5, True])
def test_bad_threads(threads: Any) -> None:
    for engine in ENGINES:
        with pytest.raises(ConfigError, match="threads must be an integer of 1 or more, or None, but it is"):
            Worlds(spec_of(engine, "HalfCheetah", "2x3", 2), 3, threads=threads)


def test_without_mujoco_the_error_has_the_pip_line() -> None:
    code = """
import sys, json, dataclasses
sys.modules["mujoco"] = None
import mir2bench
batched, said = mir2bench.spec("MAMujoco-Ant2x4-adv1-v0"), []
wrapped = dataclasses.replace(batched, engine="mir2bench.engines.mamujoco_robotics:RoboticsEngine")
for variant in (wrapped, batched):
    try:
        variant.layout
    except mir2bench.errors.MissingDependencyError as error:
        said.append(str(error))
print(json.dumps(said))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    expected = 'needs the package `mujoco`, which is not installed. Run: pip install "mir2bench[mujoco]"'
    assert [expected in line for line in json.loads(said)] == [True, True]


def test_the_wrapper_loads_in_silence() -> None:
    code = "import mir2bench.engines.mamujoco_robotics"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout + loaded.stderr == ""


# --- unstable simulations ---


def test_an_unstable_simulation_ends_its_world_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log there
    for engine, args in (
        ("mamujoco:MamujocoEngine", ("HalfCheetah", "2x3", 2)),
        ("mamujoco:MamujocoEngine", ("Ant", "4x2", 4)),
        ("mamujoco_robotics:RoboticsEngine", ("Hopper", "3x1", 3)),
    ):
        worlds, calm = Worlds(spec_of(engine, *args), 3), Worlds(spec_of(engine, *args), 3)
        for each in (worlds, calm):
            each.reset(seeds=range(3))
        start = worlds.engine.snapshot(1)
        worlds.reset([1], initial_state={"qpos": start["qpos"], "qvel": start["qvel"] + 1e9})
        seen = worlds.engine.obs[1].copy()
        actions = np.zeros(worlds.layout.action_shape(3))
        with without_warnings():
            for each in (worlds, calm):
                each.step(actions)
        assert worlds.truncated.tolist() == [False, True, False]
        assert worlds.engine.channels["unstable"].tolist() == [0.0, 1.0, 0.0]
        assert worlds.engine.reward[1] == 0.0
        assert np.array_equal(worlds.engine.obs[1], seen)
        for world in (0, 2):
            assert np.array_equal(worlds.engine.obs[world], calm.engine.obs[world])
        worlds.reset([1], seeds=[1])
        worlds.step(actions)
        assert not worlds.done.any()
        assert not worlds.engine.channels["unstable"].any()


@pytest.mark.parametrize("engine", ENGINES)
def test_every_view_tells_what_ended_an_unstable_episode(
    engine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log there
    variant = spec_of(engine, "HalfCheetah", "2x3", 2)
    calm = {"qpos": np.zeros(9), "qvel": np.zeros(9)}
    start = {"initial_state": {"qpos": np.zeros(9), "qvel": np.full(9, 1e9)}}
    still = np.zeros((2, 3), np.float32)
    with without_warnings():
        env = GymEnv(variant)
        assert env.reset(seed=0, options=start)[1]["interrupted"] is False
        *_, terminated, truncated, info = env.step(still)
        assert (terminated, truncated, info["interrupted"]) == (False, True, True)
        assert env.reset()[1]["interrupted"] is False
        assert env.step(still)[4]["interrupted"] is False

        parallel = mir2bench.parallel_env(variant)
        parallel.reset(seed=0, options=start)
        infos = parallel.step(dict(zip(parallel.agents, still, strict=True)))[4]
        assert [infos[agent]["interrupted"] for agent in parallel.possible_agents] == [True, True]

        attacker = mir2bench.AttackerEnv(variant, IdlePolicy(variant.layout))
        attacker.reset(seed=0, options=start)
        assert attacker.step(still[0])[4]["interrupted"] is True

        for mode in ("NextStep", "SameStep"):
            vector = VectorEnv(2, variant, autoreset_mode=mode)
            vector.reset(seed=0, options={"initial_state": calm})
            vector.reset(options={**start, "reset_mask": np.array([False, True])})
            *_, truncations, infos = vector.step(np.stack([still, still]))
            assert truncations.tolist() == [False, True]
            if mode == "SameStep":
                assert infos["interrupted"].tolist() == [False, False]
                infos = infos["final_info"]
            assert infos["interrupted"].tolist() == [False, True]
            assert infos["interrupted"].dtype == np.bool_
            assert not vector.step(np.stack([still, still]))[4]["interrupted"].any()


def test_worlds_that_cannot_be_lost_say_nothing() -> None:
    assert "interrupted" not in gymnasium.make("mir2bench/Rendezvous5-adv1-v0").reset(seed=0)[1]


# --- forks and threads ---


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("id", ["MAMujoco-HalfCheetah2x3-adv1-v0", "MAMujoco-Ant4x2-adv1-v0", "Rendezvous5-adv1-v0"])
def test_a_forked_child_goes_on_with_a_threaded_batch(id: str) -> None:
    variant = mir2bench.spec(id)
    worlds, idle = Worlds(variant, 4, threads=2), Worlds(variant, 4, threads=2)
    actions = np.random.default_rng(0).uniform(-1, 1, (3, *worlds.layout.action_shape(4)))
    for each in (worlds, idle):
        each.reset(seeds=range(4))
        each.step(actions[0])
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer versions of Python warn of forks beside threads
        child = os.fork()
    if child == 0:
        try:
            signal.alarm(20)  # ends the child if it hangs
            del idle
            worlds.step(actions[1])
            worlds.reset([2])
            worlds.step(actions[2])
            os.write(writer, worlds.engine.obs.tobytes())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        obs = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    worlds.step(actions[1])
    worlds.reset([2])
    worlds.step(actions[2])
    assert worlds.engine.obs.tobytes() == obs


def test_threads_that_silence_mujoco_take_turns() -> None:
    before = mujoco.get_mju_user_warning()
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with without_warnings():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with without_warnings():
        thread.start()
        assert not entered.wait(0.2)
    entered.wait()
    leave.set()
    thread.join()
    assert mujoco.get_mju_user_warning() is before


# --- brakes ---


@pytest.mark.parametrize(
    ("id", "gain"),
    [
        ("MAMujoco-HalfCheetah2x3-adv1-v0", 1.0),
        ("MAMujoco-HalfCheetah6x1-adv1-v0", 1.0),
        ("MAMujoco-Ant4x2-adv1-v0", 0.1),
        ("MAMujoco-Ant2x4-adv1-v0", 0.1),
        ("MAMujoco-Hopper3x1-adv1-v0", 1.0),
        ("MAMujoco-Walker2d2x3-adv1-v0", 0.08),
    ],
)
def test_frozen_joints_oppose_their_movement(id: str, gain: float) -> None:
    variant = mir2bench.spec(id)
    worlds, policy = Worlds(variant, 1), FreezeTraitor(variant.layout)
    robot = worlds.engine.robot  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    start = {"qpos": rng.uniform(0.6, 0.7, robot.positions), "qvel": rng.uniform(-0.9, 0.9, robot.velocities)}
    worlds.reset(seeds=[0], initial_state=start)
    turning = dict(zip(robot.joints, start["qvel"][-len(robot.joints) :], strict=True))
    for agent, own in enumerate(variant.layout.actuators):
        obs = worlds.engine.obs[:, [agent]]
        actions, _ = policy.act(obs, policy.initial_carry(1), rng=rng)
        assert actions[0, 0] == pytest.approx([-gain * turning[joint] for joint in own])


@pytest.mark.parametrize(
    ("id", "phi"),
    [
        ("MAMujoco-Ant4x2-adv1-v0", (0, 1, 0, 0)),
        ("MAMujoco-Hopper3x1-adv1-v0", (0, 1, 0)),
        ("MAMujoco-Walker2d2x3-adv1-v0", (1, 0)),
    ],
)
def test_brakes_slow_what_they_hold(id: str, phi: tuple[int, ...]) -> None:
    variant, adversary = mir2bench.spec(id), phi.index(1)

    def speed(braked: bool) -> float:
        worlds, rng = Worlds(variant, 8), np.random.default_rng(0)
        worlds.reset(seeds=range(8), phi=phi)
        team, brakes, moved = RandomPolicy(variant.layout), FreezeTraitor(variant.layout), []
        robot = worlds.engine.robot  # type: ignore[attr-defined]
        own = [robot.joints.index(joint) - len(robot.joints) for joint in variant.layout.actuators[adversary]]
        for _ in range(80):
            actions = np.array(team.act(worlds.engine.obs, None, rng=rng)[0])
            held, _ = brakes.act(worlds.engine.obs[:, [adversary]], np.zeros((8, 1)), rng=rng)
            actions[:, adversary] = held[:, 0] * braked
            worlds.step(actions)
            moved += [np.abs(worlds.engine.snapshot(world)["qvel"][own]).mean() for world in range(8)]
            worlds.reset(np.flatnonzero(worlds.done), phi=phi)
        return float(np.mean(moved))

    assert speed(True) < 0.75 * speed(False)


def test_brakes_for_robots_that_they_do_not_fit() -> None:
    wrapped: Layout = spec_of(ENGINES[1], "Swimmer", "2x1", 2).layout
    with pytest.raises(PolicyError, match="no scripted brakes for a robot with the joints rot2, rot3"):
        FreezeTraitor(wrapped)
