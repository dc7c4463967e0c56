"""Scripted policies for MuJoCo's robots: an open-loop gait, and limbs that work against the team.

Gaits are sines, one per joint, found by the search in tests/search_gaits.py: nobody looks at anything but the clock.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from mir2bench.engines.base import Layout
from mir2bench.errors import PolicyError

Gait = tuple[float, dict[str, tuple[float, float, float]]]
"""Cycles per step, and joint -> (offset, amplitude, phase in rad) of its torque."""

FORWARD: dict[frozenset[str], Gait] = {}
BACKWARD: dict[frozenset[str], Gait] = {}

_OSCILLATION = 0.1  # cycles per step
_STIFFNESS = 1.0  # torque per rad/s against a frozen joint's movement


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

    gaits: ClassVar[dict[frozenset[str], Gait]] = FORWARD

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        joints = frozenset(joint for own in layout.actuators for joint in own)
        if joints not in self.gaits:
            raise PolicyError(f"there is no scripted gait for a robot with the joints {', '.join(sorted(joints))}.")
        self._frequency, waves = self.gaits[joints]
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

    gaits: ClassVar[dict[frozenset[str], Gait]] = BACKWARD


class FreezeTraitor(_ClockPolicy):
    """Adversaries that hold their joints still, as far as their torque can; a limp limb is the idle adversary."""

    def _torque(self, obs: np.ndarray, step: np.ndarray) -> np.ndarray:
        # Observations sort own joints by name, actions do not.
        torque = np.zeros((*obs.shape[:2], self._layout.action_dim))
        who = obs[..., -self._layout.n_agents :].argmax(axis=-1)
        for agent, own in enumerate(self._layout.actuators):
            velocities = obs[..., 1 : 2 * len(own) : 2]
            for place, joint in enumerate(own):
                held = -_STIFFNESS * velocities[..., sorted(own).index(joint)]
                torque[..., place] = np.where(who == agent, held, torque[..., place])
        return torque


class OscillateTraitor(_ClockPolicy):
    """Adversaries that swing all their joints together, at full torque, once in ten steps."""

    def _torque(self, obs: np.ndarray, step: np.ndarray) -> np.ndarray:
        swing = np.sign(np.sin(2 * np.pi * _OSCILLATION * (step + 0.5)))
        return np.broadcast_to(swing[..., None], (*obs.shape[:2], self._layout.action_dim))
