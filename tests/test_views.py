"""The views: the same numbers in all of them, and clear errors for bad input."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import supersuit
from gymnasium.error import ResetNeeded

import mir2bench
from mir2bench.errors import (
    ActionError,
    ConfigError,
    PartitionError,
    StateError,
    UnknownNameError,
)
from mir2bench.policies import IdlePolicy
from mir2bench.registration import VariantSpec
from mir2bench.testing.environments import equal
from mir2bench.views.gym_env import GymEnv
from mir2bench.views.vector_env import VectorEnv

ID = "mir2bench/Rendezvous5-adv1-v0"
GATHERED = {"poses": [[100 + 0.1 * i, 100, 0] for i in range(5)]}


def zeros(*batch: int) -> np.ndarray:
    """Return an idle joint action of five robots."""
    return np.zeros((*batch, 5, 2), dtype=np.float32)


def endless(id: str) -> VariantSpec:
    """Return the toy variant without its random ends: the time limit of 20 steps alone."""
    return replace(mir2bench.spec(id), engine_args={"ending": 0.0})


# --- the same numbers everywhere ---


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_parallel_and_one_sided_views_equal_the_gymnasium_view(batch: int) -> None:
    layout = mir2bench.spec(ID).layout
    for seed in range(batch):
        rng = np.random.default_rng(seed)
        gym, parallel = gymnasium.make(ID), mir2bench.parallel_env(ID)
        attack, defend = mir2bench.AttackerEnv(ID, IdlePolicy(layout)), mir2bench.DefenderEnv(ID, IdlePolicy(layout))
        for first in (True, False):
            obs, info = gym.reset(seed=seed if first else None)
            par_obs, _ = parallel.reset(seed=seed if first else None)
            traitor = int(info["phi"].argmax())
            steps = 200 if seed == 0 else 5
            assert equal(np.stack(list(par_obs.values())), obs)
            assert equal(attack.reset(seed=seed if first else None)[0], obs[traitor])
            assert equal(defend.reset(seed=seed if first else None)[0], obs)
            for _ in range(steps):
                joint = rng.uniform(-1, 1, (5, 2)).astype(np.float32)
                obs, reward, terminated, truncated, info = gym.step(joint)
                par = parallel.step(dict(zip(parallel.possible_agents, joint, strict=True)))
                assert equal(np.stack(list(par[0].values())), obs)
                assert equal(parallel.state(), info["state"])
                assert [set(part.values()) for part in par[1:4]] == [{reward}, {terminated}, {truncated}]
                assert all(equal(par[4][agent], {"phi": info["phi"]}) for agent in parallel.possible_agents)
            # The same joint action in the one-sided views, whose frozen sides idle. All are at the seed's second start.
            for view in (gym, attack, defend):
                view.reset(seed=seed)
            traitor = int(gym.reset()[1]["phi"].argmax())
            attack.reset()
            defend.reset()
            alone = np.zeros((5, 2), np.float32)
            alone[traitor] = joint[traitor]
            expected = gym.step(alone)
            given = attack.step(joint[traitor])
            assert equal(given[0], expected[0][traitor])
            assert given[1] == -expected[1]
            assert equal(given[4], {**expected[4], "team_reward": expected[1]})
            gym.reset(seed=seed)
            gym.reset()
            others = joint.copy()
            others[traitor] = 0
            expected = gym.step(others)
            given = defend.step(joint)
            assert equal(given[:4], expected[:4])
            assert equal(given[4], {"state": expected[4]["state"]})
            for view in (gym, parallel, attack, defend):
                view.reset(seed=seed)


def test_generator_is_gymnasiums() -> None:
    env = GymEnv(ID)
    env.reset(seed=3)
    assert env.np_random_seed == 3
    assert env.np_random is env.worlds.generators[0]
    obs = env.reset()[0]
    env.np_random = np.random.default_rng(3)
    env.reset()
    assert equal(env.reset()[0], obs)


# --- the Gymnasium view ---


def test_made_environment_is_bare_and_documented() -> None:
    env = gymnasium.make(ID)
    assert env.unwrapped is env  # no wrapper costs time
    assert env.observation_space.shape == (5, 30)
    assert env.action_space == gymnasium.spaces.Box(-1, 1, (5, 2), np.float32)
    space: Any = env.observation_space
    assert space.high[0, 0] == np.float32(np.sqrt(80000) / 282)
    assert (space.low[:, [0, 20, 25]].min(), space.low[:, 1].max()) == (0, -1)


def test_phi_of_an_episode() -> None:
    env = gymnasium.make(ID)
    assert env.reset(options={"phi": [0, 1, 0, 0, 0]})[1]["phi"].tolist() == [0, 1, 0, 0, 0]
    assert env.reset(options={"phi": mir2bench.Partition.of(5)})[1]["phi"].sum() == 0
    drawn = {int(env.reset(seed=seed)[1]["phi"].argmax()) for seed in range(40)}
    assert drawn == {0, 1, 2, 3, 4}
    assert gymnasium.make("mir2bench/Rendezvous5-adv0-v0").reset()[1]["phi"].sum() == 0
    assert gymnasium.make("mir2bench/Rendezvous5-adv2-v0").reset()[1]["phi"].sum() == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"phy": 1}, UnknownNameError, "No reset option `phy`. Did you mean `phi`"),
        ({"seed": 1}, UnknownNameError, "There are: initial_state, phi"),
        ({"phi": [1, 0]}, PartitionError, "phi has 2 entries, but this variant has 5 agents"),
        ({"phi": [1, 1, 0, 0, 0]}, PartitionError, "names 2 adversaries, but this variant allows exactly 1"),
        ({"phi": [2, 0, 0, 0, 0]}, PartitionError, "only 0"),
        ({"phi": [[1, 0, 0, 0, 0]]}, PartitionError, "flat list of 5"),
        ({"initial_state": {"poses": 1}}, StateError, r"poses has shape \(\)"),
    ],
)
def test_bad_reset_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    env = gymnasium.make(ID)
    with pytest.raises(error, match=message):
        env.reset(options=options)
    with pytest.raises(error, match=message):
        mir2bench.parallel_env(ID).reset(options=options)


@pytest.mark.parametrize("seed", [-1, 1.5, "a"])
def test_bad_seeds(seed: Any) -> None:
    with pytest.raises(gymnasium.error.Error, match="Seed must be"):
        gymnasium.make(ID).reset(seed=seed)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros((4, 2)), r"must have shape \(5, 2\), \(agents, components\), but it is array"),
        (0.0, r"must have shape \(5, 2\)"),
        (None, r"must have shape \(5, 2\)"),
        ([[0, 0]] * 4 + [[0]], r"must have shape \(5, 2\)"),
        (np.full((5, 2), np.nan), "must be finite"),
        (np.full((5, 2), 1.01), r"must be finite and in \[-1, 1\], but world 0, agent 0, component 0: 1.01"),
    ],
)
def test_bad_actions_change_nothing(action: Any, message: str) -> None:
    env, twin = GymEnv(ID), GymEnv(ID)
    env.reset(seed=0)
    twin.reset(seed=0)
    with pytest.raises(ActionError, match=message):
        env.step(action)
    assert equal(env.step(zeros()), twin.step(zeros()))


def test_step_needs_a_running_episode() -> None:
    env = gymnasium.make(ID)
    with pytest.raises(ResetNeeded, match="no episode is running. Call reset"):
        env.step(zeros())
    env.reset(options={"initial_state": GATHERED})
    assert env.step(zeros())[2]
    with pytest.raises(ResetNeeded, match="no episode is running"):
        env.step(zeros())


def test_bad_construction() -> None:
    with pytest.raises(ConfigError, match="render_mode 'ansi' does not exist. Give one of: None, 'rgb_array'"):
        GymEnv(ID, render_mode="ansi")
    with pytest.raises(UnknownNameError, match="Did you mean"):
        GymEnv("Rendezvous5-adv9-v0")
    with pytest.raises(TypeError, match="unexpected keyword argument 'strickt'"):
        gymnasium.make(ID, strickt=True)


def test_returned_arrays_are_the_callers() -> None:
    env = GymEnv(ID)
    obs, info = env.reset(seed=0)
    for array in (obs, info["state"], info["phi"]):
        array[:] = 0
    again, after = env.step(zeros())[::4]
    assert again.any()
    assert after["state"].any()
    assert after["phi"].sum() == 1
    vector = VectorEnv(2, ID)
    obs, infos = vector.reset(seed=0)
    for array in (obs, infos["state"], infos["phi"]):
        array[:] = 0
    assert vector.step(zeros(2))[4]["phi"].sum() == 2
    for view, action in ((env, zeros()), (vector, zeros(2))):
        kept = view.step(action)
        before = copy.deepcopy(kept)
        view.step(action + 1)
        assert equal(kept, before)


def test_a_copied_environment_goes_on_by_itself() -> None:
    env = GymEnv(ID)
    env.reset(seed=0)
    twin = copy.deepcopy(env)
    assert equal(env.step(zeros()), twin.step(zeros()))
    assert equal(env.reset(), twin.reset())


# --- discrete worlds ---


def test_masked_actions_are_replaced_and_counted_or_refused(toy: list[str]) -> None:
    start = {"initial_state": {"values": [0.2, 0.9, 0.9]}}
    env, strict = GymEnv(endless(toy[1])), GymEnv(endless(toy[1]), strict=True)
    assert env.action_space == gymnasium.spaces.MultiDiscrete([3, 3, 3])
    _, info = env.reset(seed=0, options=start)
    assert info["action_mask"].tolist() == [[1, 1, 1], [1, 1, 0], [1, 1, 0]]
    assert info["illegal_actions"] == 0
    obs, _, _, _, info = env.step(np.array([2, 2, 1]))
    assert info["illegal_actions"] == 1
    assert obs[:, 0] == pytest.approx([0.3, 0.8, 0.9], abs=0.05)  # agent 1 did its first legal action: lower
    assert env.step(np.array([2, 1, 2]))[4]["illegal_actions"] == 2
    strict.reset(seed=0, options=start)
    with pytest.raises(
        ActionError, match=r"agent 1 of world 0 chose action 2, which is not legal now: its mask is \[1, 1, 0\]"
    ):
        strict.step(np.array([2, 2, 1]))
    assert strict.step(np.array([2, 1, 1]))[4]["illegal_actions"] == 0
    with pytest.raises(ActionError, match="chose action 3, but actions of .* run from 0 to 2"):
        env.step(np.array([3, 0, 0]))
    with pytest.raises(ActionError, match="discrete actions must be integers, but their dtype is float64"):
        env.step(np.zeros(3))
    with pytest.raises(ActionError, match=r"must have shape \(3,\), one integer per agent"):
        env.step(np.zeros((3, 1), np.int64))


def test_parallel_view_of_a_discrete_world(toy: list[str]) -> None:
    env = mir2bench.parallel_env(toy[1])
    _, infos = env.reset(seed=0, options={"initial_state": {"values": [0.2, 0.9, 0.9]}})
    assert env.action_space("agent_1") == gymnasium.spaces.Discrete(3)
    assert infos["agent_1"]["action_mask"].tolist() == [1, 1, 0]
    infos = env.step({"agent_0": 0, "agent_1": 2, "agent_2": 1})[4]
    assert infos["agent_2"]["illegal_actions"] == 1


# --- PettingZoo ---


def test_parallel_view_needs_every_agents_action() -> None:
    env = mir2bench.parallel_env(ID)
    with pytest.raises(ResetNeeded):
        env.step({})
    env.reset(seed=0)
    actions = {agent: np.zeros(2) for agent in env.agents}
    with pytest.raises(ActionError, match=r"missing: \['agent_4'\], unknown: \['robot'\]"):
        env.step({**{a: v for a, v in actions.items() if a != "agent_4"}, "robot": np.zeros(2)})
    with pytest.raises(ActionError, match="must have shape"):
        env.step({**actions, "agent_1": np.zeros(3)})
    env.reset(options={"initial_state": GATHERED})
    assert set(env.step(actions)[2].values()) == {True}
    assert env.agents == []
    with pytest.raises(ResetNeeded):
        env.step(actions)


def test_supersuit_batches_the_parallel_view() -> None:
    parallel = mir2bench.parallel_env(ID)
    env = supersuit.concat_vec_envs_v1(supersuit.pettingzoo_env_to_vec_env_v1(parallel), 2, num_cpus=0)
    obs, _ = env.reset(seed=3)
    expected = np.concatenate([gymnasium.make(ID).reset(seed=seed)[0] for seed in (3, 4)])
    assert equal(obs, expected)
    for step in range(1, 202):
        obs, rewards, _, truncated, infos = env.step(np.zeros((10, 2), np.float32))
        assert truncated.astype(bool).tolist() == [step == 200] * 10
        if step == 200:
            assert equal(np.stack([info["terminal_observation"] for info in infos]), expected)
    assert rewards.shape == (10,)
    assert not np.array_equal(obs, expected)


# --- drawing ---


def test_drawing_gets_the_episodes_history(toy: list[str]) -> None:
    env = GymEnv(endless(toy[1]), render_mode="rgb_array")
    for _ in range(2):
        env.reset(seed=0)
        shapes = [env.render().shape]
        env.step(np.ones(3, np.int64))
        shapes.append(env.render().shape)
        assert shapes == [(3, 1, 3), (3, 2, 3)]  # the toy draws one column per moment
    for mode in ("SameStep", "NextStep"):
        vector = VectorEnv(2, endless(toy[1]), render_mode="rgb_array", autoreset_mode=mode)
        vector.reset(seed=0)
        vector.step(np.ones((2, 3), np.int64))
        vector.reset(options={"reset_mask": np.array([True, False])})
        widths = []
        for _ in range(20):
            vector.step(np.ones((2, 3), np.int64))
            widths.append([frame.shape[1] for frame in vector.render()])
        # World 1 is a step ahead and ends at its 20th; the frame of its end is gone in the first mode.
        assert widths[:18] == [[2 + i, 3 + i] for i in range(18)]
        assert widths[18:] == ([[20, 1], [1, 2]] if mode == "SameStep" else [[20, 21], [21, 1]])


def test_drawing_errors() -> None:
    env = GymEnv(ID, render_mode="rgb_array")
    with pytest.raises(ResetNeeded, match="nothing to draw yet"):
        env.render()
    with pytest.raises(ConfigError, match="make mir2bench/Rendezvous5-adv1-v0 with render_mode='rgb_array'"):
        GymEnv(ID).render()
    with pytest.raises(ConfigError, match="render_mode='rgb_array'"):
        VectorEnv(2, ID).render()
    with pytest.raises(ResetNeeded, match="nothing to draw yet"):
        VectorEnv(2, ID, render_mode="rgb_array").render()


@pytest.mark.filterwarnings("error")
def test_videos_can_be_recorded(tmp_path: Path) -> None:
    env = gymnasium.make(ID, render_mode="rgb_array")
    env = gymnasium.wrappers.RecordVideo(env, str(tmp_path / "videos"), disable_logger=True)
    env.reset(seed=0, options={"initial_state": GATHERED})
    assert env.step(zeros())[2]
    env.close()
    assert [path.stat().st_size > 500 for path in tmp_path.glob("videos/*.mp4")] == [True]
    listed = gymnasium.make(ID, render_mode="rgb_array_list")
    listed.reset(seed=0)
    listed.step(zeros())
    assert len(listed.render()) == 2  # type: ignore[arg-type]


def test_every_view_draws() -> None:
    idle = IdlePolicy(mir2bench.spec(ID).layout)
    frames = []
    for env in (
        gymnasium.make(ID, render_mode="rgb_array"),
        mir2bench.parallel_env(ID, render_mode="rgb_array"),
        mir2bench.AttackerEnv(ID, idle, render_mode="rgb_array"),
        mir2bench.DefenderEnv(gymnasium.make(ID, render_mode="rgb_array"), idle),
    ):
        assert env.render_mode == "rgb_array"
        env.reset(seed=0)
        frames.append(env.render())
    vector = gymnasium.make_vec(ID, num_envs=1, render_mode="rgb_array")
    vector.reset(seed=0)
    frames.append(vector.render()[0])  # type: ignore[index]
    assert all(equal(np.asarray(frame), np.asarray(frames[0])) for frame in frames)
    assert len(np.unique(np.asarray(frames[0]))) > 2
