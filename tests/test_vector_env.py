"""The vectorised view: the same numbers as single environments, and every autoreset mode."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from mir2bench.errors import (
    ActionError,
    ConfigError,
    PartitionError,
    UnknownNameError,
)
from mir2bench.testing.environments import equal
from mir2bench.views.gym_env import GymEnv
from mir2bench.views.vector_env import VectorEnv

ID = "mir2bench/Rendezvous5-adv1-v0"
GATHERED = {"poses": [[100 + 0.1 * i, 100, 0] for i in range(5)]}


def zeros(*batch: int) -> np.ndarray:
    """Return an idle joint action of five robots."""
    return np.zeros((*batch, 5, 2), dtype=np.float32)


def compare_with_sync(id: str, batch: int, mode: str, steps: int) -> int:
    """Play the native batch beside Gymnasium's own of single environments; return how many episodes ended."""
    native = gymnasium.make_vec(id, num_envs=batch, autoreset_mode=mode)
    sync = SyncVectorEnv([lambda: gymnasium.make(id)] * batch, autoreset_mode=mode)
    assert isinstance(native, VectorEnv)
    assert native.metadata["autoreset_mode"] is AutoresetMode(mode)
    assert native.single_observation_space == sync.single_observation_space
    assert native.observation_space == sync.observation_space
    assert native.action_space == sync.action_space
    assert equal(native.reset(seed=7), sync.reset(seed=7))
    assert native.np_random_seed == sync.np_random_seed == tuple(range(7, 7 + batch))
    sync.action_space.seed(0)
    ended = 0
    for _ in range(steps):
        actions = sync.action_space.sample()
        given, expected = native.step(actions), sync.step(actions)
        for one, other in zip(given, expected, strict=True):
            assert equal(one, other)
        ended += int((given[2] | given[3]).sum())
    assert equal(native.reset(), sync.reset())
    states = [[g.bit_generator.state for g in env.np_random] for env in (native, sync)]
    assert states[0] == states[1]
    return ended


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize("batch", [1, 3, 32])
def test_native_batch_equals_single_environments(batch: int, mode: str) -> None:
    # 200 steps and the reset's own one in the first mode: 410 steps hold two ends of every world in both.
    assert compare_with_sync(ID, batch, mode, steps=410) == 2 * batch


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize("batch", [1, 3, 32])
def test_native_batch_of_a_noisy_discrete_world(toy: list[str], batch: int, mode: str) -> None:
    # Worlds end one by one, draw noise in every step and mask actions; none may be stepped after its end.
    assert compare_with_sync(toy[1], batch, mode, steps=100) > 2 * batch


def test_seeds_of_a_batch_and_of_its_worlds() -> None:
    native = gymnasium.make_vec(ID, num_envs=3)
    whole = native.reset(seed=[11, 5, 12])[0]
    assert equal(whole[1], gymnasium.make(ID).reset(seed=5)[0])
    first, second = native.reset(seed=[11, None, 12])[0], GymEnv(ID)
    second.reset(seed=5)
    assert equal(first[1], second.reset()[0])  # world 1 went on with its generator
    assert equal(first[0], whole[0])
    assert native.np_random_seed == (11, 5, 12)
    assert gymnasium.make_vec(ID, num_envs=2).np_random == (None, None)


# --- autoreset ---


def test_next_step_autoreset_by_hand() -> None:
    env = gymnasium.make_vec(ID, num_envs=2)
    env.reset(seed=0)
    env.reset(options={"reset_mask": np.array([True, False]), "initial_state": GATHERED})
    obs, rewards, terminated, truncated, infos = env.step(zeros(2))
    assert terminated.tolist() == [True, False]
    assert rewards[0] == pytest.approx(-0.2 / 282)  # the mean distance of five points 0.1 cm apart in a row is 0.2 cm
    assert set(infos) == {"phi", "_phi", "state", "_state"}
    other = obs[1]
    bad = zeros(2)
    bad[0] = np.nan  # the action of a world that starts anew is ignored
    obs, rewards, terminated, truncated, infos = env.step(bad)
    assert rewards[0] == 0.0
    assert not terminated.any()
    assert not truncated.any()
    assert equal(obs[1], other)  # idle: it stayed where it was
    assert obs[0, 0, 0] != pytest.approx(0.1 / 282, abs=1e-6)
    assert infos["_phi"].tolist() == [True, True]
    assert env.unwrapped.worlds.elapsed.tolist() == [0, 2]  # type: ignore[attr-defined]


def test_a_refused_action_does_not_cost_the_restart() -> None:
    env, twin = (gymnasium.make_vec(ID, num_envs=2) for _ in range(2))
    for each in (env, twin):
        each.reset(seed=0)
        each.reset(options={"reset_mask": np.array([True, False]), "initial_state": GATHERED})
        each.step(zeros(2))
    with pytest.raises(ActionError, match="world 1, agent 0, component 0: 2.0"):
        env.step(2 * np.ones((2, 5, 2)))
    with pytest.raises(ActionError, match=r"shape \(3, 5, 2\)"):
        env.step(zeros(3))
    assert equal(env.step(zeros(2)), twin.step(zeros(2)))
    assert equal(env.reset(), twin.reset())


def test_same_step_autoreset_by_hand() -> None:
    env = gymnasium.make_vec(ID, num_envs=2, autoreset_mode=AutoresetMode.SAME_STEP)
    env.reset(seed=0)
    env.reset(options={"reset_mask": np.array([False, True]), "initial_state": GATHERED})
    obs, rewards, terminated, _, infos = env.step(zeros(2))
    assert terminated.tolist() == [False, True]
    assert infos["_final_obs"].tolist() == infos["_final_info"].tolist() == [False, True]
    assert infos["final_obs"][0] is None
    assert infos["final_obs"][1][0, 0] == pytest.approx(0.1 / 282)
    assert infos["final_info"]["state"][1, 0] == pytest.approx(0.1 / 282)
    assert obs[1, 0, 0] != pytest.approx(0.1 / 282, abs=1e-6)
    assert rewards[1] == pytest.approx(-0.2 / 282)


def test_disabled_autoreset_asks_for_the_reset() -> None:
    env = gymnasium.make_vec(ID, num_envs=2, autoreset_mode="Disabled")
    env.reset(seed=0)
    env.reset(options={"reset_mask": np.array([False, True]), "initial_state": GATHERED})
    _, _, terminated, truncated, _ = env.step(zeros(2))
    with pytest.raises(ResetNeeded, match=r"worlds \[1\] have ended and autoreset is disabled"):
        env.step(zeros(2))
    obs, infos = env.reset(options={"reset_mask": terminated | truncated})
    assert infos["_phi"].tolist() == [False, True]
    assert infos["phi"].sum(axis=1).tolist() == [0, 1]
    assert env.step(zeros(2))[0].shape == obs.shape


def test_phi_of_a_batch() -> None:
    env = gymnasium.make_vec(ID, num_envs=2)
    assert env.reset(options={"phi": [0, 0, 1, 0, 0]})[1]["phi"].tolist() == [[0, 0, 1, 0, 0]] * 2
    rows = np.array([[0, 0, 0, 0, 1], [0, 0, 0, 0, 0]])
    assert env.reset(options={"phi": rows})[1]["phi"].tolist() == rows.tolist()
    infos = env.reset(options={"phi": rows[::-1], "reset_mask": np.array([False, True])})[1]
    assert infos["phi"].tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    with pytest.raises(PartitionError, match="phi has 3 rows, but there are 2 worlds"):
        env.reset(options={"phi": np.eye(5)[:3]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"options": {"reset_mask": [True, False]}}, r"reset_mask must be a boolean array of shape \(2,\)"),
        ({"options": {"reset_mask": np.array([1, 0])}}, "reset_mask must be a boolean array"),
        ({"options": {"reset_mask": np.array([False, False])}}, "at least one True"),
        ({"options": {"reset_mask": np.array([True])}}, "reset_mask must be"),
        ({"seed": [1, 2, 3]}, "3 seeds were given for 2 worlds"),
        ({"options": {"reset_mas": 1}}, "No reset option `reset_mas`. Did you mean `reset_mask`"),
    ],
)
def test_bad_batch_resets(arguments: dict[str, Any], message: str) -> None:
    env = gymnasium.make_vec(ID, num_envs=2)
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        env.reset(**arguments)


def test_bad_batch_arguments() -> None:
    with pytest.raises(ConfigError, match="autoreset_mode 'Never' does not exist. Give one of: 'NextStep', 'SameStep'"):
        gymnasium.make_vec(ID, num_envs=2, autoreset_mode="Never")
    with pytest.raises(ValueError, match="batch must be 1 or more"):
        gymnasium.make_vec(ID, num_envs=0)
    with pytest.raises(ResetNeeded, match="Call reset"):
        gymnasium.make_vec(ID, num_envs=2).step(zeros(2))
