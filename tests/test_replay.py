"""Replay: returns over several steps, ends of episodes, the ring, and whole episodes, against a plain record."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest

from mir2bench.engines.base import Layout
from mir2bench.learning.replay import Batch, EpisodeReplay

N, A = 2, 3


@dataclass
class Episode:
    """A scripted episode: `number` marks its observations, of which there is one more than rewards."""

    number: int
    rewards: list[float]
    terminates: bool


@dataclass
class ScriptedTask:
    """Plays given episodes; each world has its own list. The observation at time t is 100 * number + t."""

    scripts: list[list[Episode]]
    horizon: int
    discrete: bool = False
    n_agents: int = N
    clock: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.batch = len(self.scripts)
        names = tuple("abc")
        self.layout = Layout(N, ("x", "id_0", "id_1"), ("s",), A, self.discrete, names)
        self.current = [iter(script) for script in self.scripts]
        self.clock = [0] * self.batch
        self.reward = np.zeros(self.batch)
        self.terminated = np.zeros(self.batch, bool)
        self.truncated = np.zeros(self.batch, bool)
        self.obs = np.zeros((self.batch, N, 3), np.float32)
        self.obs[:, :, 1:] = np.eye(2)
        self.state = np.zeros((self.batch, 1), np.float32)
        self.mask = np.ones((self.batch, N, A), np.int8) if self.discrete else None
        self.phi = np.zeros((self.batch, N), np.int8)
        self.episodes = [next(script) for script in self.current]
        self.look()

    def reset(self, worlds: np.ndarray | None = None, seeds: list[int] | None = None) -> None:
        for world in range(self.batch) if worlds is None else worlds:
            self.episodes[world] = next(self.current[world])
            self.clock[world] = 0
        self.look()

    def step(self, actions: np.ndarray) -> None:
        for world, episode in enumerate(self.episodes):
            self.reward[world] = episode.rewards[self.clock[world]]
            self.clock[world] += 1
            ended = self.clock[world] == len(episode.rewards)
            self.terminated[world] = ended and episode.terminates
            self.truncated[world] = ended and not episode.terminates
        self.look()

    def look(self) -> None:
        for world, episode in enumerate(self.episodes):
            mark = 100 * episode.number + self.clock[world]
            self.obs[world, :, 0] = [mark, -mark]
            self.state[world] = mark
            if self.mask is not None:
                self.mask[world] = 1
                self.mask[world, :, mark % A] = 0


def play(task: ScriptedTask, replay: EpisodeReplay, steps: int) -> None:
    """Fill the replay as the training loop does; each action tells the observation that it answered."""
    for _ in range(steps):
        marks = task.state[:, 0]
        actions = np.stack([marks % 7, -(marks % 7)], axis=1)[..., None] * np.array([1.0, 0.5, 0.1])
        if task.discrete:
            actions = np.stack([(marks + 1) % A, (marks + 2) % A], axis=1).astype(np.int64)
        task.step(actions)
        replay.add(task, actions)
        ended = np.flatnonzero(task.terminated | task.truncated)
        if ended.size:
            task.reset(ended)
            replay.start(task, ended)


def rows(batch: Batch) -> dict[int, tuple[float, float, float, int]]:
    """Return mark -> (reward, discount, weight, mark of the bootstrap observation), and see that copies agree."""
    table: dict[int, tuple[float, float, float, int]] = {}
    for k, mark in enumerate(batch.state[:, 0].int().tolist()):
        figures = [float(getattr(batch, name)[k]) for name in ("reward", "discount", "weight")]
        row = (figures[0], figures[1], figures[2], int(batch.next_state[k, 0]))
        assert table.setdefault(mark, row) == row
        assert batch.obs[k, :, 0].tolist() == [mark, -mark]
        assert batch.next_obs[k, :, 0].tolist() == [row[3], -row[3]]
    return table


def expected_rows(episode: Episode, stored: int, n_steps: int, gamma: float) -> dict[int, tuple[float, ...]]:
    """Write down the rows of the first `stored` transitions of an episode, one power at a time."""
    table = {}
    for t in range(stored):
        span = min(n_steps, stored - t)
        reward = sum(gamma**j * episode.rewards[t + j] for j in range(span))
        over = episode.terminates and t + span == len(episode.rewards)
        weight = sum(gamma**j for j in range(span))
        table[100 * episode.number + t] = (
            reward,
            0.0 if over else gamma**span,
            weight,
            100 * episode.number + t + span,
        )
    return table


# --- by hand: gamma 1/2, rewards 1, 2, 4, 8 ---


@pytest.mark.parametrize("terminates", [True, False])
def test_one_step(terminates: bool) -> None:
    task = ScriptedTask([[Episode(1, [1, 2, 4, 8], terminates), Episode(2, [16], False)]], horizon=5)
    replay = EpisodeReplay(task, 100, n_steps=1, gamma=0.5)
    play(task, replay, 4)
    assert rows(replay.sample(500, np.random.default_rng(0))) == {
        100: (1, 0.5, 1, 101),
        101: (2, 0.5, 1, 102),
        102: (4, 0.5, 1, 103),
        103: (8, 0.0 if terminates else 0.5, 1, 104),  # the true last observation, never 200
    }


def test_three_steps_to_a_termination() -> None:
    task = ScriptedTask([[Episode(1, [1, 2, 4, 8], True), Episode(2, [16], False)]], horizon=5)
    replay = EpisodeReplay(task, 100, n_steps=3, gamma=0.5)
    play(task, replay, 4)
    assert rows(replay.sample(500, np.random.default_rng(0))) == {
        100: (1 + 1 + 1, 0.125, 1.75, 103),
        101: (2 + 2 + 2, 0.0, 1.75, 104),
        102: (4 + 4, 0.0, 1.5, 104),
        103: (8, 0.0, 1.0, 104),
    }


def test_three_steps_to_a_time_limit() -> None:
    task = ScriptedTask([[Episode(1, [1, 2, 4, 8], False), Episode(2, [16], True)]], horizon=4)
    replay = EpisodeReplay(task, 100, n_steps=3, gamma=0.5)
    play(task, replay, 4)
    assert rows(replay.sample(500, np.random.default_rng(0))) == {
        100: (3, 0.125, 1.75, 103),
        101: (6, 0.125, 1.75, 104),
        102: (8, 0.25, 1.5, 104),
        103: (8, 0.5, 1.0, 104),
    }


def test_an_episode_in_progress_is_bootstrapped_where_it_stands() -> None:
    task = ScriptedTask([[Episode(1, [1, 2, 4, 8], True)]], horizon=5)
    replay = EpisodeReplay(task, 100, n_steps=3, gamma=0.5)
    play(task, replay, 2)
    assert len(replay) == 2
    assert rows(replay.sample(500, np.random.default_rng(0))) == {100: (2, 0.25, 1.5, 102), 101: (2, 0.5, 1.0, 102)}


# --- the ring ---


def random_scripts(worlds: int, horizon: int, seed: int) -> list[list[Episode]]:
    rng = np.random.default_rng(seed)
    numbers = iter(range(1, 10_000))
    return [
        [
            Episode(next(numbers), rng.integers(1, 9, length).tolist(), bool(length < horizon or rng.random() < 0.5))
            for length in rng.integers(1, horizon + 1, 200)
        ]
        for _ in range(worlds)
    ]


@pytest.mark.parametrize("n_steps", [1, 2, 5])
@pytest.mark.parametrize("capacity", [1, 40, 10_000])
def test_whatever_is_drawn_is_what_was_played(n_steps: int, capacity: int) -> None:
    task = ScriptedTask(random_scripts(3, 6, seed=n_steps), horizon=6)
    by_number = {e.number: e for script in task.scripts for e in script}
    replay = EpisodeReplay(task, capacity, n_steps=n_steps, gamma=0.5)
    slots = max(6, -(-capacity // 6))
    rng = np.random.default_rng(0)
    for _ in range(60):
        play(task, replay, 1)
        drawn = rows(replay.sample(300, rng))
        stored = {e.number: t for e, t in zip(task.episodes, task.clock, strict=True)}  # what is in progress
        expected: dict[int, tuple[float, ...]] = {}
        for number in {mark // 100 for mark in drawn}:
            episode = by_number[number]
            expected |= expected_rows(episode, stored.get(number, len(episode.rewards)), n_steps, 0.5)
        assert drawn.items() <= expected.items()
        assert len({mark // 100 for mark in drawn}) <= slots
    assert (len(replay) >= 150) == (capacity == 10_000)  # all of it, or what fits


def test_the_ring_never_overwrites_an_episode_being_written() -> None:
    long = Episode(1, [1.0] * 50, True)
    task = ScriptedTask([[long], [Episode(k, [1.0], True) for k in range(2, 60)]], horizon=50)
    replay = EpisodeReplay(task, 1, n_steps=1, gamma=0.5)  # four slots
    play(task, replay, 49)
    drawn = rows(replay.sample(3_000, np.random.default_rng(0)))
    assert {mark for mark in drawn if mark < 200} == {100 + t for t in range(49)}
    assert len(replay) == 49 + 2  # and the last two of the short ones, beside the one that has just begun
    assert sorted(mark // 100 for mark in drawn if mark >= 200) == [49, 50]


def test_old_episodes_make_room() -> None:
    task = ScriptedTask([[Episode(k, [1.0, 1.0], False) for k in range(1, 30)]], horizon=2)
    replay = EpisodeReplay(task, 6, n_steps=1, gamma=0.5)  # three slots
    play(task, replay, 21)
    assert set(rows(replay.sample(500, np.random.default_rng(0)))) == {900, 901, 1000, 1001, 1100}
    assert len(replay) == 5


def test_transitions_are_drawn_uniformly() -> None:
    scripts = [
        [Episode(1, [1.0] * 9, True), Episode(3, [0.0] * 9, True)],
        [Episode(2, [1.0], True), Episode(4, [1] * 9, True)],
    ]
    task = ScriptedTask(scripts, horizon=9)
    replay = EpisodeReplay(task, 100, n_steps=3, gamma=0.5)
    play(task, replay, 5)
    count = Counter(replay.sample(50_000, np.random.default_rng(0)).state[:, 0].int().tolist())
    assert sorted(count) == [100, 101, 102, 103, 104, 200, 400, 401, 402, 403]
    assert max(abs(c - 5_000) for c in count.values()) < 4 * np.sqrt(5_000 * 0.9)


def test_sampling_depends_on_its_generator_alone() -> None:
    task = ScriptedTask(random_scripts(2, 6, seed=0), horizon=6)
    replay = EpisodeReplay(task, 100, n_steps=2, gamma=0.5)
    play(task, replay, 30)
    one, same, other = (replay.sample(64, np.random.default_rng(s)).state.numpy() for s in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_memory_is_known_up_front() -> None:
    task = ScriptedTask([[Episode(1, [1.0], True)]], horizon=10)
    replay = EpisodeReplay(task, 40, n_steps=1, gamma=0.5)
    # Four slots: 11 observations of 2 x 3 and states of 1, 10 actions of 2 x 3 and rewards, four bytes each.
    assert replay.nbytes == 4 * 4 * (11 * 6 + 11 + 10 * 6 + 10 + 2)


# --- actions and masks ---


def test_continuous_actions_are_those_that_were_played() -> None:
    task = ScriptedTask([[Episode(1, [1.0] * 9, True)]], horizon=9)
    replay = EpisodeReplay(task, 100, n_steps=1, gamma=0.5)
    play(task, replay, 6)
    batch = replay.sample(100, np.random.default_rng(0))
    value = batch.state[:, 0].numpy() % 7
    expected = np.stack([value, -value], axis=1)[..., None] * np.array([1.0, 0.5, 0.1])
    np.testing.assert_allclose(batch.action.numpy(), expected, rtol=1e-6)
    assert batch.mask is None
    assert batch.next_mask is None
    assert batch.sequences is None


def test_discrete_actions_are_one_hot_and_masks_go_along() -> None:
    task = ScriptedTask([[Episode(1, [1.0] * 9, True)]], horizon=9, discrete=True)
    replay = EpisodeReplay(task, 100, n_steps=2, gamma=0.5)
    play(task, replay, 6)
    batch = replay.sample(200, np.random.default_rng(0))
    mark, after = batch.state[:, 0].int().numpy(), batch.next_state[:, 0].int().numpy()
    assert np.array_equal(batch.action.numpy(), np.eye(A)[np.stack([(mark + 1) % A, (mark + 2) % A], axis=1)])
    assert batch.mask is not None
    assert batch.next_mask is not None
    assert np.array_equal(batch.mask.numpy(), np.repeat(1 - np.eye(A)[mark % A][:, None], N, axis=1))
    assert np.array_equal(batch.next_mask.numpy(), np.repeat(1 - np.eye(A)[after % A][:, None], N, axis=1))
    for value in (batch.action, batch.mask, batch.next_mask, batch.reward, batch.discount, batch.weight, batch.obs):
        assert value.dtype.is_floating_point
        assert value.element_size() == 4


# --- partitions ---


@pytest.mark.parametrize("whole", [False, True])
def test_every_transition_has_its_own_episodes_partition(whole: bool) -> None:
    class Attacked(ScriptedTask):
        """Episode k is attacked by agent k mod 3, or by nobody if that is 2."""

        def look(self) -> None:
            super().look()
            for world, episode in enumerate(self.episodes):
                self.phi[world] = [episode.number % 3 == agent for agent in range(N)]

    task = Attacked(random_scripts(3, 6, seed=5), horizon=6)
    replay = EpisodeReplay(task, 60, n_steps=2, gamma=0.5)
    seen = set()
    for _ in range(20):
        play(task, replay, 4)  # slots are used again and again
        rng = np.random.default_rng(0)
        batch = replay.sample_episodes(20, rng) if whole else replay.sample(200, rng)
        number = batch.state[:, 0].int().numpy() // 100
        expected = (number[:, None] % 3 == np.arange(N)).astype(np.float32)
        assert np.array_equal(batch.phi.numpy(), expected)
        seen |= set(number % 3)
    assert seen == {0, 1, 2}
    assert batch.phi.element_size() == 4


# --- whole episodes ---


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_sequences_point_at_the_right_observations(n_steps: int, discrete: bool) -> None:
    task = ScriptedTask(random_scripts(3, 6, seed=5), horizon=6, discrete=discrete)
    by_number = {e.number: e for script in task.scripts for e in script}
    replay = EpisodeReplay(task, 60, n_steps=n_steps, gamma=0.5)
    play(task, replay, 40)
    batch = replay.sample_episodes(5, np.random.default_rng(0))
    assert batch.sequences is not None
    obs, sizes = batch.sequences.obs, list(batch.sequences.sizes)
    assert obs[batch.sequences.index].equal(batch.obs)
    assert obs[batch.sequences.next_index].equal(batch.next_obs)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 5
    assert len(obs) == sum(sizes)

    # The k-th rows of all times are one episode from its start, complete; the rows are all its transitions.
    stored = {e.number: t for e, t in zip(task.episodes, task.clock, strict=True)}
    marks = [rows.tolist() for rows in np.split(obs[:, 0, 0].int().numpy(), np.cumsum(sizes)[:-1])]
    expected: dict[int, tuple[float, ...]] = {}
    counted: Counter[int] = Counter()
    lengths = []
    for k in range(5):
        column = [at_time[k] for at_time in marks if k < len(at_time)]
        number = column[0] // 100
        length = stored.get(number, len(by_number[number].rewards))
        lengths.append(length)
        assert column == [100 * number + t for t in range(length + 1)]
        expected |= expected_rows(by_number[number], length, n_steps, 0.5)
        counted.update(100 * number + t for t in range(length))
    assert len(sizes) == 1 + max(lengths)
    assert rows(batch) == expected
    assert Counter(batch.state[:, 0].int().tolist()) == counted


def test_episodes_just_begun_are_not_drawn() -> None:
    task = ScriptedTask([[Episode(1, [1.0], True), Episode(2, [1.0, 1.0], True)]], horizon=2)
    replay = EpisodeReplay(task, 100, n_steps=1, gamma=0.5)
    play(task, replay, 1)
    batch = replay.sample_episodes(20, np.random.default_rng(0))
    assert set(batch.state[:, 0].int().tolist()) == {100}
    assert len(batch.state) == 20
