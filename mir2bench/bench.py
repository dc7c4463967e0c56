"""`python -m mir2bench.bench`: how fast worlds, views and training are on this machine.

All figures are medians over several rounds in which the things compared take turns, so that a machine whose speed
drifts still gives honest ratios.
"""

from __future__ import annotations

import importlib
import itertools
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

import mir2bench
from mir2bench import cli
from mir2bench.engines.base import Worlds, ready_variants
from mir2bench.errors import ConfigError
from mir2bench.registration import VariantSpec, spec

PEER_BATCH = 64
"""Worlds in one batch when others' simulations are compared with ours."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured thing.

    Attributes:
        name: what was measured.
        unit: unit of the numbers.
        median, low, high: over the rounds.
    """

    name: str
    unit: str
    median: float
    low: float
    high: float


def compare(work: dict[str, Callable[[], float]], unit: str, rounds: int) -> list[Figure]:
    """Call every function once per round, in turn, and summarize what each returned; see `timing.take_turns`.

    Args:
        work: name -> function that does a fixed amount of work and returns its rate or time.
        unit: unit of what the functions return.
        rounds: counted rounds.
    """
    from mir2bench.analysis.timing import take_turns

    seen = take_turns(work, rounds)
    return [Figure(n, unit, float(np.median(v)), min(v), max(v)) for n, v in seen.items()]


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


def bench_training(variants: list[VariantSpec], rounds: int) -> list[Figure]:
    """Measure milliseconds per update of every defender of the shared backbone on random play, one thread."""
    from mir2bench.analysis.timing import Rig, on_backbone
    from mir2bench.defenders import list_defenders
    from mir2bench.learning.threads import one_torch_thread

    def updating(rig: Rig) -> Callable[[], float]:
        return lambda: rig.update() * 1e3

    with one_torch_thread():
        work = {
            f"{variant.id} {name}": updating(Rig(name, variant))
            for variant in variants
            for name in list_defenders()
            if on_backbone(name)
        }
        return compare(work, "ms/update", rounds)


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


def main(
    what: Literal["engines", "training"],
    /,
    env: list[str] | None = None,
    rounds: int = 7,
    json_file: Path | None = None,
) -> int:
    """Measure speed.

    Examples:
        python -m mir2bench.bench engines
        python -m mir2bench.bench training --env Rendezvous10-adv0-v0 --rounds 15

    Args:
        what: "engines" for worlds and views, "training" for the defenders' updates.
        env: variants; by default every world that can be made here once, for training Rendezvous10.
        rounds: counted rounds, of which the median is shown.
        json_file: where to write the figures with versions and hardware.
    """
    default = ["Rendezvous10-adv0-v0"] if what == "training" else ready_variants(adversaries=0)
    variants = [spec(name) for name in (env or default)]
    if rounds < 1:
        raise ConfigError(f"--rounds must be 1 or more, but it is {rounds}.")
    if json_file is not None and (json_file.is_dir() or not json_file.absolute().parent.is_dir()):
        raise ConfigError(f"cannot write {json_file}: its folder does not exist, or it is a folder itself.")
    figures = (bench_engines if what == "engines" else bench_training)(variants, rounds)
    width = max(len(f.name) for f in figures)
    for f in figures:
        print(f"{f.name:<{width}}  {f.median:>12,.2f} {f.unit}  (low {f.low:,.2f}, high {f.high:,.2f})")
    if json_file is not None:
        text = {
            "mir2bench": mir2bench.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "processor": platform.processor(),
            "numpy": np.__version__,
            "figures": [{k: getattr(f, k) for k in f.__slots__} for f in figures],
        }
        json_file.write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, prog="python -m mir2bench.bench"))
