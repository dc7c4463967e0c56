"""Compiled battle and observations of the Skirmish worlds, world by world over a slice of the batch.

Without `fastmath`: the same numbers come out whatever the batch size, the slice or the number of threads. Both kernels
compile for one signature only, so that every map shares one compilation. Numba's cache looks at this file alone: after
a change of a constant in `skirmish_units`, touch this file too.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from mir2bench.engines.skirmish_units import (
    ALLY_START,
    DEATH_VALUE,
    FIRST_ATTACK,
    LOOPS,
    MAX_X,
    MAX_Y,
    MOVE_AMOUNT,
    SIGHT,
    SIZE,
    STRIP,
    TARGET_RANGE,
    WIN_VALUE,
)

X, Y, HEALTH, COOLDOWN = range(4)  # columns of `units`
MAX_HEALTH, RADIUS, SPEED, DAMAGE, RANGE, PERIOD, SCAN, COOLDOWN_UNIT = range(8)  # columns of `stats`
STOP, NORTH, SOUTH, EAST, WEST = 1, 2, 3, 4, 5  # actions
NOBODY, STANDING = -1, -2  # whom a unit attacks if none: it walks to its goal, or stays where it is

_options = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(**_options)
def _acquire(e, n, x, y, health, target, stats):
    """Return whom enemy `e` attacks now: its target if it may keep it, else the nearest it may choose, or NOBODY.

    It keeps a living target within its weapon's range, and beyond it one that attacks back. It chooses the nearest ally
    within scan range; where there is none, the nearest of those that attack it.
    """
    kept = target[e]
    if kept >= 0 and health[kept] > 0.0:
        dx = x[kept] - x[e]
        dy = y[kept] - y[e]
        reach = stats[e, RANGE] + stats[e, RADIUS] + stats[kept, RADIUS]
        if target[kept] == e or dx * dx + dy * dy <= reach * reach:
            return kept
    scanned = attacker = NOBODY
    scanned_square = attacker_square = np.inf
    for i in range(n):
        if health[i] > 0.0:
            dx = x[i] - x[e]
            dy = y[i] - y[e]
            square = dx * dx + dy * dy
            scan = stats[e, SCAN] + stats[i, RADIUS]
            if square < scan * scan and square < scanned_square:
                scanned, scanned_square = i, square
            if target[i] == e and square < attacker_square:
                attacker, attacker_square = i, square
    return scanned if scanned >= 0 else attacker


@njit(**_options)
def _push_apart(x, y, health, stats, shift_x, shift_y):
    """Move overlapping units apart, each by half of what parts the two; all pairs at once."""
    n_units = len(x)
    shift_x[:] = 0.0
    shift_y[:] = 0.0
    touched = False
    for i in range(n_units):
        if health[i] <= 0.0:
            continue
        for j in range(i + 1, n_units):
            dx = x[i] - x[j]
            dy = y[i] - y[j]
            both = stats[i, RADIUS] + stats[j, RADIUS]
            square = dx * dx + dy * dy
            if square < both * both and health[j] > 0.0:
                touched = True
                if square > 0.0:
                    half = 0.5 * (both / math.sqrt(square) - 1.0)
                    dx *= half
                    dy *= half
                else:  # on one spot: apart along x, by their order
                    dx = -0.5 * both
                shift_x[i] += dx
                shift_y[i] += dy
                shift_x[j] -= dx
                shift_y[j] -= dy
    if touched:
        for i in range(n_units):
            x[i] = min(max(x[i] + shift_x[i], 0.0), MAX_X)
            y[i] = min(max(y[i] + shift_y[i], STRIP[0]), MAX_Y)


@njit(**_options)
def advance(first, last, units, targets, last_actions, actions, stats, scale, rewards, terminated, shots, n_shots):
    """Play one step of worlds first <= b < last.

    A game loop: orders whose target has died lapse, and enemies choose targets; then every living unit shoots, waits or
    walks, all judged by the places and health at the loop's start; then all damage is dealt at once, all move, and
    those that overlap are pushed apart.

    Args:
        units: (B, N + M, 4) float64: x, y, health, cooldown in game loops; allies first; updated in place.
        targets: (B, M) int64: the ally that each enemy attacks, or -1; updated in place.
        last_actions: (B, N) int64; receives `actions`.
        actions: (B, N) int64, legal ones.
        stats: (N + M, 8) float64: the columns above.
        scale: reward for one hit point.
        rewards: (4, B) float64; receives the team's reward, the signed reward, and 1 or 0 for a victory and a defeat.
        terminated: (B,) bool: one side is dead.
        shots: (B, K, 4) float64; receives from where to where each shot of this step went.
        n_shots: (B,) int64; receives how many of its rows hold.
    """
    n_units = units.shape[1]
    n = actions.shape[1]
    x = np.empty(n_units)
    y = np.empty(n_units)
    health = np.empty(n_units)
    cooldown = np.empty(n_units)
    move_x = np.empty(n_units)
    move_y = np.empty(n_units)
    goal_x = np.empty(n_units)
    goal_y = np.empty(n_units)
    harm = np.empty(n_units)
    target = np.empty(n_units, np.int64)
    for b in range(first, last):
        for i in range(n_units):
            x[i] = units[b, i, X]
            y[i] = units[b, i, Y]
            health[i] = units[b, i, HEALTH]
            cooldown[i] = units[b, i, COOLDOWN]
        for i in range(n):
            action = actions[b, i]
            last_actions[b, i] = action
            if action >= FIRST_ATTACK:
                target[i] = n + action - FIRST_ATTACK
            else:
                target[i] = NOBODY if action >= NORTH else STANDING
            goal_x[i] = x[i] + (MOVE_AMOUNT if action == EAST else (-MOVE_AMOUNT if action == WEST else 0.0))
            goal_y[i] = y[i] + (MOVE_AMOUNT if action == NORTH else (-MOVE_AMOUNT if action == SOUTH else 0.0))
        for e in range(n, n_units):
            target[e] = targets[b, e - n]
            goal_x[e] = ALLY_START[0]
            goal_y[e] = ALLY_START[1]
        fired = 0
        for _ in range(LOOPS):
            for i in range(n):
                if target[i] >= 0 and health[target[i]] <= 0.0:
                    target[i] = STANDING
            for e in range(n, n_units):
                if health[e] > 0.0:
                    target[e] = _acquire(e, n, x, y, health, target, stats)
            harm[:] = 0.0
            for i in range(n_units):
                move_x[i] = 0.0
                move_y[i] = 0.0
                if health[i] <= 0.0:
                    continue
                # What a cooldown falls below zero shortens the next one, so that the mean period holds.
                left = cooldown[i] - 1.0 if cooldown[i] > 0.0 else 0.0
                speed = stats[i, SPEED]
                j = target[i]
                if j >= 0:
                    dx = x[j] - x[i]
                    dy = y[j] - y[i]
                    square = dx * dx + dy * dy
                    reach = stats[i, RANGE] + stats[i, RADIUS] + stats[j, RADIUS]
                    if square > reach * reach:
                        share = speed / math.sqrt(square)
                        move_x[i] = dx * share
                        move_y[i] = dy * share
                    elif left <= 0.0:
                        harm[j] += stats[i, DAMAGE]
                        left += stats[i, PERIOD]
                        shots[b, fired, 0] = x[i]
                        shots[b, fired, 1] = y[i]
                        shots[b, fired, 2] = x[j]
                        shots[b, fired, 3] = y[j]
                        fired += 1
                elif j == NOBODY:
                    dx = goal_x[i] - x[i]
                    dy = goal_y[i] - y[i]
                    square = dx * dx + dy * dy
                    share = speed / math.sqrt(square) if square > speed * speed else 1.0
                    move_x[i] = dx * share
                    move_y[i] = dy * share
                cooldown[i] = left if left > 0.0 else 0.0
            for i in range(n_units):
                if health[i] > 0.0:
                    health[i] = max(health[i] - harm[i], 0.0)
                    x[i] = min(max(x[i] + move_x[i], 0.0), MAX_X)
                    y[i] = min(max(y[i] + move_y[i], STRIP[0]), MAX_Y)
            _push_apart(x, y, health, stats, move_x, move_y)
        n_shots[b] = fired
        gained = price = 0.0
        allies = enemies = 0
        for i in range(n_units):
            value = units[b, i, HEALTH] - health[i]
            if health[i] > 0.0:
                allies += i < n
                enemies += i >= n
            else:
                cooldown[i] = 0.0
                if value > 0.0:
                    value += DEATH_VALUE
            if i < n:
                price += value
            else:
                gained += value
            units[b, i, X] = x[i]
            units[b, i, Y] = y[i]
            units[b, i, HEALTH] = health[i]
            units[b, i, COOLDOWN] = cooldown[i]
        for e in range(n, n_units):
            alive = health[e] > 0.0 and target[e] >= 0 and health[target[e]] > 0.0
            targets[b, e - n] = target[e] if alive else NOBODY
        terminated[b] = allies == 0 or enemies == 0
        won = 1.0 if enemies == 0 and allies > 0 else 0.0
        lost = 1.0 if allies == 0 and enemies > 0 else 0.0
        rewards[0, b] = scale * (gained + WIN_VALUE * won)
        rewards[1, b] = scale * (gained - price + WIN_VALUE * (won - lost))
        rewards[2, b] = won
        rewards[3, b] = lost


@njit(**_options)
def _walkable(x, y):
    """Return whether the cell of a point, its coordinates truncated towards zero, can be walked on."""
    column = int(x)
    row = int(y)
    return column >= 0 and column < SIZE and row >= STRIP[0] and row < STRIP[1]


@njit(**_options)
def observe(first, last, worlds, units, last_actions, stats, obs, state, mask):
    """Fill `obs`, `state` and `mask` of the worlds worlds[first:last].

    Args:
        worlds: (K,) int64 indices into the batch.
        units: see `advance`.
        last_actions: (B, N) int64, -1 where nothing was played yet.
        stats: see `advance`.
        obs: (B, N, 4 + 5 M + 5 (N - 1) + 1 + N) float32; the one-hot ids at its end are left as they are.
        state: (B, 4 N + 3 M + N A) float32.
        mask: (B, N, A) int8.
    """
    n_units = units.shape[1]
    n = last_actions.shape[1]
    n_actions = mask.shape[2]
    own = obs.shape[2] - n - 1  # index of the observer's own health
    for k in range(first, last):
        b = worlds[k]
        place = 0
        for i in range(n_units):
            alive = units[b, i, HEALTH] > 0.0
            state[b, place] = units[b, i, HEALTH] / stats[i, MAX_HEALTH]
            place += 1
            if i < n:
                state[b, place] = units[b, i, COOLDOWN] / stats[i, COOLDOWN_UNIT]
                place += 1
            state[b, place] = (units[b, i, X] - 0.5 * SIZE) / SIZE if alive else 0.0
            state[b, place + 1] = (units[b, i, Y] - 0.5 * SIZE) / SIZE if alive else 0.0
            place += 2
        for i in range(n):
            for a in range(n_actions):
                state[b, place + a] = 0.0
            if last_actions[b, i] >= 0:
                state[b, place + last_actions[b, i]] = 1.0
            place += n_actions
        for i in range(n):
            for a in range(n_actions):
                mask[b, i, a] = 0
            for a in range(own + 1):
                obs[b, i, a] = 0.0
            if units[b, i, HEALTH] <= 0.0:
                mask[b, i, 0] = 1
                continue
            x = units[b, i, X]
            y = units[b, i, Y]
            mask[b, i, STOP] = 1
            mask[b, i, NORTH] = _walkable(x, y + 1.0)
            mask[b, i, SOUTH] = _walkable(x, y - 1.0)
            mask[b, i, EAST] = _walkable(x + 1.0, y)
            mask[b, i, WEST] = _walkable(x - 1.0, y)
            for a in range(4):
                obs[b, i, a] = mask[b, i, NORTH + a]
            obs[b, i, own] = units[b, i, HEALTH] / stats[i, MAX_HEALTH]
            # Enemies first, then the other allies.
            place = 4
            for u in range(n_units - 1):
                j = n + u if u < n_units - n else u - (n_units - n)
                if j < n and j >= i:
                    j += 1
                if units[b, j, HEALTH] > 0.0:
                    dx = units[b, j, X] - x
                    dy = units[b, j, Y] - y
                    square = dx * dx + dy * dy
                    if j >= n and square <= TARGET_RANGE * TARGET_RANGE:
                        mask[b, i, FIRST_ATTACK + j - n] = 1
                    if square < SIGHT * SIGHT:
                        obs[b, i, place] = mask[b, i, FIRST_ATTACK + j - n] if j >= n else 1
                        obs[b, i, place + 1] = math.sqrt(square) / SIGHT
                        obs[b, i, place + 2] = dx / SIGHT
                        obs[b, i, place + 3] = dy / SIGHT
                        obs[b, i, place + 4] = units[b, j, HEALTH] / stats[j, MAX_HEALTH]
                place += 5
