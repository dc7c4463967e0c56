"""What learners play: the whole team, or the adversaries of one partition against a frozen team."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from games import Echo, Match, Recall, game

import mir2bench
from mir2bench.defenders.maddpg import Config
from mir2bench.engines.base import Worlds
from mir2bench.errors import ActionError, PartitionError
from mir2bench.learning import loop
from mir2bench.learning.replay import Batch
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


# --- the team with adversaries in it ---


@pytest.mark.parametrize(("adversaries", "expected"), [(0, 1), (1, 1), (2, 2)])
def test_partitions_are_drawn_anew_for_each_episode(adversaries: int, expected: int) -> None:
    task = TeamTask(game(Match, 5, adversaries), 500, attacked=0.3, rng=np.random.default_rng(3))
    drawn = []
    for _ in range(6):
        task.reset(seeds=list(range(500)))
        assert task.phi.dtype == np.int8
        drawn.append(task.phi.copy())
    assert all((one != other).any() for one, other in pairwise(drawn))
    phi = np.concatenate(drawn)
    weight = phi.sum(axis=1)
    assert set(weight) == {0, expected}  # as many as the variant has, or one where it has none
    assert (weight > 0).mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 3_000))
    share = 0.3 * expected / 5
    assert phi.mean(axis=0) == pytest.approx([share] * 5, abs=4 * np.sqrt(share / 3_000))  # nobody is spared


def test_only_the_worlds_that_start_anew_get_other_partitions() -> None:
    task = TeamTask(game(Match, 5), 40, attacked=1.0, rng=np.random.default_rng(0))
    task.reset(seeds=list(range(40)))
    before = task.phi.copy()
    task.reset(np.array([3, 7, 9]))
    kept = np.setdiff1d(np.arange(40), [3, 7, 9])
    assert np.array_equal(task.phi[kept], before[kept])
    assert (task.phi.sum(axis=1) == 1).all()
    task.step(np.zeros((40, 5, 1), np.float32))
    assert np.array_equal(task.phi[kept], before[kept])


def test_partitions_depend_on_their_generator_alone() -> None:
    phis = []
    for seed in (1, 1, 2):
        task = TeamTask(game(Match, 5), 20, attacked=0.5, rng=np.random.default_rng(seed))
        task.reset(seeds=list(range(20)))
        phis.append(task.phi.tobytes())
    assert phis[0] == phis[1] != phis[2]


def test_the_number_of_adversaries_can_be_chosen() -> None:
    task = TeamTask(game(Match, 5), 20, attacked=1.0, n_adversaries=3)
    task.reset(seeds=list(range(20)))
    assert (task.phi.sum(axis=1) == 3).all()


def test_without_attacks_nothing_is_drawn() -> None:
    rng = np.random.default_rng(0)
    task = TeamTask(game(Match, 5), 20, rng=rng)
    task.reset(seeds=list(range(20)))
    assert not task.phi.any()
    assert rng.random() == np.random.default_rng(0).random()


def test_the_world_knows_nothing_of_the_partition() -> None:
    """What adversaries do is up to the learner: the same actions have the same results."""
    task, clean = (TeamTask(game(Recall, 3), 6, attacked=attacked) for attacked in (1.0, 0.0))
    for one in (task, clean):
        one.reset(seeds=list(range(6)))
        for actions in (0, 0, 1):
            one.step(np.full((6, 3), actions))
        assert not one.worlds.phi.any()
    assert task.phi.any()
    assert np.array_equal(task.reward, clean.reward)
    assert np.array_equal(task.obs, clean.obs)


class Intervening:
    """A learner whose policy says 1 and who makes adversaries say 5; it keeps what it was asked and given."""

    recurrent = False

    def __init__(self) -> None:
        self.policy: Any = Fixed(1)
        self.asked: list[np.ndarray] = []
        self.batches: list[Batch] = []

    def intervene(self, task: Any, actions: np.ndarray) -> np.ndarray:
        self.asked.append(actions)
        return np.where(task.phi > 0, 5, actions)

    def update(self, batch: Batch) -> dict[str, Any]:
        self.batches.append(batch)
        return {}

    def anneal(self, done: float) -> None:
        pass

    def diagnose(self, batch: Batch) -> dict[str, Any]:
        return {}


def test_the_learner_intervenes_after_warmup_and_what_is_executed_is_stored() -> None:
    task = TeamTask(game(Echo, 3), 4, attacked=0.5, rng=np.random.default_rng(0))
    task.reset(seeds=[0, 1, 2, 3])
    learner = Intervening()
    config = Config(worlds=4, batch_size=400, warmup=48)
    loop.train(task, learner, config, budget=480, seed=0, measure=lambda policy: {})
    assert len(learner.asked) == 120 - 12  # 48 steps of random play fill 12 rounds
    assert all((actions == 1).all() for actions in learner.asked)
    batch = learner.batches[-1]
    said = batch.action.argmax(dim=-1).numpy()
    # Nobody but adversaries says 5 and nobody else says 1 once random play is over; of that there were two episodes
    # in each of four worlds, a tenth of all.
    told = np.where(batch.phi.numpy() > 0, 5, 1)
    assert (said == told).mean() == pytest.approx(0.9 + 0.1 / 6, abs=0.05)
    assert set(batch.phi.sum(dim=-1).int().tolist()) == {0, 1}
    # The next observation shows what was executed, a fifth of it.
    after = batch.next_obs[..., :3].numpy()
    np.testing.assert_allclose(after[:, 0], said / 5, atol=1e-6)


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
