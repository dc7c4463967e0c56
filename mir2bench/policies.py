"""Policies: what is evaluated. A policy sees observations, legal-action masks and its own generator; nothing else."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from mir2bench.engines.base import Layout

Carry = Any
"""What a policy remembers between steps: None, or an array whose first axis is the batch."""


class Policy(Protocol):
    """A decentralised joint policy for n agents (a team of N, or the K adversaries of a partition)."""

    def initial_carry(self, batch: int) -> Carry:
        """Return the memory with which `batch` episodes start."""
        ...

    def act(
        self,
        obs: np.ndarray,
        carry: Carry,
        mask: np.ndarray | None = None,
        *,
        rng: np.random.Generator,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Carry]:
        """Choose actions.

        Args:
            obs: (B, n, O) float32.
            carry: what `initial_carry` or the last call returned.
            mask: (B, n, A), nonzero for legal actions; None in worlds without masks.
            rng: the only source of randomness.
            deterministic: greedy actions rather than samples.

        Returns:
            Actions (B, n, A) float32 in [-1, 1], or (B, n) int64 in discrete worlds, and the new carry.
        """
        ...


class IdlePolicy:
    """Zero actions; in discrete worlds the first legal action."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def initial_carry(self, batch: int) -> Carry:
        """Return None: nothing is remembered."""
        return None

    def act(
        self,
        obs: np.ndarray,
        carry: Carry,
        mask: np.ndarray | None = None,
        *,
        rng: np.random.Generator,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Carry]:
        """See `Policy.act`."""
        batch, n = obs.shape[:2]
        if self._layout.discrete:
            return (np.zeros((batch, n), np.int64) if mask is None else mask.argmax(axis=-1)), carry
        return np.zeros(self._layout.action_shape(batch, n), dtype=np.float32), carry


class RandomPolicy:
    """Uniform actions in [-1, 1], or uniform over the legal ones."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def initial_carry(self, batch: int) -> Carry:
        """Return None: nothing is remembered."""
        return None

    def act(
        self,
        obs: np.ndarray,
        carry: Carry,
        mask: np.ndarray | None = None,
        *,
        rng: np.random.Generator,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Carry]:
        """See `Policy.act`; random even when `deterministic`, since it has no greedy action."""
        batch, n = obs.shape[:2]
        if not self._layout.discrete:
            return rng.uniform(-1.0, 1.0, self._layout.action_shape(batch, n)).astype(np.float32), carry
        legal = np.ones((batch, n, self._layout.action_dim)) if mask is None else np.asarray(mask, dtype=np.float64)
        # The largest of independent uniform numbers is uniform over the legal actions.
        return np.where(legal > 0, rng.random(legal.shape), -1.0).argmax(axis=-1), carry
