"""Environment steps per second of worlds, of their views, and of others' simulations of the same world."""

from __future__ import annotations

import importlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mir2bench.engines.base import Worlds, ready_variants
from mir2bench.registration import VariantSpec, spec
from mir2bench.speed import Figure, Options, compare

PEER_BATCH = 64
"""Worlds in one batch when others' simulations are compared with ours."""


@dataclass(frozen=True)
class Engines(Options):
    """Environment steps per second by variant, batch and view, beside every other simulation that is installed.

    How cost grows with agents is seen by naming variants of several sizes; it does not depend on the horizon.

    Examples:
        python -m mir2bench.bench engines
        python -m mir2bench.bench engines --env Rendezvous5-adv0-v0 Rendezvous10-adv0-v0 Rendezvous20-adv0-v0 --rounds 3
    """

    env: tuple[str, ...] = ()
    """Variants; by default every world that can be made here once."""

    def measure(self) -> list[Figure]:
        """Return environment steps per second."""
        names = self.env or ready_variants(adversaries=0)
        return bench_engines([spec(name) for name in names], self.rounds)


def bench_engines(variants: list[VariantSpec], rounds: int) -> list[Figure]:
    """Measure environment steps per second of worlds by batch, of the Gymnasium views, and of others' simulations.

    Actions are random. Where they may be illegal, choosing legal ones is part of the measured work.
    """
    import gymnasium

    work: dict[str, Callable[[], float]] = {}
    for variant in variants:
        for batch in (1, 32, PEER_BATCH, 512, 1024):
            worlds = Worlds(variant, batch)
            worlds.reset(seeds=range(batch))
            work[f"{variant.id} worlds, batch {batch}"] = _rate(_step_worlds(worlds, _player(variant, batch)), batch)
        work[f"{variant.id} gymnasium.make"] = _rate(_step_env(gymnasium.make(variant.id), _player(variant, 1)), 1)
        for name, step in _peers(variant):
            work[f"{variant.id} {name}, {PEER_BATCH} worlds"] = _rate(step, PEER_BATCH)
        vector = gymnasium.make_vec(variant.id, num_envs=256)
        work[f"{variant.id} gymnasium.make_vec, 256 worlds"] = _rate(_step_vector(vector, _player(variant, 256)), 256)
    return compare(work, "environment steps/s", rounds)


def _peers(variant: VariantSpec) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the other simulations of a world that are installed here."""
    for name, reference in getattr(variant.engine_class, "peers", {}).items():
        module, _, function = reference.partition(":")
        try:
            yield name, getattr(importlib.import_module(module), function)(variant, PEER_BATCH)
        except ImportError:
            continue


def _player(variant: VariantSpec, batch: int) -> Callable[[np.ndarray | None], np.ndarray]:
    """Return a function mask -> actions that costs little: always the same ones, or random legal ones."""
    layout, rng = variant.layout, np.random.default_rng(0)
    if not layout.discrete:
        actions = rng.uniform(-1, 1, layout.action_shape(batch)).astype(np.float32)
        return lambda mask: actions
    scores = itertools.cycle(rng.random((4, *layout.action_shape(batch), layout.action_dim), dtype=np.float32))
    return lambda mask: np.where(np.asarray(mask) > 0, next(scores), -1.0).argmax(axis=-1)


def _step_worlds(worlds: Worlds, player: Callable[[np.ndarray | None], np.ndarray]) -> Callable[[], None]:
    def step() -> None:
        worlds.step(player(worlds.engine.mask))
        if worlds.done.any():
            worlds.reset(np.flatnonzero(worlds.done))

    return step


def _step_env(env: Any, player: Callable[[np.ndarray | None], np.ndarray]) -> Callable[[], None]:
    mask = env.reset(seed=0)[1].get("action_mask")

    def step() -> None:
        nonlocal mask
        _, _, terminated, truncated, info = env.step(player(mask[None] if mask is not None else None)[0])
        if terminated or truncated:
            _, info = env.reset()
        mask = info.get("action_mask")

    return step


def _step_vector(vector: Any, player: Callable[[np.ndarray | None], np.ndarray]) -> Callable[[], None]:
    mask = vector.reset(seed=0)[1].get("action_mask")

    def step() -> None:
        nonlocal mask
        mask = vector.step(player(mask))[4].get("action_mask")

    return step


def _rate(step: Callable[[], object], batch: int) -> Callable[[], float]:
    """Return a function that steps for about 0.2 s and tells the environment steps per second."""

    def measure() -> float:
        done, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < 0.2 or done == 0:
            for _ in range(10):
                step()
            done += 10
        return done * batch / spent

    return measure
