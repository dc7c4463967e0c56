"""AttackerEnv and DefenderEnv: one side plays, the other is frozen inside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

import mir2bench
from mir2bench.errors import (
    ActionError,
    ConfigError,
    PartitionError,
    PolicyError,
    UnknownNameError,
)
from mir2bench.policies import IdlePolicy, RandomPolicy
from mir2bench.testing.environments import equal
from mir2bench.views.gym_env import GymEnv

ID = "mir2bench/Rendezvous5-adv1-v0"
GATHERED = {"poses": [[100 + 0.1 * i, 100, 0] for i in range(5)]}


def zeros(*batch: int) -> np.ndarray:
    """Return an idle joint action of five robots."""
    return np.zeros((*batch, 5, 2), dtype=np.float32)


class Recorder:
    """A policy that answers with fixed actions, counts its calls and remembers what it was asked."""

    def __init__(self, actions: Any) -> None:
        self.actions, self.asked = np.asarray(actions), []  # type: ignore[var-annotated]

    def initial_carry(self, batch: int) -> np.ndarray:
        return np.zeros((batch, 1))

    def act(self, obs: Any, carry: Any, mask: Any = None, *, rng: Any, deterministic: bool = True) -> Any:
        self.asked.append((obs.copy(), carry.copy(), mask, deterministic))
        return self.actions[None], carry + 1


def test_attacker_of_one() -> None:
    team = Recorder(np.full((5, 2), 0.5, np.float32))
    env = mir2bench.AttackerEnv(ID, team, phi=[0, 0, 0, 1, 0])
    assert env.observation_space.shape == (30,)
    assert env.action_space == gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    assert env.action_masks().tolist() == [True, True]
    info = env.reset(seed=0)[1]
    assert info["phi"].tolist() == [0, 0, 0, 1, 0]
    gym = GymEnv(ID)
    gym.reset(seed=0)
    joint = np.full((5, 2), 0.5, np.float32)
    joint[3] = [-1, 0.25]
    expected = gym.step(joint)
    given = env.step(np.array([-1, 0.25], np.float32))
    assert equal(given[0], expected[0][3])
    assert (given[1], given[4]["team_reward"]) == (-expected[1], expected[1])
    env.step(np.zeros(2))
    assert [carry.item() for _, carry, _, _ in team.asked] == [0, 1]  # memory goes on within an episode
    assert all(deterministic for *_, deterministic in team.asked)
    env.reset()
    env.step(np.zeros(2))
    assert team.asked[-1][1].item() == 0  # and starts anew with the next


def test_attacker_of_two_in_a_discrete_world(toy: list[str]) -> None:
    team = Recorder([0, 0, 0])
    env = mir2bench.AttackerEnv(toy[2], team)
    assert env.observation_space.shape == (8,)
    assert env.action_space == gymnasium.spaces.MultiDiscrete([3, 3])
    options = {"phi": [1, 0, 1], "initial_state": {"values": [0.2, 0.5, 0.9]}}
    obs, info = env.reset(seed=0, options=options)
    assert obs == pytest.approx([0.2, 1, 0, 0, 0.9, 0, 0, 1])
    assert info["action_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert env.action_masks().tolist() == [True] * 5 + [False]
    obs, reward, _, _, info = env.step(np.array([2, 1]))
    assert obs[[0, 4]] == pytest.approx([0.3, 0.9], abs=0.05)
    assert reward == 1.0 - info["team_reward"]  # the variant names "signed", the team's reward minus 1
    assert team.asked[0][2].tolist() == [[[1, 1, 1], [1, 1, 1], [1, 1, 0]]]
    single = mir2bench.AttackerEnv(toy[1], Recorder([0, 0, 0]), phi=[0, 1, 0])
    assert single.action_space == gymnasium.spaces.Discrete(3)
    assert single.reset(seed=1)[1]["action_mask"].shape == (3,)
    assert single.step(2)[4]["action_mask"].shape == (3,)


def test_attacker_draws_phi_each_episode_unless_fixed() -> None:
    env = mir2bench.AttackerEnv(ID, IdlePolicy(mir2bench.spec(ID).layout))
    assert len({int(env.reset(seed=seed)[1]["phi"].argmax()) for seed in range(20)}) > 1
    env = mir2bench.AttackerEnv(ID, IdlePolicy(mir2bench.spec(ID).layout), phi=[1, 0, 0, 0, 0])
    assert {int(env.reset(seed=seed)[1]["phi"].argmax()) for seed in range(20)} == {0}
    assert env.reset(options={"phi": [0, 1, 0, 0, 0]})[1]["phi"].argmax() == 1


def test_a_random_team_has_its_own_generator() -> None:
    layout = mir2bench.spec(ID).layout
    env, idle = mir2bench.AttackerEnv(ID, RandomPolicy(layout)), mir2bench.AttackerEnv(ID, IdlePolicy(layout))
    first = [env.reset(seed=2)[0], *(env.step(np.zeros(2))[0] for _ in range(5)), env.reset()[0]]
    again = [env.reset(seed=2)[0], *(env.step(np.zeros(2))[0] for _ in range(5)), env.reset()[0]]
    assert equal(first, again)
    assert not equal(first[1], first[0])
    idle.reset(seed=2)
    assert equal(idle.reset()[0], first[-1])  # the team's draws did not shift the starts


def test_defender_env_hides_phi_and_overrules_adversaries() -> None:
    attacker = Recorder(np.array([[1.0, -1.0]], np.float32))
    env = mir2bench.DefenderEnv(ID, attacker, phi=[0, 1, 0, 0, 0])
    obs, info = env.reset(seed=0)
    assert set(info) == {"state"}
    gym = GymEnv(ID)
    gym.reset(seed=0)
    joint = np.full((5, 2), 0.5, np.float32)
    joint[1] = [1, -1]
    expected = gym.step(joint)
    mine = np.full((5, 2), 0.5)
    mine[1] = np.nan  # overruled, so it does not matter
    given = env.step(mine)
    assert equal(given[:4], expected[:4])
    assert set(given[4]) == {"state"}
    assert equal(attacker.asked[0][0], obs[None, [1]])  # the attacker sees its own observation only
    integers = np.zeros((5, 2), dtype=np.int64)
    env.step(integers)
    assert env.worlds.engine.channels["action"][0] == pytest.approx(-0.001 * 2 / 10)  # not cut to integers
    clean = mir2bench.DefenderEnv("mir2bench/Rendezvous5-adv0-v0", attacker)
    clean.reset(seed=0)
    calls = len(attacker.asked)
    clean.step(zeros())
    assert len(attacker.asked) == calls


def test_one_sided_views_take_made_environments() -> None:
    made = gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make(ID))
    env = mir2bench.AttackerEnv(made, IdlePolicy(mir2bench.spec(ID).layout))
    env.reset(seed=0, options={"initial_state": GATHERED})
    *_, info = env.step(np.zeros(2, np.float32))
    assert info["episode"]["l"] == 1  # the wrapper saw the step
    env.close()


def test_one_sided_views_refuse_what_does_not_fit() -> None:
    idle = IdlePolicy(mir2bench.spec(ID).layout)
    with pytest.raises(PartitionError, match="adv0-v0 has no adversaries to play"):
        mir2bench.AttackerEnv("Rendezvous5-adv0-v0", idle)
    with pytest.raises(PartitionError, match="phi names no adversary"):
        mir2bench.AttackerEnv(ID, idle, phi=[0] * 5)
    with pytest.raises(PartitionError, match="names 2 adversaries"):
        mir2bench.AttackerEnv(ID, idle).reset(options={"phi": [1, 1, 0, 0, 0]})
    with pytest.raises(PolicyError, match=r"got the path 'bundle'. Give mir2bench.load_policy\('bundle'\)"):
        mir2bench.AttackerEnv(ID, "bundle")  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="needs a policy with `initial_carry` and `act`, but it got 3"):
        mir2bench.DefenderEnv(ID, 3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs an id, a spec or an environment of mir2bench, but it got <.*CartPole"):
        mir2bench.AttackerEnv(gymnasium.make("CartPole-v1"), idle)
    with pytest.raises(ConfigError, match=r"got a made environment; give \['strict'\] to gymnasium.make instead"):
        mir2bench.AttackerEnv(gymnasium.make(ID), idle, strict=True)
    with pytest.raises(UnknownNameError, match="Did you mean"):
        mir2bench.AttackerEnv("Rendezvous5-adv1", idle)
    env = mir2bench.AttackerEnv(ID, idle)
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step(np.zeros(2))
    env.reset(seed=0)
    for action in (np.zeros(3), np.zeros((1, 2)), "ab", [[1], [1, 2]], None):
        with pytest.raises(ActionError, match=r"must be numbers of shape \(2,\), but it is"):
            env.step(action)
    with pytest.raises(ActionError, match="must be finite"):
        env.step(np.array([np.nan, 0]))
    short = mir2bench.AttackerEnv(ID, Recorder(np.zeros((4, 2))))
    short.reset(seed=0)
    with pytest.raises(PolicyError, match=r"returned actions of shape \(1, 4, 2\), but .* expects \(1, 5, 2\) here"):
        short.step(np.zeros(2))


def test_an_unknown_attack_reward_is_found(toy: list[str]) -> None:
    spec = replace(mir2bench.spec(toy[1]), attack_reward="sined")
    message = "No reward channel `sined`. Did you mean `signed`"
    with pytest.raises(UnknownNameError, match=message):
        mir2bench.AttackerEnv(spec, IdlePolicy(spec.layout))
    with pytest.raises(UnknownNameError, match=message):
        mir2bench.AttackerEnv(toy[1], IdlePolicy(spec.layout), reward="sined")


def test_the_attackers_reward_can_be_chosen(toy: list[str]) -> None:
    """As `python -m mir2bench.attack --reward` chooses it."""
    env = mir2bench.AttackerEnv(toy[1], IdlePolicy(mir2bench.spec(toy[1]).layout), reward="team")
    assert env.variant.attack_reward == "team"
    env.reset(seed=0)
    _, reward, *_, info = env.step(1)
    assert reward == -info["team_reward"]  # the variant names "signed", the team's reward minus 1
    assert mir2bench.spec(toy[1]).attack_reward == "signed"
