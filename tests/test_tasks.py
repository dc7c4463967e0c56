"""What learners play: the whole team, or the adversaries of one partition against a frozen team."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from games import Echo, Match, game

import mir2bench
from mir2bench.engines.base import Worlds
from mir2bench.errors import ActionError, PartitionError
from mir2bench.learning.rollout import rollout
from mir2bench.learning.tasks import AdversaryTask, TeamTask, reward_scale
from mir2bench.partition import Partition, perturb
from mir2bench.policies import RandomPolicy
from mir2bench.registration import Anchor


class Counter:
    """A team with a memory: its age in steps since the episode's start decides what it plays."""

    def initial_carry(self, batch: int) -> np.ndarray:
        return np.zeros((batch, 1))

    def act(
        self,
        obs: np.ndarray,
        carry: np.ndarray,
        mask: np.ndarray | None = None,
        *,
        rng: np.random.Generator,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, np.ndarray]:
        assert deterministic
        actions = np.repeat((carry % 2).astype(np.int64), obs.shape[1], axis=1)  # lower, keep, lower, keep ...
        return actions, carry + 1


# --- scale ---


def test_the_scale_brings_the_score_range_to_one_a_step() -> None:
    variant = replace(game(Match), horizon=200, floor=Anchor(-66.0, ""), ceiling=Anchor(-16.0, ""))
    assert reward_scale(variant) == 4.0
    floor, ceiling = -66.0 / 200, -16.0 / 200  # reward per step of either anchor
    assert (ceiling - floor) * reward_scale(variant) == pytest.approx(1.0)


# --- the team ---


def test_the_team_plays_the_plain_world_with_scaled_rewards(toy: list[str]) -> None:
    variant = replace(mir2bench.spec(toy[1]), floor=Anchor(-6.0, ""), ceiling=Anchor(4.0, ""))  # 20 steps: scale 2
    task, worlds = TeamTask(variant, 3), Worlds(variant, 3)
    task.reset(seeds=[4, 5, 6])
    worlds.reset(seeds=[4, 5, 6], phi=Partition.of(3))
    assert not task.worlds.phi.any()
    for _ in range(8):
        actions = np.ones((3, 3), np.int64)
        task.step(actions)
        worlds.step(actions)
        assert np.array_equal(task.obs, worlds.engine.obs)
        assert np.array_equal(task.state, worlds.engine.state)
        assert task.mask is not None
        assert np.array_equal(task.mask, worlds.engine.mask)  # type: ignore[arg-type]
        assert np.array_equal(task.reward, 2.0 * worlds.engine.reward)
        assert np.array_equal(task.terminated, worlds.engine.terminated)
        ended = np.flatnonzero(task.terminated)
        task.reset(ended)
        worlds.reset(ended, phi=Partition.of(3))
    assert (task.batch, task.n_agents, task.horizon) == (3, 3, 20)


def test_the_time_limit_is_told_apart(toy: list[str]) -> None:
    variant = replace(mir2bench.spec(toy[1]), horizon=4, engine_args={"ending": 0.0})
    task = TeamTask(variant, 2)
    task.reset(seeds=[1, 2])
    for step in range(1, 5):
        task.step(np.ones((2, 3), np.int64))
        assert task.truncated.tolist() == [step == 4] * 2
        assert not task.terminated.any()


# --- the adversaries ---


@pytest.mark.parametrize("channel", ["team", "signed"])
def test_adversaries_play_within_the_joint_action(toy: list[str], channel: str) -> None:
    variant = replace(mir2bench.spec(toy[1]), attack_reward=channel)
    phi = Partition((0, 1, 0))
    task = AdversaryTask(variant, 4, Counter(), phi, np.random.default_rng(0))
    worlds = Worlds(variant, 4)
    seeds = [1, 2, 3, 4]
    task.reset(seeds=seeds)
    worlds.reset(seeds=seeds, phi=phi)
    age = np.zeros(4, np.int64)  # each episode's, by hand
    episodes = 0
    for _ in range(60):
        assert worlds.engine.mask is not None
        assert task.mask is not None
        assert np.array_equal(task.obs, worlds.engine.obs[:, [1]])
        assert np.array_equal(task.state, worlds.engine.state)
        assert np.array_equal(task.mask, worlds.engine.mask[:, [1]])
        hostile = 2 * worlds.engine.mask[:, 1, 2].astype(np.int64)  # raise where that is legal
        task.step(hostile[:, None])
        joint = np.repeat((age % 2)[:, None], 3, axis=1)
        joint[:, 1] = hostile
        worlds.step(joint)
        age += 1
        assert np.array_equal(task.reward, -worlds.engine.channels[channel])  # the range is 1 a step here
        assert np.array_equal(task.terminated, worlds.engine.terminated)
        assert np.array_equal(task.truncated, worlds.truncated)
        ended = np.flatnonzero(worlds.done)
        task.reset(ended)
        worlds.reset(ended, phi=phi)
        age[ended] = 0  # the victim's memory starts anew with its episode, and no other does
        episodes += len(ended)
    assert episodes > 10
    assert (task.worlds.phi == [0, 1, 0]).all()
    assert (task.n_agents, task.batch) == (1, 4)


def test_a_full_reset_empties_all_memories(toy: list[str]) -> None:
    task = AdversaryTask(mir2bench.spec(toy[1]), 2, Counter(), Partition((1, 0, 0)), np.random.default_rng(0))
    for _ in range(2):
        task.reset(seeds=[1, 2])
        before = task.worlds.engine.state[:, 1].copy()
        task.step(np.ones((2, 1), np.int64))
        assert (task.worlds.engine.state[:, 1] < before - 0.05).all()  # the first action lowers


def test_rewards_of_adversaries_are_scaled_like_the_teams(toy: list[str]) -> None:
    variant = replace(mir2bench.spec(toy[1]), floor=Anchor(-30.0, ""), ceiling=Anchor(10.0, ""))  # 20 steps: scale 1/2
    task = AdversaryTask(variant, 2, Counter(), Partition((0, 0, 1)), np.random.default_rng(0))
    task.reset(seeds=[1, 2])
    task.step(np.ones((2, 1), np.int64))
    assert np.array_equal(task.reward, -0.5 * task.worlds.engine.channels["signed"])
    assert (task.reward > 0.5).all()


def test_two_adversaries_act_in_ascending_order(toy: list[str]) -> None:
    task = AdversaryTask(mir2bench.spec(toy[2]), 3, Counter(), Partition((1, 0, 1)), np.random.default_rng(0))
    task.reset(seeds=[1, 2, 3])
    assert task.n_agents == 2
    assert task.obs.shape == (3, 2, 4)
    assert task.obs[:, :, 1:].tolist() == [[[1, 0, 0], [0, 0, 1]]] * 3
    before = task.worlds.engine.state.copy()
    task.step(np.array([[0, 1]] * 3))
    moved = task.worlds.engine.state - before
    assert (moved[:, 0] < -0.05).all()
    assert (np.abs(moved[:, 2]) < 0.05).all()


def test_victims_draw_from_the_generator_given(toy: list[str]) -> None:
    variant = mir2bench.spec(toy[1])
    states = []
    for seed in (1, 1, 2):
        victim = RandomPolicy(variant.layout)
        task = AdversaryTask(variant, 4, victim, Partition((0, 1, 0)), np.random.default_rng(seed))
        task.reset(seeds=[1, 2, 3, 4])
        task.step(np.ones((4, 1), np.int64))
        states.append(task.state.tobytes())
    assert states[0] == states[1] != states[2]


def test_what_cannot_be_played(toy: list[str]) -> None:
    variant = mir2bench.spec(toy[1])
    with pytest.raises(PartitionError, match="phi names 2 adversaries, but this variant allows exactly 1"):
        AdversaryTask(variant, 1, Counter(), Partition((1, 1, 0)), np.random.default_rng(0)).reset(seeds=[0])
    with pytest.raises(PartitionError, match="phi has 2 entries, but this variant has 3 agents"):
        AdversaryTask(variant, 1, Counter(), Partition((1, 0)), np.random.default_rng(0)).reset(seeds=[0])
    task = AdversaryTask(variant, 30, Counter(), Partition((0, 1, 0)), np.random.default_rng(0))
    task.reset(seeds=list(range(30)))
    with pytest.raises(ActionError, match="agent 1 of world .* which is not legal now"):
        task.step(np.full((30, 1), 2))


# --- measuring ---


class Fixed:
    """Every agent always plays the same."""

    def __init__(self, action: Any) -> None:
        self.action = action

    def initial_carry(self, batch: int) -> None:
        return None

    def act(
        self,
        obs: np.ndarray,
        carry: None,
        mask: np.ndarray | None = None,
        *,
        rng: np.random.Generator,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, None]:
        return np.full(obs.shape[:2], self.action), carry


def test_measured_returns_by_hand() -> None:
    """`Echo` pays the share of agents that say 0, six times."""
    variant = game(Echo, 3)
    clean = rollout(variant, Fixed(0), Partition.of(3), None, [1, 2])
    assert clean.returns.tolist() == [6.0, 6.0]
    assert clean.lengths.tolist() == [6, 6]
    attacked = rollout(variant, Fixed(0), Partition((0, 1, 0)), Fixed(3), [1, 2])
    assert attacked.returns.tolist() == pytest.approx([4.0, 4.0])


def test_measured_episodes_end_where_they_end(toy: list[str]) -> None:
    """Against one world at a time: what happens after an end is not counted."""
    variant = mir2bench.spec(toy[1])
    phi = Partition((0, 1, 0))
    seeds = list(range(10, 18))
    episodes = rollout(variant, Counter(), phi, Fixed(1), seeds)
    assert len(set(episodes.lengths)) > 3
    for k, seed in enumerate(seeds):
        worlds, carry, total, steps = Worlds(variant, 1), Counter().initial_carry(1), 0.0, 0
        worlds.reset(seeds=[seed], phi=phi)
        while not worlds.done[0]:
            team, carry = Counter().act(worlds.engine.obs, carry, rng=np.random.default_rng(0))
            worlds.step(perturb(team, np.ones((1, 1), np.int64), phi))
            total += worlds.engine.reward[0]
            steps += 1
        assert (episodes.returns[k], episodes.lengths[k]) == (total, steps)
