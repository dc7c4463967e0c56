"""Replay of whole episodes, from which either single transitions or whole sequences are drawn.

A slot holds one episode: observations 0 ... T (the last is the true final one, so a time limit can be bootstrapped)
and actions and rewards 0 ... T - 1. Every parallel world writes into a slot of its own; what it has written so far can
be drawn at once. One copy of each observation is kept, whatever the number of steps a return spans.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mir2bench.learning.state import State
from mir2bench.learning.tasks import Task

_ARRAYS = ("obs", "state", "mask", "action", "reward", "phi", "length", "terminated")


@dataclass(frozen=True, slots=True)
class Sequences:
    """The whole episodes behind a batch, for recurrent networks, packed: by time, and the longest first at each time.

    Attributes:
        obs: (P, n, O) float32, observations 0 ... T of all episodes.
        sizes: how many episodes last to time 0, 1, ...; never growing, with the sum P.
        index: (M,) int64, where each row of the batch lies in `obs`.
        next_index: (M,) int64, the same for its bootstrap observation.
    """

    obs: torch.Tensor
    sizes: tuple[int, ...]
    index: torch.Tensor
    next_index: torch.Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """M transitions over k steps each, k being the return's length or what was left of the episode.

    Attributes:
        obs, next_obs: (M, n, O) float32 at time t and t + k.
        state, next_state: (M, S) float32.
        action: (M, n, A) float32; one-hot in discrete worlds.
        reward: (M,) float32, sum over j < k of gamma^j r_{t+j}.
        discount: (M,) float32, gamma^k, or 0 if the episode terminated there (never for a time limit).
        weight: (M,) float32, sum over j < k of gamma^j: how often a per-step penalty counts in `reward`.
        phi: (M, n) float32, 1 for agents that did not follow the team's policy in this episode.
        mask, next_mask: (M, n, A) float32, or None.
        sequences: whole episodes when drawn by `sample_episodes`.
    """

    obs: torch.Tensor
    next_obs: torch.Tensor
    state: torch.Tensor
    next_state: torch.Tensor
    action: torch.Tensor
    reward: torch.Tensor
    discount: torch.Tensor
    weight: torch.Tensor
    phi: torch.Tensor
    mask: torch.Tensor | None
    next_mask: torch.Tensor | None
    sequences: Sequences | None = None


class EpisodeReplay:
    """A ring of episode slots for B parallel worlds.

    Args:
        task: gives all sizes; its first observations must be there (after `reset`).
        capacity: transitions to keep; rounded to whole episodes, and at least two per world.
        n_steps: length of the returns.
        gamma: discount per step.
    """

    def __init__(self, task: Task, capacity: int, *, n_steps: int, gamma: float) -> None:
        layout, n, t = task.layout, task.n_agents, task.horizon
        slots = max(2 * task.batch, -(-capacity // t))
        self._discrete = layout.discrete
        self._action_dim = layout.action_dim
        self._obs = np.zeros((slots, t + 1, n, layout.obs_dim), np.float32)
        self._state = np.zeros((slots, t + 1, layout.state_dim), np.float32)
        self._mask = None if task.mask is None else np.ones((slots, t + 1, n, layout.action_dim), np.int8)
        shape = layout.action_shape(t, n)
        self._action = np.zeros((slots, *shape), np.int64 if layout.discrete else np.float32)
        self._reward = np.zeros((slots, t), np.float32)
        self._phi = np.zeros((slots, n), np.float32)
        self._length = np.zeros(slots, np.int64)
        self._terminated = np.zeros(slots, bool)
        self._open = np.arange(task.batch)  # the slot that each world writes to
        self._phi[self._open] = task.phi
        self._next = task.batch
        self._n_steps = n_steps
        self._powers = gamma ** np.arange(n_steps + 1)
        self._write_observation(task, self._open, np.zeros(task.batch, np.int64))

    def __len__(self) -> int:
        """Number of transitions that can be drawn."""
        return int(self._length.sum())

    @property
    def nbytes(self) -> int:
        """Memory of all arrays in bytes."""
        arrays = (self._obs, self._state, self._mask, self._action, self._reward, self._phi)
        return sum(a.nbytes for a in arrays if a is not None)

    def state_dict(self) -> State:
        """Return all slots that were ever written to, not copied."""
        used = 1 + int(np.flatnonzero((self._length > 0) | np.isin(np.arange(len(self._length)), self._open)).max())
        return {
            "next": self._next,
            "open": self._open,
            **{name: array[:used] for name in _ARRAYS if (array := getattr(self, f"_{name}")) is not None},
        }

    def load_state_dict(self, state: State) -> None:
        """See `state.Stateful`."""
        self._next = state["next"]
        self._open[:] = state["open"]
        for name in _ARRAYS:
            if name in state:
                getattr(self, f"_{name}")[: len(state[name])] = state[name]

    def add(self, task: Task, actions: np.ndarray) -> None:
        """Store what one step of all worlds gave; to be called after `task.step` and before any reset."""
        slot, t = self._open, self._length[self._open]
        self._action[slot, t] = actions
        self._reward[slot, t] = task.reward
        self._terminated[slot] = task.terminated
        self._write_observation(task, slot, t + 1)
        self._length[slot] = t + 1

    def start(self, task: Task, worlds: np.ndarray) -> None:
        """Open a new slot for each of `worlds`; to be called after they were reset."""
        slots = len(self._length)
        for world in worlds:
            while self._next in self._open:  # never overwrite an episode that is still being written
                self._next = (self._next + 1) % slots
            self._open[world] = self._next
            self._length[self._next] = 0
            self._next = (self._next + 1) % slots
        self._phi[self._open] = task.phi
        self._write_observation(task, self._open, self._length[self._open])

    def _write_observation(self, task: Task, slot: np.ndarray, t: np.ndarray) -> None:
        self._obs[slot, t] = task.obs
        self._state[slot, t] = task.state
        if self._mask is not None:
            self._mask[slot, t] = task.mask  # type: ignore[assignment]

    def sample(self, size: int, rng: np.random.Generator) -> Batch:
        """Draw `size` transitions uniformly from all that are stored."""
        ends = np.cumsum(self._length)
        flat = rng.integers(ends[-1], size=size)
        slot = np.searchsorted(ends, flat, side="right")
        return self._gather(slot, flat - (ends[slot] - self._length[slot]))

    def sample_episodes(self, size: int, rng: np.random.Generator) -> Batch:
        """Draw `size` whole episodes (with repetition) and all their transitions, with the sequences behind them."""
        chosen = rng.choice(np.flatnonzero(self._length), size=size)
        chosen = chosen[np.argsort(-self._length[chosen], kind="stable")]
        length = self._length[chosen]
        t, e = np.nonzero(np.arange(length[0])[:, None] < length)
        slot = chosen[e]
        batch = self._gather(slot, t)
        steps = np.minimum(self._n_steps, length[e] - t)
        lasting = np.arange(length[0] + 1)[:, None] <= length  # (T + 1, E)
        seen_t, seen_e = np.nonzero(lasting)
        sizes = lasting.sum(axis=1)
        first = np.cumsum(sizes) - sizes  # of each time
        sequences = Sequences(
            obs=torch.from_numpy(self._obs[chosen[seen_e], seen_t].astype(np.float32, copy=False)),
            sizes=tuple(sizes.tolist()),
            index=torch.from_numpy(first[t] + e),
            next_index=torch.from_numpy(first[t + steps] + e),
        )
        fields = {name: getattr(batch, name) for name in batch.__slots__ if name != "sequences"}
        return Batch(**fields, sequences=sequences)

    def _gather(self, slot: np.ndarray, t: np.ndarray) -> Batch:
        steps = np.minimum(self._n_steps, self._length[slot] - t)
        ahead = np.arange(self._n_steps)
        index = np.minimum(t[:, None] + ahead, self._reward.shape[1] - 1)
        gains = np.where(ahead < steps[:, None], self._powers[:-1], 0.0)
        reward = (self._reward[slot[:, None], index] * gains).sum(axis=1)
        ended = self._terminated[slot] & (t + steps == self._length[slot])
        after = t + steps
        action = self._action[slot, t]
        if self._discrete:
            action = np.eye(self._action_dim, dtype=np.float32)[action]  # type: ignore[index]

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array.astype(np.float32, copy=False))

        return Batch(
            obs=tensor(self._obs[slot, t]),
            next_obs=tensor(self._obs[slot, after]),
            state=tensor(self._state[slot, t]),
            next_state=tensor(self._state[slot, after]),
            action=tensor(action),
            reward=tensor(reward),
            discount=tensor(np.where(ended, 0.0, self._powers[steps])),
            weight=tensor(gains.sum(axis=1)),
            phi=tensor(self._phi[slot]),
            mask=None if self._mask is None else tensor(self._mask[slot, t]),
            next_mask=None if self._mask is None else tensor(self._mask[slot, after]),
        )
