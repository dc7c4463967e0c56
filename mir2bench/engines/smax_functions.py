"""SMAX as compiled functions over a batch of worlds. Needs JAX and JaxMARL; JAX decides on which device they run."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np


@contextlib.contextmanager
def _contained() -> Iterator[None]:
    """Undo what the imports do besides: JAX's draws from numpy's global generator, and JaxMARL's prints and points
    `sys.stdout` elsewhere.
    """
    kept = sys.stdout, sys.stderr, sys.__stdout__
    drawn = np.random.get_state()  # noqa: NPY002 - only to put it back
    sys.stdout = sys.__stdout__ = io.StringIO()  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr, sys.__stdout__ = kept  # type: ignore[misc]
        np.random.set_state(drawn)  # noqa: NPY002


with _contained():
    import jax  # type: ignore[import-not-found]
    import jax.numpy as jnp  # type: ignore[import-not-found]
    from jaxmarl.environments.smax import HeuristicEnemySMAX, Scenario  # type: ignore[import-not-found]

_NEVER = 2**31 - 1  # steps; SMAX's own time limit would be reported as a termination
_MOVES = (4, 0, 2, 1, 3)  # SMAX's numbers of stop, north, south, east, west


class Result(NamedTuple):
    """What a batch of worlds gives after a step, or at a start, where nothing is earned yet: arrays of length B."""

    obs: Any
    state: Any
    mask: Any
    reward: Any
    signed: Any
    won: Any
    lost: Any


class Functions(NamedTuple):
    """Compiled functions for one number of allies N and of enemies M, over any batch B.

    A battle is SMAX's own state with an axis B in front of each array.

    Attributes:
        start: keys (B, 2) uint32 -> battles.
        place: units (B, N + M, 4), moves (B, N + M, 2), attacks (B, N + M), goals (B, M, 2), targets (B, M) -> battles.
        choose: which (B,) bool, battles, battles -> the first where `which` is true, else the second.
        observe: battles -> Result.
        advance: battles, keys (B, 2), actions (B, N) -> battles, new keys, Result.
    """

    start: Callable[..., Any]
    place: Callable[..., Any]
    choose: Callable[..., Any]
    observe: Callable[..., Any]
    advance: Callable[..., Any]


@cache
def functions(allies: int, enemies: int) -> Functions:
    """Build the functions for one map; they are compiled when they are first called with a batch size."""
    marines = jnp.zeros(allies + enemies, dtype=jnp.uint8)
    env = HeuristicEnemySMAX(scenario=Scenario(marines, allies, enemies, False, False), max_steps=_NEVER)
    order = jnp.array([*_MOVES, *range(len(_MOVES), len(_MOVES) + enemies)])
    template = env.reset(jax.random.PRNGKey(0))[1]

    def start(key: Any) -> Any:
        return env.reset(_key(key))[1]

    def place(units: Any, moves: Any, attacks: Any, goals: Any, targets: Any) -> Any:
        battle = template.state.replace(
            unit_positions=units[:, :2],
            unit_health=units[:, 2],
            unit_alive=units[:, 2] > 0.0,
            unit_weapon_cooldowns=units[:, 3],
            prev_movement_actions=moves,
            prev_attack_actions=attacks,
        )
        memory = template.enemy_policy_state.replace(default_target=goals, last_attacked_enemy=targets)
        return template.replace(state=battle, enemy_policy_state=memory)

    def choose(which: Any, first: Any, second: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(which, a, b), first, second)

    def observe(battle: Any) -> Result:
        obs, legal = env.get_obs(battle), env.get_avail_actions(battle)
        zero = jnp.zeros(())
        return Result(
            obs=jnp.stack([obs[agent] for agent in env.agents]),
            state=env.get_world_state(battle),
            mask=jnp.stack([legal[agent] for agent in env.agents])[:, order],
            reward=zero,
            signed=zero,
            won=zero,
            lost=zero,
        )

    def advance(battle: Any, key: Any, actions: Any) -> tuple[Any, Any, Result]:
        later, now = jax.random.split(_key(key))
        before = battle.state.unit_health
        native = order[actions]
        played = {agent: native[i] for i, agent in enumerate(env.agents)}
        _, battle, rewards, _, _ = env.step_env(now, battle, played)
        alive = battle.state.unit_alive
        ours, theirs = alive[:allies].any(), alive[allies:].any()
        won, lost = (ours & ~theirs).astype(float), (theirs & ~ours).astype(float)
        full = env.unit_type_health[battle.state.unit_types]
        losses = ((before - battle.state.unit_health) / full)[:allies].sum() / allies
        reward = rewards[env.agents[0]]
        result = observe(battle)._replace(reward=reward, signed=reward - losses - lost, won=won, lost=lost)
        return battle, jax.random.key_data(later), result

    compiled = (jax.jit(jax.vmap(function)) for function in (start, place, choose, observe, advance))
    return Functions(*compiled)


def _key(data: Any) -> Any:
    return jax.random.wrap_key_data(data, impl="threefry2x32")
