"""Scripted policies for MuJoCo's robots: an open-loop gait, and limbs that work against the team.

Gaits are sines, one per joint, found by the search in tests/search_gaits.py: nobody looks at anything but the clock.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from mir2bench.engines.base import Layout
from mir2bench.engines.mamujoco_robots import ROBOTS
from mir2bench.errors import PolicyError

Gait = tuple[float, dict[str, tuple[float, float, float]]]
"""Cycles per step, and joint -> (offset, amplitude, phase in rad) of its torque."""

_FORWARD: tuple[Gait, ...] = (
    (  # HalfCheetah: 1,010 in 250 steps
        0.1937,
        {
            "bthigh": (0.37, -1.5, 0.23),
            "bshin": (-0.08, -1.35, 1.92),
            "bfoot": (-0.35, -0.76, -0.48),
            "fthigh": (-0.3, 0.9, -0.87),
            "fshin": (-0.18, 1.3, -0.22),
            "ffoot": (-0.37, 0.34, -7.33),
        },
    ),
    (  # Hopper: 208 in 250 steps
        0.2369,
        {"thigh_joint": (0.01, 1.41, 0.24), "leg_joint": (0.32, -1.28, 1.55), "foot_joint": (0.2, 1.31, 0.71)},
    ),
    (  # Walker2d: 305 in 250 steps
        0.2124,
        {
            "foot_joint": (0.83, 1.46, 1.72),
            "leg_joint": (0.79, -0.56, 0.04),
            "thigh_joint": (0.66, 1.4, 0.22),
            "foot_left_joint": (0.29, -0.36, 0.22),
            "leg_left_joint": (0.82, 0.44, -0.59),
            "thigh_left_joint": (0.81, 0.12, -0.48),
        },
    ),
    (  # Ant: 35 in 150 steps, most of it for staying up
        0.1756,
        {
            "hip1": (-0.35, 0.33, -1.57),
            "ankle1": (0.26, 1.09, -0.19),
            "hip2": (0.39, -1.26, 0.4),
            "ankle2": (0.2, 0.31, 0.51),
            "hip3": (-0.46, 1.49, 1.13),
            "ankle3": (0.31, -0.23, -0.76),
            "hip4": (-0.31, 0.6, -4.39),
            "ankle4": (-0.31, 0.12, 0.27),
        },
    ),
)
_BACKWARD: tuple[Gait, ...] = (
    (  # HalfCheetah: -1,152 in 250 steps
        0.2446,
        {
            "bthigh": (-0.24, -1.29, -0.05),
            "bshin": (-0.2, 1.48, 1.51),
            "bfoot": (-0.4, 0.53, -2.13),
            "fthigh": (-0.12, -1.45, 2.37),
            "fshin": (-0.08, 1.47, 1.53),
            "ffoot": (-0.92, 0.21, 1.21),
        },
    ),
    (  # Hopper: falls at once, -4
        0.0525,
        {"thigh_joint": (0.81, -1.41, -0.27), "leg_joint": (0.46, 0.07, 0.02), "foot_joint": (-1.0, -0.02, -0.11)},
    ),
    (  # Walker2d: falls soon, 71
        0.084,
        {
            "foot_joint": (-0.77, -1.46, -0.24),
            "leg_joint": (0.69, -0.6, -0.54),
            "thigh_joint": (0.58, 0.21, 0.79),
            "foot_left_joint": (0.51, -1.06, 1.95),
            "leg_left_joint": (0.44, 1.39, -0.3),
            "thigh_left_joint": (0.49, -1.49, 0.1),
        },
    ),
    (  # Ant: -396 in 150 steps
        0.2491,
        {
            "hip1": (0.48, 1.16, -0.18),
            "ankle1": (-1.0, 0.01, -0.82),
            "hip2": (0.43, 1.39, 1.23),
            "ankle2": (-1.0, 1.49, 0.26),
            "hip3": (-0.93, 0.0, 0.42),
            "ankle3": (-0.58, -1.48, -0.83),
            "hip4": (0.03, -1.5, 0.8),
            "ankle4": (-0.97, -0.34, 0.1),
        },
    ),
)

_OSCILLATION = 0.1  # cycles per step
_BRAKES = {"HalfCheetah": 1.0, "Ant": 0.1, "Hopper": 1.0, "Walker2d": 0.08}
"""Torque per rad/s against a frozen joint's movement, see `FreezeTraitor`."""


class _ClockPolicy:
    """What policies share that remember the number of the step, (B, 1), and nothing else."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def initial_carry(self, batch: int) -> Any:
        """Return zeros, (B, 1): the episode's first step."""
        return np.zeros((batch, 1))

    def act(
        self,
        obs: np.ndarray,
        carry: Any,
        mask: np.ndarray | None = None,
        *,
        rng: np.random.Generator,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """See `mir2bench.policies.Policy.act`."""
        return np.clip(self._torque(np.asarray(obs), carry), -1.0, 1.0).astype(np.float32), carry + 1

    def _torque(self, obs: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Return torques (B, n, A) before they are cut to [-1, 1]; `step` is (B, 1)."""
        raise NotImplementedError


class GallopTeam(_ClockPolicy):
    """All joints follow the best open-loop gait that a random search found. It is a sanity row: a team that learns must
    beat it.
    """

    gaits: ClassVar[tuple[Gait, ...]] = _FORWARD

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        joints = {joint for own in layout.actuators for joint in own}
        found = [gait for gait in self.gaits if gait[1].keys() == joints]
        if not found:
            raise PolicyError(f"there is no scripted gait for a robot with the joints {', '.join(sorted(joints))}.")
        self._frequency, waves = found[0]
        self._waves = np.zeros((layout.n_agents, layout.action_dim, 3))
        for agent, own in enumerate(layout.actuators):
            self._waves[agent, : len(own)] = [waves[joint] for joint in own]

    def _torque(self, obs: np.ndarray, step: np.ndarray) -> np.ndarray:
        # Adversaries are a part of the team: each row's id says whose limbs it moves.
        who = obs[..., -self._layout.n_agents :].argmax(axis=-1)
        offset, amplitude, phase = np.moveaxis(self._waves[who], -1, 0)
        return offset + amplitude * np.sin(2 * np.pi * self._frequency * step[..., None] + phase)


class BackwardTraitor(GallopTeam):
    """Adversaries whose limbs do their part of the gait that runs backward fastest, or falls soonest."""

    gaits: ClassVar[tuple[Gait, ...]] = _BACKWARD


class FreezeTraitor(_ClockPolicy):
    """Adversaries that brake their joints: torque against each joint's velocity, held for a step.

    Too much of it turns a light joint around within the step. Mean speed in rad/s of an adversary's joints in a random
    team (16 worlds, 150 steps, mean over legs or joints), limp and then braked with gains up to 1.0:

    - Ant: 0.31; 0.12 with 0.1 (taken) to 0.2, above 3 with 0.3 and more.
    - Hopper: 0.41; falls all the way to 0.09 with 1.0 (taken).
    - Walker2d: 3.4; 2.1 with 0.08 (taken), 4.6 with 0.15. A light leg that kicks around can only be slowed.
    - HalfCheetah 2x3: 0.75; 0.70 at best, with 0.03, and above 12 with 0.1 and more. No gain holds it, so 1.0 stays,
      with which results are published: the limb does not freeze, it trembles at full torque.

    Raises:
        PolicyError: another robot, or one whose agents do not see their joints' velocities.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        joints, fields = {joint for own in layout.actuators for joint in own}, layout.observation_fields
        robots = [name for name, robot in ROBOTS.items() if set(robot.joints) == joints]
        if not robots or "own_0_velocity" not in fields:
            raise PolicyError(f"there are no scripted brakes for a robot with the joints {', '.join(sorted(joints))}.")
        self._gain = _BRAKES[robots[0]]
        self._velocities = [fields.index(f"own_{k}_velocity") for k in range(layout.action_dim)]

    def _torque(self, obs: np.ndarray, step: np.ndarray) -> np.ndarray:
        # Observations sort own joints by name, actions do not.
        torque = np.zeros((*obs.shape[:2], self._layout.action_dim))
        who = obs[..., -self._layout.n_agents :].argmax(axis=-1)
        for agent, own in enumerate(self._layout.actuators):
            for place, joint in enumerate(own):
                held = -self._gain * obs[..., self._velocities[sorted(own).index(joint)]]
                torque[..., place] = np.where(who == agent, held, torque[..., place])
        return torque


class OscillateTraitor(_ClockPolicy):
    """Adversaries that swing all their joints together, at full torque, once in ten steps."""

    def _torque(self, obs: np.ndarray, step: np.ndarray) -> np.ndarray:
        swing = np.sign(np.sin(2 * np.pi * _OSCILLATION * (step + 0.5)))
        return np.broadcast_to(swing[..., None], (*obs.shape[:2], self._layout.action_dim))
