"""Compiled physics and observations of rendezvous, world by world over a slice of the batch.

Written so that the inner loops run over contiguous agents without branches, which lets LLVM vectorise them without
`fastmath`: the same numbers come out whatever the batch size, the slice or the number of threads.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

PI = math.pi
TWO_PI = 2.0 * math.pi

# arctan on [-tan(pi/8), tan(pi/8)] as an odd Taylor polynomial: coefficients (-1)^k / (2k + 1) for k = 1 ... 10.
# There the error stays below 1e-10, a hundredth of the float32 resolution that the state is reported in.
_T1, _T2, _T3, _T4, _T5 = -1 / 3, 1 / 5, -1 / 7, 1 / 9, -1 / 11
_T6, _T7, _T8, _T9, _T10 = 1 / 13, -1 / 15, 1 / 17, -1 / 19, 1 / 21


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _atan2(y, x):
    """Branch-free arctan2 in (-pi, pi], accurate to 1e-10; arctan2(0, 0) = 0."""
    ax = abs(x)
    ay = abs(y)
    low = min(ax, ay)
    high = max(ax, ay)
    # atan(low / high) lies in [0, pi/4]; turn it by -pi/8 so that the polynomial's argument is at most tan(pi/8).
    tan8 = 0.41421356237309503
    p = (low - tan8 * high) / (high + tan8 * low + 1e-300)
    q = p * p
    series = 1.0 + q * (
        _T1 + q * (_T2 + q * (_T3 + q * (_T4 + q * (_T5 + q * (_T6 + q * (_T7 + q * (_T8 + q * (_T9 + q * _T10))))))))
    )
    angle = 0.39269908169872414 + p * series
    angle = angle if high > 0.0 else 0.0
    angle = 0.5 * PI - angle if ay > ax else angle
    angle = PI - angle if x < 0.0 else angle
    return -angle if y < 0.0 else angle


@njit(cache=True, nogil=True, error_model="numpy")
def observe(first, last, poses, obs, state, size, radius):
    """Fill `obs` and `state` of worlds first <= b < last from their poses (facts: observation "fix", global state).

    Args:
        poses: (B, N, 3) float64: x, y in cm in [0, size], heading in rad in [0, 2 pi).
        obs: (B, N, 5 (N - 1) + 5 + N) float32; the one-hot ids at its end are left as they are.
        state: (B, N (N - 1) / 2 + N * N) float32.
        size: side of the arena in cm.
        radius: communication radius in cm, the unit of distances.
    """
    n = poses.shape[1]
    n_pairs = n * (n - 1) // 2
    x = np.empty(n)
    y = np.empty(n)
    heading = np.empty(n)
    c = np.empty(n)
    s = np.empty(n)
    dist = np.empty(n)
    cos_own = np.empty(n)
    sin_own = np.empty(n)
    cos_other = np.empty(n)
    sin_other = np.empty(n)
    angle = np.empty(n)
    for b in range(first, last):
        for i in range(n):
            x[i] = poses[b, i, 0]
            y[i] = poses[b, i, 1]
            heading[i] = poses[b, i, 2]
            c[i] = math.cos(heading[i])
            s[i] = math.sin(heading[i])
        pair = 0
        for i in range(n):
            xi, yi, hi, ci, si = x[i], y[i], heading[i], c[i], s[i]
            for j in range(n):
                dx = x[j] - xi
                dy = y[j] - yi
                d = math.sqrt(dx * dx + dy * dy)
                # Unit vector towards j; robots on the same spot see each other at bearing 0, as arctan2(0, 0) does.
                apart = d > 0.0
                inverse = 1.0 / (d if apart else 1.0)
                ux = dx * inverse if apart else 1.0
                uy = dy * inverse
                back = -1.0 if apart else 1.0  # the bearing from j to i is opposite
                dist[j] = d / radius
                cos_own[j] = ci * ux + si * uy
                sin_own[j] = si * ux - ci * uy
                cos_other[j] = back * (c[j] * ux + s[j] * uy)
                sin_other[j] = back * (s[j] * ux - c[j] * uy)
                a = hi - _atan2(dy, dx)
                a = a - TWO_PI if a > PI else a
                a = a - TWO_PI if a > PI else a
                angle[j] = (a + TWO_PI if a <= -PI else a) / PI
            for j in range(n):
                state[b, n_pairs + i * n + j] = angle[j]
            for j in range(i + 1, n):
                state[b, pair] = dist[j]
                pair += 1
            k = 0
            for j in range(n):
                if j != i:
                    obs[b, i, k] = dist[j]
                    obs[b, i, k + 1] = cos_own[j]
                    obs[b, i, k + 2] = sin_own[j]
                    obs[b, i, k + 3] = cos_other[j]
                    obs[b, i, k + 4] = sin_other[j]
                    k += 5
            # The nearest wall within 1 cm: right, top, left, bottom, the first on ties.
            wall, nearest = -1, 2.0
            gap = size - xi
            if gap <= 1.0:
                wall, nearest = 0, gap
            gap = size - yi
            if gap <= 1.0 and gap < nearest:
                wall, nearest = 1, gap
            if xi <= 1.0 and xi < nearest:
                wall, nearest = 2, xi
            if yi <= 1.0 and yi < nearest:
                wall, nearest = 3, yi
            if wall < 0:
                obs[b, i, k] = 1.0
                obs[b, i, k + 1] = 0.0
                obs[b, i, k + 2] = 0.0
            else:
                # cos and sin of (wall direction - heading), the wall direction being a multiple of 90 degrees.
                obs[b, i, k] = nearest
                obs[b, i, k + 1] = (ci, si, -ci, -si)[wall]
                obs[b, i, k + 2] = (-si, ci, si, -ci)[wall]
            obs[b, i, k + 3] = 0.0
            obs[b, i, k + 4] = 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def advance(
    first, last, poses, actions, velocity, rewards, terminated, size, radius, speed, turn, dt, substeps, action_cost
):
    """Move the robots of worlds first <= b < last by one step; fill `velocity`, `rewards` and `terminated`.

    Args:
        poses: (B, N, 3) float64, updated in place; see `observe`.
        actions: (B, N, 2) left and right wheel; the reward takes them raw, the motion clipped to [-1, 1].
        velocity: (B, N, 2) float64 cm/s of the last sub-step, before walls.
        rewards: (2, B) float64: distance term, action term.
        terminated: (B,) bool: all within 1 cm and (planar) stopped.
        speed: cm/s per unit of u0 + u1; turn: rad/s per unit of u1 - u0; dt: seconds per sub-step.
    """
    n = poses.shape[1]
    x = np.empty(n)
    y = np.empty(n)
    v = np.empty(n)
    w = np.empty(n)
    c = np.empty(n)
    s = np.empty(n)
    cos_turn = np.empty(n)
    sin_turn = np.empty(n)
    for b in range(first, last):
        cost = 0.0
        for i in range(n):
            left = np.float64(actions[b, i, 0])
            right = np.float64(actions[b, i, 1])
            cost += left * left + right * right
            left = min(max(left, -1.0), 1.0)
            right = min(max(right, -1.0), 1.0)
            v[i] = (left + right) * speed
            w[i] = (right - left) * turn
            x[i] = poses[b, i, 0]
            y[i] = poses[b, i, 1]
            c[i] = math.cos(poses[b, i, 2])
            s[i] = math.sin(poses[b, i, 2])
            cos_turn[i] = math.cos(w[i] * dt)
            sin_turn[i] = math.sin(w[i] * dt)
        for step in range(substeps):
            for i in range(n):
                x[i] = min(max(x[i] + v[i] * c[i] * dt, 0.0), size)
                y[i] = min(max(y[i] + v[i] * s[i] * dt, 0.0), size)
            if step < substeps - 1:  # the last sub-step's velocity uses the heading before the last turn
                for i in range(n):
                    turned = c[i] * cos_turn[i] - s[i] * sin_turn[i]
                    s[i] = s[i] * cos_turn[i] + c[i] * sin_turn[i]
                    c[i] = turned
        square = 0.0
        for i in range(n):
            vx = v[i] * c[i]
            vy = v[i] * s[i]
            velocity[b, i, 0] = vx
            velocity[b, i, 1] = vy
            square += vx * vx + vy * vy
            poses[b, i, 0] = x[i]
            poses[b, i, 1] = y[i]
            heading = (poses[b, i, 2] + substeps * (w[i] * dt)) % TWO_PI
            poses[b, i, 2] = heading if heading < TWO_PI else 0.0  # % may round a tiny negative angle up to 2 pi
        total = 0.0
        largest = 0.0
        for i in range(n):
            for j in range(i + 1, n):
                dx = x[j] - x[i]
                dy = y[j] - y[i]
                d = math.sqrt(dx * dx + dy * dy)
                total += min(d, radius)
                largest = max(largest, d)
        rewards[0, b] = -total / (radius * (n * (n - 1) // 2))
        rewards[1, b] = -action_cost * cost / (2 * n)
        terminated[b] = largest < 1.0 and square / (2 * n) < 0.01
