"""What the views share: spaces, reset options, info and drawing."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from gymnasium import spaces

from mir2bench.engines.base import Layout, Worlds
from mir2bench.errors import ConfigError, unknown_name

RENDER_MODES = ("rgb_array",)
METADATA: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 10}
RESET_OPTIONS = ("phi", "initial_state")

Draw = Callable[[Sequence[Mapping[str, np.ndarray]], np.ndarray, Any], np.ndarray]
"""(history, phi, variant) -> (H, W, 3) uint8; `history` holds the episode's snapshots, the present one last."""


def observation_bounds(layout: Layout, n_agents: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest observation of n agents, each (n, O) float32."""
    low = layout.obs_low or (-np.inf,) * layout.obs_dim
    high = layout.obs_high or (np.inf,) * layout.obs_dim
    return np.tile(np.array(low, np.float32), (n_agents, 1)), np.tile(np.array(high, np.float32), (n_agents, 1))


def observation_space(layout: Layout) -> spaces.Box:
    """Return the team's observation space, (N, O) float32."""
    return spaces.Box(*observation_bounds(layout, layout.n_agents), dtype=np.float32)


def action_space(layout: Layout) -> spaces.Box | spaces.MultiDiscrete:
    """Return the team's action space: Box (N, A) in [-1, 1], or MultiDiscrete([A] * N)."""
    if layout.discrete:
        return spaces.MultiDiscrete([layout.action_dim] * layout.n_agents)
    return spaces.Box(-1.0, 1.0, (layout.n_agents, layout.action_dim), np.float32)


def read_options(options: Mapping[str, Any] | None, allowed: Sequence[str] = RESET_OPTIONS) -> dict[str, Any]:
    """Return a copy of a caller's reset options.

    Raises:
        UnknownNameError: an option does not exist.
    """
    given = dict(options or {})
    for key in given:
        if key not in allowed:
            raise unknown_name("reset option", str(key), allowed)
    return given


def check_render_mode(mode: str | None) -> str | None:
    """Return `mode`.

    Raises:
        ConfigError: the mode does not exist.
    """
    if mode is not None and mode not in RENDER_MODES:
        raise ConfigError(
            f"render_mode {mode!r} does not exist. Give one of: None, {', '.join(map(repr, RENDER_MODES))}."
        )
    return mode


def worlds_info(worlds: Worlds) -> dict[str, np.ndarray]:
    """Return what `info` reports, for the whole batch and as copies.

    Returns:
        "phi" (B, N) int8, "state" (B, S) float32; in worlds with masks "action_mask" (B, N, A) int8 and
        "illegal_actions" (B,) int64; in worlds that can crash or become unstable "interrupted" (B,) bool, whether the
        last step lost the episode to that (it is truncated then).
    """
    engine = worlds.engine
    info = {"phi": worlds.phi.copy(), "state": engine.state.copy()}
    if engine.mask is not None:
        info["action_mask"] = engine.mask.copy()
        info["illegal_actions"] = worlds.illegal_actions.copy()
    interrupted = getattr(engine, "interrupted", None)
    if interrupted is not None:
        info["interrupted"] = interrupted.copy()
    return info


@cache
def load_drawing(reference: str) -> Draw:
    """Import an engine's `drawing`, given as "module:function"."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


DrawTrajectories = Callable[[Sequence[Mapping[str, np.ndarray]], np.ndarray, Any, Any], None]
"""(history, phi, variant, axes) -> None; draws a whole episode into matplotlib axes, final positions as stars."""


def load_trajectories(reference: str) -> DrawTrajectories | None:
    """Return `draw_trajectories` of the module of an engine's `drawing`, or None if it has none."""
    return getattr(importlib.import_module(reference.partition(":")[0]), "draw_trajectories", None)


def no_render_mode(name: str) -> ConfigError:
    """Build the error for `render()` without a render mode."""
    return ConfigError(f"render() has nothing to draw for: make {name} with render_mode='rgb_array'.")
