"""Every registered variant through every checker there is, with warnings as errors, and against its record."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import golden_trajectories
import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_gymnasium
from pettingzoo.test import parallel_api_test
from stable_baselines3.common.env_checker import check_env as check_stable_baselines
from stable_baselines3.common.vec_env import DummyVecEnv

import mir2bench
from mir2bench.engines.base import ready_variants
from mir2bench.errors import ConfigError, ConformanceError
from mir2bench.policies import IdlePolicy, RandomPolicy
from mir2bench.testing import check_env
from mir2bench.testing.environments import equal, play
from mir2bench.views.gym_env import GymEnv

IDS = ready_variants()
ATTACKED = [id for id in IDS if mir2bench.spec(id).n_adversaries]
pytestmark = pytest.mark.filterwarnings("error")


# --- what others check ---


@pytest.mark.parametrize("id", IDS)
def test_gymnasium_check(id: str) -> None:
    check_gymnasium(gymnasium.make(id).unwrapped)


@pytest.mark.parametrize("id", ATTACKED)
def test_attacker_env_checks(id: str) -> None:
    env = mir2bench.AttackerEnv(id, RandomPolicy(mir2bench.spec(id).layout))
    # Only registered environments can be made anew for the checker's rendering; test_views.py draws this one.
    check_gymnasium(env, skip_render_check=True)
    check_stable_baselines(env)


@pytest.mark.parametrize("id", IDS)
def test_defender_env_check(id: str) -> None:
    check_gymnasium(mir2bench.DefenderEnv(id, RandomPolicy(mir2bench.spec(id).layout)), skip_render_check=True)


@pytest.mark.parametrize("id", IDS)
def test_pettingzoo_check(id: str) -> None:
    parallel_api_test(mir2bench.parallel_env(id), num_cycles=mir2bench.spec(id).horizon + 1)


def test_discrete_worlds_pass_the_checks_of_others(toy: list[str]) -> None:
    for id in toy:
        check_gymnasium(gymnasium.make(id).unwrapped)
        parallel_api_test(mir2bench.parallel_env(id))
    for id in toy[1:]:
        env = mir2bench.AttackerEnv(id, RandomPolicy(mir2bench.spec(id).layout))
        check_gymnasium(env, skip_render_check=True)
        check_stable_baselines(env)


def test_stable_baselines_can_batch_the_attacker() -> None:
    variant = mir2bench.spec("Rendezvous5-adv1-v0")
    env = DummyVecEnv([lambda: mir2bench.AttackerEnv(variant, IdlePolicy(variant.layout))] * 2)
    env.seed(3)
    obs: Any = env.reset()
    assert obs.shape == (2, 30)
    assert not np.array_equal(obs[0], obs[1])
    for _ in range(200):
        obs, rewards, dones, infos = env.step(np.zeros((2, 2), np.float32))
    assert dones.all()
    assert all(info["TimeLimit.truncated"] for info in infos)
    assert (rewards > 0).all()  # the adversary earns what the team pays


# --- what we check ---


@pytest.mark.parametrize("id", IDS)
def test_own_check(id: str) -> None:
    check_env(id)


def test_own_check_takes_ids_specs_and_made_environments(toy: list[str]) -> None:
    check_env("Rendezvous5-adv1-v0")
    check_env(gymnasium.make(toy[2]))
    check_env(mir2bench.spec(toy[1]))
    with pytest.raises(ConfigError, match="check_env needs an id, a spec or an environment of mir2bench, but it got <"):
        check_env(gymnasium.make("CartPole-v1"))


@pytest.mark.parametrize(
    ("breach", "message"),
    [
        ("ids", "the last N numbers of each observation must be the one-hot agent id"),
        ("dtype", r"observations must be \(3, 4\) float32, but one is \(3, 4\) float64"),
        ("bounds", "an observation lies outside the observation space"),
        ("number of bounds", "obs_low and obs_high must both be empty or hold 4 bounds"),
        ("names", "state_fields holds a name twice"),
        ("action names", "action_fields has 2 names for 3 actions"),
        ("no channel", r"the engine reports no reward channel 'signed', only \['team'\]"),
        ("team channel", "the channel 'team' differs from the reward"),
        ("reward", "a reward must be a finite float, but one is nan"),
        ("unseeded", "one seed and the same actions gave another trajectory in the same environment, from record 0 on"),
        ("ignores its generators", "seeds 3 to 7 give one and the same episode"),
        ("global", "numpy's global random state was changed"),
        ("no mask", "a discrete world must declare a mask; all ones if nothing is ever forbidden"),
        ("mask", "at least one 1 for each agent"),
        ("ignores the start", "set as `initial_state` gives another observation"),
        ("snapshot", "`snapshot` must return copies"),
        ("batch", "a batch plays otherwise than single environments"),
        ("drawing", r"`drawing` must return \(H, W, 3\) uint8"),
    ],
)
def test_own_check_finds_every_breach(toy: list[str], breach: str, message: str) -> None:
    variant = replace(
        mir2bench.spec(toy[1]), engine="toy_broken:BrokenEngine", engine_args={"breach": breach}, id="toy/T-adv1-v0"
    )
    state = np.random.get_state()
    try:
        with pytest.raises(ConformanceError, match=message) as caught:
            check_env(variant)
    finally:
        np.random.set_state(state)
    assert "toy/T-adv1-v0 breaks its contract" in str(caught.value)


def test_a_sound_engine_of_the_same_kind_passes(toy: list[str]) -> None:
    check_env(replace(mir2bench.spec(toy[1]), engine="toy_broken:BrokenEngine", id="toy/T-adv1-v0"))


@pytest.mark.parametrize("id", IDS)
def test_seeds_rule_whole_episodes_of_the_parallel_view(id: str) -> None:
    layout, horizon = mir2bench.spec(id).layout, mir2bench.spec(id).horizon

    def episodes(seed: int) -> list[list[Any]]:
        env, rng = mir2bench.parallel_env(id), np.random.default_rng(0)

        def action() -> Any:
            return (
                rng.integers(layout.action_dim)
                if layout.discrete
                else rng.uniform(-1, 1, layout.action_dim).astype(np.float32)
            )

        played: list[list[Any]] = []
        for episode in range(2):
            played.append([env.reset(seed=seed if episode == 0 else None)])
            while env.agents:
                played[-1].append(env.step({agent: action() for agent in env.agents}))
        return played

    first = episodes(0)
    for episode in first:
        *_, terminated, truncated, _ = episode[-1]
        assert any(truncated.values()) == (len(episode) - 1 == horizon and not any(terminated.values()))
        assert any(truncated.values()) or any(terminated.values())
    assert equal(first, episodes(0))
    assert not equal(first[0][0], episodes(1)[0][0])
    assert not equal(first[0][0], first[1][0])  # the second episode starts elsewhere


def test_equal_tells_apart() -> None:
    record = {"a": [np.zeros(2), (1.0, True)]}
    assert equal(record, {"a": [np.zeros(2), (1.0, True)]})
    for other in ({"a": [np.zeros(2), (1.0, 1)]}, {"a": [np.zeros(2, np.float32), (1.0, True)]}, {"b": []}):
        assert not equal(record, other)
    assert not equal(np.array([0.0]), np.array([-0.0]))
    assert not equal(np.array([None, np.ones(1)], dtype=object), np.array([None, np.zeros(1)], dtype=object))
    env = GymEnv(IDS[1])
    assert equal(play(env, seed=0, episodes=1), play(env, seed=0, episodes=1))
    assert not equal(play(env, seed=0, episodes=1), play(env, seed=0, episodes=1, action_seed=1))


# --- recorded episodes ---


@pytest.mark.parametrize("id", IDS)
def test_recorded_episode(id: str) -> None:
    variant = mir2bench.spec(id)
    recorded = json.loads(golden_trajectories.path_of(variant).read_text())
    assert id in recorded, f"{id} has no recorded episode: run python tests/golden_trajectories.py and commit the file."
    expected, given = recorded[id], golden_trajectories.record(variant)
    assert expected.pop("origin")
    assert given.keys() == expected.keys()
    for key, numbers in expected.items():
        # Other processors and compilers round otherwise; a change of the world is much larger than this.
        assert given[key] == (
            {name: pytest.approx(values, abs=5e-6) for name, values in numbers.items()}
            if isinstance(numbers, dict)
            else pytest.approx(numbers, abs=5e-6)
        ), f"{id}: {key} changed. A change of the world needs a new version of the variant."


def test_no_recorded_episode_is_left_over() -> None:
    recorded = {id for path in golden_trajectories.FOLDER.glob("*.json") for id in json.loads(path.read_text())}
    assert set(IDS) <= recorded <= set(mir2bench.list_variants())
