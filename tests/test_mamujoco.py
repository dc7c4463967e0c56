"""MuJoCo's robots: both engines against Gymnasium-Robotics, layouts by hand, starts, and what goes wrong."""

from __future__ import annotations

import copy
import os
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.seeding import np_random

import mir2bench
from mir2bench.attackers import make_attacker
from mir2bench.engines import mamujoco_drawing
from mir2bench.engines.base import Worlds
from mir2bench.engines.mamujoco import MamujocoEngine
from mir2bench.engines.mamujoco_physics import without_warnings
from mir2bench.engines.mamujoco_robotics import RoboticsEngine
from mir2bench.engines.mamujoco_robots import ROBOTS
from mir2bench.engines.mamujoco_scripted import BackwardTraitor
from mir2bench.errors import ActionError, MissingDependencyError
from mir2bench.evaluation.contenders import make_scripted
from mir2bench.learning.networks import Actor, ActorShape
from mir2bench.learning.policy import NetworkPolicy
from mir2bench.learning.rollout import rollout
from mir2bench.partition import Partition
from mir2bench.policies import build_scripted
from mir2bench.registration import Anchor, VariantSpec
from mir2bench.testing import check_env
from mir2bench.testing.environments import equal
from mir2bench.views.gym_env import GymEnv

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from gymnasium_robotics import mamujoco_v1

CASES = [(name, partition) for name, robot in ROBOTS.items() for partition in robot.partitions]
STATES = int(os.environ.get("MIR2BENCH_STATES", "300"))
"""Random states per robot and partition that are compared; 10,000 take minutes."""
TERMS = {"forward": "forward", "survive": "survive", "control": "ctrl", "contact": "contact"}


def agents_of(scenario: str, partition: str) -> int:
    return len(ROBOTS[scenario].partitions[partition])


def make(batch: int, scenario: str, partition: str, **options: Any) -> MamujocoEngine:
    return MamujocoEngine(batch, agents_of(scenario, partition), scenario=scenario, partition=partition, **options)


def peer(scenario: str, partition: str, **options: Any) -> Any:
    with without_warnings():
        return mamujoco_v1.parallel_env(scenario, partition, **options)


def seeded(*seeds: int) -> list[np.random.Generator]:
    return [np_random(seed)[0] for seed in seeds]


def spec_of(engine: str, scenario: str, partition: str, n_agents: int, horizon: int = 40) -> VariantSpec:
    return VariantSpec(
        id="test/Robot-adv1-v0",
        family="MAMujoco",
        n_agents=n_agents,
        n_adversaries=1,
        horizon=horizon,
        engine=f"mir2bench.engines.{engine}",
        engine_args={"scenario": scenario, "partition": partition},
        floor=Anchor(0.0, ""),
        ceiling=Anchor(1.0, ""),
    )


def joint_action(env: Any, actions: np.ndarray) -> dict[str, np.ndarray]:
    return {name: actions[i, : env.action_space(name).shape[0]] for i, name in enumerate(env.possible_agents)}


def assert_seen(seen: np.ndarray, env: Any, torso: int) -> None:
    """Compare (N, O) float32 with what the peer's agents see; places that pad must be 0."""
    n = len(seen)
    assert np.array_equal(seen[:, -n:], np.eye(n))
    for agent in range(n):
        theirs, ours = env.unwrapped._get_obs_agent(agent).astype(np.float32), seen[agent, :-n]
        joints = len(theirs) - torso
        assert np.array_equal(ours[:joints], theirs[:joints])
        assert np.array_equal(ours[len(ours) - torso :], theirs[joints:])
        assert not ours[joints : len(ours) - torso].any()


# --- the same numbers as Gymnasium-Robotics ---


@pytest.mark.parametrize(("scenario", "partition"), CASES)
def test_one_step_from_any_state_is_that_of_the_peer(scenario: str, partition: str) -> None:
    robot, n = ROBOTS[scenario], agents_of(scenario, partition)
    with_torso = partition != "2x3"
    torso = (len(robot.seen_positions()) + len(robot.torso_velocities)) * with_torso
    env = peer(scenario, partition, agent_obsk=1, global_categories=None if with_torso else ())
    env.reset(seed=0)
    base = env.unwrapped.single_agent_env.unwrapped
    batch, ended = min(STATES, 250), 0
    engine = make(batch, scenario, partition, torso=with_torso)
    rng = np.random.default_rng(0)
    for _ in range(0, STATES, batch):
        spread = rng.choice([0.02, 0.2, 1.0, 4.0], (batch, 1))
        qpos = base.init_qpos + 0.3 * spread * rng.standard_normal((batch, robot.positions))
        qvel = spread * rng.standard_normal((batch, robot.velocities))
        actions = rng.uniform(-1, 1, engine.layout(n, scenario, partition, 1, with_torso).action_shape(batch))
        for world in range(batch):
            engine.reset([world], seeded(0), {"qpos": qpos[world], "qvel": qvel[world]})
        before = engine.obs.copy()
        engine.step(actions)
        for world in range(batch):
            base.reset()
            base.set_state(qpos[world], qvel[world])
            assert_seen(before[world], env, torso)
            _, rewards, terminations, _, infos = env.step(joint_action(env, actions[world]))
            assert_seen(engine.obs[world], env, torso)
            assert np.array_equal(engine.state[world], env.unwrapped.state().astype(np.float32))
            assert engine.reward[world] == pytest.approx(rewards["agent_0"], abs=1e-9)
            assert engine.terminated[world] == terminations["agent_0"]
            for name, theirs in TERMS.items():
                expected = infos["agent_0"].get(f"reward_{theirs}", 0.0)
                assert engine.channels[name][world] == pytest.approx(expected, abs=1e-9)
        ended += engine.terminated.sum()
    assert 0 < ended < STATES or scenario == "HalfCheetah"


@pytest.mark.parametrize("scenario", ROBOTS)
def test_whole_episodes_are_those_of_the_peer_to_the_last_bit(scenario: str) -> None:
    """The warm start of the solver is carried, so that chaos has nothing to work on."""
    partition = next(iter(ROBOTS[scenario].partitions))
    env, engine = peer(scenario, partition, agent_obsk=1), make(2, scenario, partition)
    base = env.unwrapped.single_agent_env.unwrapped
    rng, played = np.random.default_rng(0), 0
    for seed in range(20):
        env.reset(seed=seed)
        engine.reset([0, 1], seeded(seed, seed), None)
        done = False
        while not done and played < 400:
            actions = rng.uniform(-1, 1, (2, *engine.obs.shape[1:2], 3))[:, :, : env.action_space("agent_0").shape[0]]
            actions = np.repeat(actions[:1], 2, axis=0)
            if actions.shape[2] < engine.layout(engine.obs.shape[1], scenario, partition).action_dim:
                actions = np.concatenate([actions, actions[:, :, :1]], axis=2)
            _, _, terminations, *_ = env.step(joint_action(env, actions[0]))
            engine.step(actions)
            for world in (0, 1):
                assert np.array_equal(engine.snapshot(world)["qpos"], base.data.qpos)
                assert np.array_equal(engine.snapshot(world)["qvel"], base.data.qvel)
            played += 1
            done = terminations["agent_0"]
    assert played >= 300


@pytest.mark.parametrize(("scenario", "partition"), [("HalfCheetah", "6x1"), ("Ant", "2x4d"), ("Hopper", "3x1")])
def test_both_engines_are_one_world(scenario: str, partition: str) -> None:
    n = agents_of(scenario, partition)
    batched = Worlds(spec_of("mamujoco:MamujocoEngine", scenario, partition, n), 3)
    wrapped = Worlds(spec_of("mamujoco_robotics:RoboticsEngine", scenario, partition, n), 3)
    assert batched.layout.obs_dim == wrapped.layout.obs_dim
    assert batched.layout.actuators == wrapped.layout.actuators
    rng = np.random.default_rng(0)
    for worlds in (batched, wrapped):
        worlds.reset(seeds=range(3))
    for _ in range(30):
        assert np.array_equal(batched.engine.obs, wrapped.engine.obs)
        assert np.array_equal(batched.engine.state, wrapped.engine.state)
        actions = rng.uniform(-1, 1, batched.layout.action_shape(3))
        for worlds in (batched, wrapped):
            worlds.step(actions)
        assert batched.engine.reward == pytest.approx(wrapped.engine.reward, abs=1e-9)
        assert np.array_equal(batched.engine.terminated, wrapped.engine.terminated)
        for worlds in (batched, wrapped):
            worlds.reset(np.flatnonzero(worlds.done))


@pytest.mark.parametrize(
    ("scenario", "partition", "n_agents"),
    [("Swimmer", "2x1", 2), ("Humanoid", "9|8", 2), ("Pusher", "3p", 3), ("ManySegmentSwimmer", "3x2", 3)],
)
def test_every_other_scenario_is_wrapped(scenario: str, partition: str, n_agents: int) -> None:
    check_env(spec_of("mamujoco_robotics:RoboticsEngine", scenario, partition, n_agents, horizon=12))


def test_actions_are_stretched_to_the_range_of_actuators() -> None:
    engine = RoboticsEngine(1, 2, scenario="Humanoid", partition="9|8")
    engine.reset([0], seeded(0), None)
    engine.step(np.full((1, 2, 9), 0.5))
    assert engine._envs[0].unwrapped.single_agent_env.unwrapped.data.ctrl == pytest.approx(np.full(17, 0.2))


# --- layouts and rewards by hand ---


def test_the_papers_half_cheetah() -> None:
    variant = mir2bench.spec("MAMujoco-HalfCheetah2x3-adv1-v0")
    assert variant.observation_fields == (
        *("own_0_angle", "own_0_velocity", "own_1_angle", "own_1_velocity", "own_2_angle", "own_2_velocity"),
        *("near_0_angle", "id_0", "id_1"),
    )
    engine = make(1, "HalfCheetah", "2x3", torso=False)
    qpos, qvel = np.arange(9) / 10, np.arange(9) / 100  # x, z, pitch, bthigh, bshin, bfoot, fthigh, fshin, ffoot
    engine.reset([0], seeded(0), {"qpos": qpos, "qvel": qvel})
    back = [0.5, 0.05, 0.4, 0.04, 0.3, 0.03, 0.6, 1, 0]  # foot, shin, thigh, and the front thigh
    front = [0.8, 0.08, 0.7, 0.07, 0.6, 0.06, 0.3, 0, 1]
    assert engine.obs[0] == pytest.approx(np.array([back, front]))
    assert engine.state[0] == pytest.approx([*qpos[1:], *qvel])
    assert variant.layout.actuators == (("bthigh", "bshin", "bfoot"), ("fthigh", "fshin", "ffoot"))
    engine.step(np.array([[[1.0, 0.5, -0.5], [0.1, 0.2, 0.3]]]))
    assert engine._physics.ctrl[0].tolist() == [1.0, 0.5, -0.5, 0.1, 0.2, 0.3]
    forward = (engine.snapshot(0)["qpos"][0] - 0.0) / 0.05
    assert engine.reward[0] == pytest.approx(forward - 0.1 * (1 + 0.25 + 0.25 + 0.01 + 0.04 + 0.09))
    assert engine.channels["forward"][0] == pytest.approx(forward)


def test_agents_with_fewer_joints_than_others_are_padded() -> None:
    layout = MamujocoEngine.layout(6, "HalfCheetah", "6x1", 1, False)
    assert layout.observation_fields[:4] == ("own_0_angle", "own_0_velocity", "near_0_angle", "near_1_angle")
    engine = make(1, "HalfCheetah", "6x1", torso=False)
    qpos = np.arange(9) / 10
    engine.reset([0], seeded(0), {"qpos": qpos, "qvel": np.zeros(9)})
    assert engine.obs[0, 2, :4] == pytest.approx([0.5, 0.0, 0.4, 0.0])  # the back foot is next to its shin alone
    assert engine.obs[0, 0, :4] == pytest.approx([0.3, 0.0, 0.4, 0.6])  # the back thigh to its shin and the front thigh


@pytest.mark.parametrize(
    ("scenario", "partition", "obs", "state", "actions"),
    [
        ("HalfCheetah", "2x3", 14, 17, 3),
        ("HalfCheetah", "6x1", 15, 17, 1),
        ("Ant", "2x4", 65, 105, 4),
        ("Ant", "4x2", 46, 105, 2),
        ("Hopper", "3x1", 12, 11, 1),
        ("Walker2d", "2x3", 14, 17, 3),
    ],
)
def test_sizes(scenario: str, partition: str, obs: int, state: int, actions: int) -> None:
    layout = MamujocoEngine.layout(agents_of(scenario, partition), scenario, partition)
    assert (layout.obs_dim, layout.state_dim, layout.action_dim) == (obs, state, actions)


def test_sizes_in_the_documentation() -> None:
    text = (Path(__file__).parents[1] / "docs" / "mamujoco.md").read_text()
    for variant in map(mir2bench.spec, mir2bench.list_variants(family="MAMujoco")):
        if variant.n_adversaries:
            continue
        world, layout = variant.id.removeprefix("mir2bench/").removesuffix("-adv0-v0"), variant.layout
        sizes = f"{layout.obs_dim - layout.n_agents} + {layout.n_agents}, {layout.state_dim}"
        (row,) = re.findall(rf"^\| `{world}` .*$", text, re.MULTILINE)
        assert f"| {layout.n_agents} " in row
        assert f", {layout.action_dim} torque" in row
        assert f"| {sizes} |" in row
        assert f"| {variant.floor.score:,.0f} to {variant.ceiling.score:,.0f} |" in row


# --- scripted policies and pictures ---


def play(variant: str, team: str, adversary: str = "", phi: tuple[int, ...] = (), episodes: int = 4) -> float:
    spec = mir2bench.spec(variant)
    against = make_attacker(adversary, spec).attack(spec, None, Partition(phi), seed=0, budget=1) if adversary else None
    return rollout(
        spec, make_scripted(spec, team), Partition(phi or (0,) * spec.n_agents), against, range(episodes)
    ).returns.mean()


def test_the_gallop_runs_and_the_traitors_stop_it() -> None:
    id = "MAMujoco-HalfCheetah2x3-adv1-v0"
    clean = play(id, "gallop")
    assert clean > 2000
    for phi in ((1, 0), (0, 1)):
        for traitor in ("backward", "freeze", "oscillate"):
            assert play(id, "gallop", traitor, phi) < clean / 2, (traitor, phi)


@pytest.mark.parametrize("id", [i for i in mir2bench.list_variants(family="MAMujoco") if "-adv1" in i])
def test_every_robot_has_all_scripted_policies(id: str) -> None:
    spec = mir2bench.spec(id)
    for kind in ("scripted_teams", "scripted_traitors"):
        for name, target in getattr(spec.engine_class, kind).items():
            policy = build_scripted(target, spec)
            obs = np.zeros((2, spec.n_agents, spec.layout.obs_dim), np.float32)
            obs[:, :, -spec.n_agents :] = np.eye(spec.n_agents)
            actions, _ = policy.act(obs, policy.initial_carry(2), rng=np.random.default_rng(0))
            assert actions.shape == spec.layout.action_shape(2), name


def test_adversaries_are_red() -> None:
    env = gymnasium.make("mir2bench/MAMujoco-HalfCheetah2x3-adv1-v0", render_mode="rgb_array")

    def reds(phi: tuple[int, ...]) -> np.ndarray:
        env.reset(seed=0, options={"phi": phi})
        frame: Any = env.render()
        assert (frame.shape, frame.dtype) == ((320, 480, 3), np.uint8)
        return np.argwhere((frame[..., 0] > 80) & (frame[..., 0] > 2.0 * frame[..., 1:].max(axis=-1)))

    try:
        back, front = reds((1, 0)), reds((0, 1))
    except MissingDependencyError as error:
        pytest.skip(str(error))
    assert len(back) > 100
    assert len(front) > 100
    assert back[:, 1].mean() < front[:, 1].mean() - 50  # it looks to the right


def test_a_machine_that_cannot_draw_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mamujoco_drawing, "find_library", lambda name: None)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(MissingDependencyError, match="needs OSMesa or EGL.*apt install libosmesa6"):
        mamujoco_drawing._context.__wrapped__()


# --- batches, starts, and what goes wrong ---


def test_results_do_not_depend_on_batch_or_threads() -> None:
    for scenario, partition in (("HalfCheetah", "2x3"), ("Ant", "4x2")):
        engines = [make(batch, scenario, partition, threads=threads) for batch, threads in ((5, 1), (5, 3))]
        single = [make(1, scenario, partition) for _ in range(5)]
        rng = np.random.default_rng(0)
        for engine in engines:
            engine.reset(range(5), seeded(*range(5)), None)
        for seed, engine in enumerate(single):
            engine.reset([0], seeded(seed), None)
        for step in range(20):
            actions = rng.uniform(-1, 1, (5, *engines[0].obs.shape[1:2], 3 if scenario == "HalfCheetah" else 2))
            if step == 10:  # one world of the batch starts anew
                for engine in (*engines, single[3]):
                    engine.reset([3] if len(engine.obs) == 5 else [0], seeded(9), None)
            for engine in engines:
                engine.step(actions)
            for world, engine in enumerate(single):
                engine.step(actions[world : world + 1])
                for other in engines:
                    assert np.array_equal(other.obs[world], engine.obs[0])
                    assert np.array_equal(other.state[world], engine.state[0])
                    assert other.reward[world] == engine.reward[0]


@pytest.mark.parametrize("id", ["MAMujoco-HalfCheetah2x3-adv1-v0", "MAMujoco-Ant4x2-adv1-v0"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copied_environment_goes_on_like_the_first(id: str, copied: Any) -> None:
    env = GymEnv(id)
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(5):
        env.step(env.action_space.sample())
    other = copied(env)
    for _ in range(5):
        action = env.action_space.sample()
        assert equal(env.step(action), other.step(action))


def test_a_seed_starts_where_gymnasium_starts() -> None:
    for scenario, partition in CASES:
        env = gymnasium.make(f"{scenario}-v5").unwrapped
        expected, _ = env.reset(seed=7)
        engine = make(1, scenario, partition)
        engine.reset([0], seeded(7), None)
        assert np.array_equal(engine.state[0], expected.astype(np.float32))


def test_actions_out_of_range_or_not_finite() -> None:
    worlds = Worlds(mir2bench.spec("MAMujoco-HalfCheetah2x3-adv0-v0"), 1)
    worlds.reset(seeds=[0])
    for bad in (1.5, np.nan):
        with pytest.raises(ActionError, match="must be finite and in \\[-1, 1\\], but world 0, agent 0, component 0"):
            worlds.step(np.full((1, 2, 3), bad))


def test_a_residual_policy_keeps_its_scripts_clock() -> None:
    spec = mir2bench.spec("MAMujoco-HalfCheetah2x3-adv1-v0")
    script, actor = BackwardTraitor(spec.layout), Actor(ActorShape(9, 3, False, 8, False))
    for parameter in actor.head.parameters():
        torch.nn.init.zeros_(parameter)
    residual = NetworkPolicy(actor, 1, script=("backward", script))
    team, phi = make_scripted(spec, "gallop"), Partition((1, 0))
    assert np.array_equal(
        rollout(spec, team, phi, residual, range(2)).returns, rollout(spec, team, phi, script, range(2)).returns
    )
