"""Rendezvous: N two-wheeled robots gather in a walled square (Huettenrauch et al. 2019, in the paper's variant).

Each robot has a position in cm and a heading in rad. An action is the pair of wheel speeds (left, right) in [-1, 1];
at full speed a wheel makes 15.0688 cm/s and the axle measures 5.685 cm, as on an e-puck2. A step lasts 0.1 s: ten
Euler sub-steps of 0.01 s with the old heading, walls clip x and y in each. Robots do not collide.

Reward: - mean over pairs of min(distance, R) / R - 0.001 * mean of squared raw actions, with R = 282 cm.

Termination: all pairs closer than 1 cm and the mean squared planar velocity component below 0.01 (cm/s)^2.

Observation fields (k: the other robots in ascending order; all angles of one robot seen from another):
    distance_k [282 cm]: to the other robot.
    cos_bearing_k, sin_bearing_k []: own heading minus the direction to it; to the right is positive.
    cos_back_bearing_k, sin_back_bearing_k []: its heading minus the direction from it to this robot.
    wall_distance [cm]: to the nearest wall where that is at most 1 cm away, else 1.
    cos_wall, sin_wall []: direction to that wall minus own heading; 1 and 0 where none is near.
    unused_k []: always 0.
    id_k []: one-hot agent id.

State fields (k, l: robots):
    distance_k_l [282 cm]: between two robots.
    angle_k_l [pi rad]: heading of k minus the direction from k to l, in (-1, 1]; for k = l the heading itself.

Differences from the authors' code:
1. Their early stop and the 200-step time limit are the same `done`; here the first is a termination and the second a
   truncation.
2. Their starts come from numpy's global generator; here each world has its own.
3. Heading advances by ten equal turns at once, and cos and sin of the sub-steps by rotation: equal to theirs to about
   1e-13 a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np

from mir2bench.engines import slices
from mir2bench.engines.base import Layout
from mir2bench.engines.starts import read_numbers, read_start
from mir2bench.errors import SpecError, StateError

ARENA_SIZE = 200.0  # cm, side of the square
COMM_RADIUS = 282.0  # cm, the unit of distances; larger than nearly every distance in the arena
MARGIN = 0.05  # starts keep this share of the side away from each wall
WHEEL_SPEED = 7.5344  # cm/s of the body per unit of (left + right)
TURN_RATE = 2.65062  # rad/s of the body per unit of (right - left)
DT = 0.01  # s per sub-step
SUBSTEPS = 10  # sub-steps per step
ACTION_COST = 0.001  # weight of the mean squared action
GATHERED = 40.0  # cm; ten e-puck2 that touch each other fit into 28


class RendezvousEngine:
    """The rendezvous world for a batch of B teams; see the module's text for the physics.

    Args:
        batch: B.
        n_agents: N.
        threads: threads over the batch; None takes one per 128 worlds, at most one per core that numba may use.
    """

    scripted_teams: ClassVar[Mapping[str, str]] = {
        "idle": "mir2bench.policies:IdlePolicy",
        "random": "mir2bench.policies:RandomPolicy",
        "centroid": "mir2bench.engines.rendezvous_scripted:CentroidTeam",
        "planted": "mir2bench.engines.rendezvous_scripted:PlantedTeam",
    }
    planted: ClassVar[str] = "planted"
    scripted_traitors: ClassVar[Mapping[str, str]] = {
        "flee": "mir2bench.engines.rendezvous_scripted:FleeTraitor",
        "dodge": "mir2bench.engines.rendezvous_scripted:DodgeTraitor",
        "circle": "mir2bench.engines.rendezvous_scripted:CircleTraitor",
    }
    drawing: ClassVar[str] = "mir2bench.engines.rendezvous_drawing:draw"

    def __init__(self, batch: int, n_agents: int, *, threads: int | None = None) -> None:
        layout = self.layout(n_agents)
        self.poses = np.zeros((batch, n_agents, 3))
        self.velocity = np.zeros((batch, n_agents, 2))
        self.obs = np.zeros((batch, n_agents, layout.obs_dim), dtype=np.float32)
        self.obs[:, :, -n_agents:] = np.eye(n_agents, dtype=np.float32)
        self.state = np.zeros((batch, layout.state_dim), dtype=np.float32)
        self.mask = None
        self.reward = np.zeros(batch)
        self._terms = np.zeros((2, batch))
        self.terminated = np.zeros(batch, dtype=bool)
        self._slices = slices.cut(batch, threads)

    @property
    def channels(self) -> dict[str, np.ndarray]:
        """The reward and its two terms. Built on each call, so that a copied engine never holds another's arrays."""
        return {"team": self.reward, "distance": self._terms[0], "action": self._terms[1]}

    @classmethod
    @cache
    def layout(cls, n_agents: int) -> Layout:
        """Return sizes, names and bounds: O = 5 (N - 1) + 5 + N, S = N (N - 1) / 2 + N^2, A = 2.

        Raises:
            SpecError: fewer than two robots.
        """
        if n_agents < 2:
            raise SpecError(f"Rendezvous needs 2 or more agents, but it got {n_agents}.")
        farthest = float(np.hypot(ARENA_SIZE, ARENA_SIZE)) / COMM_RADIUS
        neighbour = ((0.0, farthest), (-1.0, 1.0), (-1.0, 1.0), (-1.0, 1.0), (-1.0, 1.0))
        wall = ((0.0, 1.0), (-1.0, 1.0), (-1.0, 1.0), (0.0, 1.0), (0.0, 1.0))
        bounds = (*neighbour * (n_agents - 1), *wall, *((0.0, 1.0),) * n_agents)
        others = [f"{name}_{k}" for k in range(n_agents - 1) for name in _NEIGHBOUR]
        pairs = [f"distance_{i}_{j}" for i in range(n_agents) for j in range(i + 1, n_agents)]
        angles = [f"angle_{i}_{j}" for i in range(n_agents) for j in range(n_agents)]
        return Layout(
            n_agents=n_agents,
            observation_fields=(*others, *_WALL, *(f"id_{i}" for i in range(n_agents))),
            state_fields=(*pairs, *angles),
            action_dim=2,
            discrete=False,
            action_fields=("left_wheel", "right_wheel"),
            obs_low=tuple(low for low, _ in bounds),
            obs_high=tuple(high for _, high in bounds),
        )

    def reset(self, worlds: Sequence[int], generators: Sequence[np.random.Generator], initial_state: Any) -> None:
        """Place the robots: x, y uniform in [10, 190] cm and headings in [0, 2 pi), or as `initial_state` says.

        Args:
            worlds: indices of worlds that start anew.
            generators: one per world.
            initial_state: None, or {"poses": (N, 3) in cm, cm, rad}; headings are taken modulo 2 pi.

        Raises:
            StateError: unknown key, wrong shape, not finite, or outside the arena.
        """
        poses = None if initial_state is None else self._check_start(initial_state)
        low = np.array([MARGIN * ARENA_SIZE, MARGIN * ARENA_SIZE, 0.0])
        span = np.array([(1 - 2 * MARGIN) * ARENA_SIZE, (1 - 2 * MARGIN) * ARENA_SIZE, 2 * np.pi])
        for world, generator in zip(worlds, generators, strict=True):
            drawn = low + span * generator.random(self.poses.shape[1:])
            self.poses[world] = drawn if poses is None else poses
            self.velocity[world] = 0.0
            _kernels().observe(world, world + 1, self.poses, self.obs, self.state, ARENA_SIZE, COMM_RADIUS)

    def step(self, actions: np.ndarray) -> None:
        """Advance all worlds by 0.1 s; `actions` is (B, N, 2)."""

        def work(first: int, last: int) -> None:
            _kernels().advance(
                first,
                last,
                self.poses,
                actions,
                self.velocity,
                self._terms,
                self.terminated,
                ARENA_SIZE,
                COMM_RADIUS,
                WHEEL_SPEED,
                TURN_RATE,
                DT,
                SUBSTEPS,
                ACTION_COST,
            )
            _kernels().observe(first, last, self.poses, self.obs, self.state, ARENA_SIZE, COMM_RADIUS)

        slices.run(work, self._slices)
        np.add(self._terms[0], self._terms[1], out=self.reward)

    def reached(self, phi: np.ndarray) -> np.ndarray:
        """Return (B,) bool: whether all robots that phi (B, N) calls no adversaries are within 40 cm of each other."""
        apart = np.linalg.norm(self.poses[:, :, None, :2] - self.poses[:, None, :, :2], axis=-1)
        team = np.asarray(phi) == 0
        return np.where(team[:, :, None] & team[:, None, :], apart, 0.0).max(axis=(1, 2)) <= GATHERED

    def snapshot(self, world: int) -> dict[str, np.ndarray]:
        """Return {"poses": (N, 3) float64} of one world, a copy."""
        return {"poses": self.poses[world].copy()}

    def _check_start(self, initial_state: Any) -> np.ndarray:
        n = self.poses.shape[1]
        given = read_start(initial_state, {"poses"}, f'{{"poses": ({n}, 3) numbers}} here')
        poses = read_numbers("poses", given["poses"], (n, 3), "x, y in cm, heading in rad")
        xy = poses[:, :2]
        bad = np.flatnonzero(~np.isfinite(poses).all(axis=1) | ~((xy >= 0) & (xy <= ARENA_SIZE)).all(axis=1))
        if bad.size:
            raise StateError(
                f"poses of agents {bad.tolist()} are not finite or outside the arena: x and y must lie in "
                f"[0, {ARENA_SIZE:g}] cm. First of them: {poses[bad[0]].tolist()}."
            )
        poses[:, 2] %= 2 * np.pi
        poses[poses[:, 2] >= 2 * np.pi, 2] = 0.0  # % may round a tiny negative angle up to 2 pi
        return poses


_NEIGHBOUR = ("distance", "cos_bearing", "sin_bearing", "cos_back_bearing", "sin_back_bearing")
_WALL = ("wall_distance", "cos_wall", "sin_wall", "unused_0", "unused_1")


@cache
def _kernels() -> Any:
    from mir2bench.engines import rendezvous_kernels  # loads numba

    return rendezvous_kernels
