"""Compiled physics of the arena: rendezvous, one sub-step at a time, with bodies that push each other."""

from __future__ import annotations

import math

from numba import njit

from mir2bench.engines.rendezvous_kernels import advance, observe

__all__ = ["drive", "observe", "settle"]

_ROUNDS = 50  # enough for ten bodies that start on one spot
_SWEEPS = 4  # per sub-step, in which a robot moves 0.15 cm


@njit(cache=True, nogil=True, error_model="numpy")
def _push_apart(first, last, poses, size, body, sweeps):
    """Move overlapping bodies apart by half the overlap each, and all of them inside the walls."""
    n = poses.shape[1]
    for b in range(first, last):
        for _ in range(sweeps):
            moved = False
            for i in range(n):
                for j in range(i + 1, n):
                    dx = poses[b, j, 0] - poses[b, i, 0]
                    dy = poses[b, j, 1] - poses[b, i, 1]
                    square = dx * dx + dy * dy
                    if square >= 4.0 * body * body:
                        continue
                    moved = True
                    d = math.sqrt(square)
                    # On one spot there is no direction: any that differs from pair to pair will do.
                    ux = dx / d if d > 1e-9 else math.cos(1.0 * i + 2.4 * j)
                    uy = dy / d if d > 1e-9 else math.sin(1.0 * i + 2.4 * j)
                    half = 0.5 * (2.0 * body - d)
                    poses[b, i, 0] -= half * ux
                    poses[b, i, 1] -= half * uy
                    poses[b, j, 0] += half * ux
                    poses[b, j, 1] += half * uy
            for i in range(n):
                poses[b, i, 0] = min(max(poses[b, i, 0], body), size - body)
                poses[b, i, 1] = min(max(poses[b, i, 1], body), size - body)
            if not moved:
                break


@njit(cache=True, nogil=True, error_model="numpy")
def settle(first, last, poses, size, body):
    """Push the bodies of worlds first <= b < last apart until none overlaps by more than a trifle; see `drive`."""
    if body > 0.0:
        _push_apart(first, last, poses, size, body, _ROUNDS)


@njit(cache=True, nogil=True, error_model="numpy")
def drive(
    first,
    last,
    poses,
    actions,
    wheels,
    late,
    velocity,
    rewards,
    terminated,
    size,
    radius,
    speed,
    turn,
    dt,
    substeps,
    action_cost,
    body,
):
    """Move the robots of worlds first <= b < last by one step; all as in `rendezvous_kernels.advance`, and:

    Args:
        wheels: (D, B, N, 2) what the wheels do with the commands of this step, of the step before, ...
        late: sub-steps until a command reaches the wheels.
        body: radius of the robots in cm; 0 for none.
    """
    halves = 0.5 * wheels[:, first:last]  # faulty wheels may be faster than `advance` lets them: half of twice the speed
    for k in range(substeps):
        age = (late - k + substeps - 1) // substeps if k < late else 0
        advance(
            0,
            last - first,
            poses[first:last],
            halves[age],
            velocity[first:last],
            rewards[:, first:last],
            terminated[first:last],
            size,
            radius,
            2.0 * speed,
            2.0 * turn,
            dt,
            1,
            action_cost,
        )
        if body > 0.0:
            _push_apart(first, last, poses, size, body, _SWEEPS)
    # No sub-steps: only measure what was reached, and charge what was chosen.
    advance(first, last, poses, actions, velocity, rewards, terminated, size, radius, speed, turn, dt, 0, action_cost)
