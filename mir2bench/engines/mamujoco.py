"""Multi-agent MuJoCo: one robot whose joints are divided among N agents, many robots at once.

The meaning of every number is that of Gymnasium-Robotics' MaMuJoCo v1 (which stands on Gymnasium's -v5 robots): from
equal positions, velocities and actions both give the same observations, states, rewards and ends. `torso=False` hides
the torso from all agents, as in the paper (there it is `global_categories=()`).

Observation of agent i: angle and velocity of each own joint, sorted by the joints' names (Ant: also the contact forces
on the bodies that the joint connects); angles of all joints up to `agent_obsk` links away, nearest first; the torso's
positions and velocities, unless hidden; the agent id. Agents with fewer joints than others see 0 in their places.
State: what Gymnasium's robot observes.

Reward: forward speed in m/s + survival reward if healthy - control cost - contact cost. Termination: unhealthy.

Observation fields (k: joints or bodies in the order above):
    own_k_angle [rad]: of an own joint.
    own_k_velocity [rad/s]: of an own joint.
    own_body_k_force_* []: contact force on a body, clipped to [-1, 1].
    near_k_angle [rad]: of another joint.
    torso_* [m, rad, m/s, rad/s]: positions and velocities of the torso, without its place on the ground.
    id_k []: one-hot agent id.

State fields:
    torso_* [m, rad]: positions of the torso.
    angle_* [rad]: of a joint.
    velocity_* [m/s, rad/s]: of the torso or a joint.
    force_*_* []: contact force on a body, clipped to [-1, 1].

Differences from the authors' code (gym's HalfCheetah-v2 under their own wrapper):
1. An agent's actions drive thigh, shin, foot; theirs drive foot, shin, thigh. Observations are in the same order.
2. MuJoCo 3 in place of 2: numbers got with one are not comparable with the other's.
3. The time limit of 1,000 steps is a truncation; theirs counts as a terminal state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np

from mir2bench.engines.base import Layout
from mir2bench.engines.mamujoco_physics import BatchSimulations, ForceSimulations, thread_count
from mir2bench.engines.mamujoco_robots import CONTACT_COST, split, state_fields
from mir2bench.engines.starts import read_numbers, read_start
from mir2bench.errors import SpecError, StateError

LIMIT = 1e10
"""MuJoCo calls a simulation unstable when a position or velocity passes this."""

_TERMS = ("forward", "survive", "control", "contact")


class MamujocoEngine:
    """One of MuJoCo's robots for a batch of B teams; see the module's text.

    Args:
        batch: B.
        n_agents: N, which must be what the partition says.
        scenario: HalfCheetah, Ant, Hopper or Walker2d.
        partition: who moves which joints, such as "2x3".
        agent_obsk: how many links away agents see joints.
        torso: whether agents see the torso.
        threads: see `mamujoco_physics.thread_count`; results do not depend on it.

    Raises:
        SpecError: unknown scenario or partition, or another number of agents.
    """

    scripted_teams: ClassVar[Mapping[str, str]] = {
        "idle": "mir2bench.policies:IdlePolicy",
        "random": "mir2bench.policies:RandomPolicy",
        "gallop": "mir2bench.engines.mamujoco_scripted:GallopTeam",
    }
    planted: ClassVar[str] = ""
    scripted_traitors: ClassVar[Mapping[str, str]] = {
        "backward": "mir2bench.engines.mamujoco_scripted:BackwardTraitor",
        "freeze": "mir2bench.engines.mamujoco_scripted:FreezeTraitor",
        "oscillate": "mir2bench.engines.mamujoco_scripted:OscillateTraitor",
    }
    drawing: ClassVar[str] = "mir2bench.engines.mamujoco_drawing:draw"
    peers: ClassVar[Mapping[str, str]] = {
        "Gymnasium-Robotics": "mir2bench.engines.mamujoco_peers:gymnasium_robotics",
        "EnvPool": "mir2bench.engines.mamujoco_peers:envpool",
        "bare mujoco.batch": "mir2bench.engines.mamujoco_peers:bare_batch",
        "bare mj_step": "mir2bench.engines.mamujoco_peers:bare_step",
    }

    def __init__(
        self,
        batch: int,
        n_agents: int,
        *,
        scenario: str,
        partition: str,
        agent_obsk: int = 1,
        torso: bool = True,
        threads: int | None = None,
    ) -> None:
        layout = self.layout(n_agents, scenario, partition, agent_obsk, torso)
        shares = split(scenario, partition, agent_obsk, torso)
        self.robot = robot = shares.robot
        kind = ForceSimulations if robot.contact_forces else BatchSimulations
        self._physics = kind(robot, batch, thread_count(batch, threads))
        self._actuators, self._seen = np.array(shares.actuators), np.array(shares.seen).ravel()
        self._n_positions = robot.positions - robot.unseen
        self._raw = np.zeros((batch, self._n_positions + robot.velocities + 6 * robot.bodies + 1))
        self._views = np.zeros((batch, self._seen.size))
        self._x = np.zeros(batch)
        self.obs = np.zeros((batch, n_agents, layout.obs_dim), dtype=np.float32)
        self.obs[:, :, -n_agents:] = np.eye(n_agents, dtype=np.float32)
        self.state = np.zeros((batch, layout.state_dim), dtype=np.float32)
        self.mask = None
        self.reward = np.zeros(batch)
        self._terms = np.zeros((len(_TERMS), batch))
        self.terminated, self.interrupted = np.zeros(batch, dtype=bool), np.zeros(batch, dtype=bool)

    @property
    def channels(self) -> dict[str, np.ndarray]:
        """The reward and its terms "forward", "survive", "control", "contact"; "unstable", 1.0 in a step that MuJoCo
        gave up, for which the reward is 0 and everything seen stays as it was.
        """
        terms = dict(zip(_TERMS, self._terms, strict=True))
        return {"team": self.reward, **terms, "unstable": self.interrupted.astype(np.float64)}

    @classmethod
    @cache
    def layout(cls, n_agents: int, scenario: str, partition: str, agent_obsk: int = 1, torso: bool = True) -> Layout:
        """Return sizes and names; the only bound on what is seen is where MuJoCo gives up.

        Raises:
            SpecError: see the class.
        """
        shares = split(scenario, partition, agent_obsk, torso)
        if n_agents != len(shares.agents):
            raise SpecError(f"{scenario} {partition} has {len(shares.agents)} agents, but the variant says {n_agents}.")
        return Layout(
            n_agents=n_agents,
            observation_fields=(*shares.fields, *(f"id_{i}" for i in range(n_agents))),
            state_fields=state_fields(shares.robot),
            action_dim=shares.action_dim,
            discrete=False,
            action_fields=tuple(f"torque_{k}" for k in range(shares.action_dim)),
            obs_low=(*(-LIMIT for _ in shares.fields), *(0.0,) * n_agents),
            obs_high=(*(LIMIT for _ in shares.fields), *(1.0,) * n_agents),
            actuators=shares.agents,
        )

    def reset(self, worlds: Sequence[int], generators: Sequence[np.random.Generator], initial_state: Any) -> None:
        """Put robots near their default pose, at random as Gymnasium does, or as `initial_state` says.

        Args:
            worlds: indices of worlds that start anew.
            generators: one per world; a seed gives the start that it gives in Gymnasium.
            initial_state: None, or {"qpos": (Nq,), "qvel": (Nv,)} in m, rad and per second.

        Raises:
            StateError: unknown key, wrong shape, or a number that is not finite or beyond 1e10; nothing was changed
                then.
        """
        robot, n = self.robot, len(worlds)
        given = None if initial_state is None else self._check_start(initial_state)
        qpos, qvel = np.zeros((n, robot.positions)), np.zeros((n, robot.velocities))
        for row, generator in enumerate(generators):
            qpos[row] = self._physics.rest + generator.uniform(-robot.noise, robot.noise, robot.positions)
            if robot.normal_velocities:
                qvel[row] = robot.noise * generator.standard_normal(robot.velocities)
            else:
                qvel[row] = generator.uniform(-robot.noise, robot.noise, robot.velocities)
        if given is not None:
            qpos[:], qvel[:] = given
        self._physics.place(worlds, qpos, qvel)
        self._x[worlds] = self._place()[worlds]
        self.interrupted[worlds] = False
        self._observe()

    def step(self, actions: np.ndarray) -> None:
        """Advance all worlds by one step; `actions` is (B, N, A)."""
        robot, physics = self.robot, self._physics
        np.take(actions.reshape(len(actions), -1), self._actuators, axis=1, out=physics.ctrl)
        physics.step()
        forward, survive, control, contact = self._terms
        place = self._place()
        np.subtract(place, self._x, out=forward)
        forward /= robot.seconds
        self._x[:] = place
        np.einsum("ba,ba->b", physics.ctrl, physics.ctrl, out=control)
        control *= -robot.control_cost
        if robot.heights is not None:
            healthy = self._healthy()
            np.multiply(healthy, robot.survival, out=survive)
            np.logical_not(healthy, out=self.terminated)
        self._observe()
        if isinstance(physics, ForceSimulations):
            forces = self._raw[:, -6 * robot.bodies - 1 : -1]
            np.einsum("bf,bf->b", forces, forces, out=contact)
            contact *= -CONTACT_COST
        np.add(forward, survive, out=self.reward)
        self.reward += control
        self.reward += contact
        self.interrupted[:] = physics.unstable
        if self.interrupted.any():
            self._terms[:, self.interrupted] = 0.0
            self.reward[self.interrupted] = 0.0
            self.terminated[self.interrupted] = False

    def snapshot(self, world: int) -> dict[str, np.ndarray]:
        """Return {"qpos": (Nq,), "qvel": (Nv,)} float64 of one world, copies."""
        return {"qpos": self._physics.qpos[world].copy(), "qvel": self._physics.qvel[world].copy()}

    def _place(self) -> np.ndarray:
        """Return (B,) where along x the robots are, in m, as Gymnasium measures it for their speed."""
        physics = self._physics
        return physics.torso[:, 0] if isinstance(physics, ForceSimulations) else physics.qpos[:, 0]

    def _healthy(self) -> np.ndarray:
        robot, qpos, qvel = self.robot, self._physics.qpos, self._physics.qvel
        height, (low, high) = qpos[:, robot.height], robot.heights or (-np.inf, np.inf)
        if robot.contact_forces:
            return (low <= height) & (height <= high)
        healthy = (low < height) & (height < high)
        healthy &= (robot.angles[0] < qpos[:, 2]) & (qpos[:, 2] < robot.angles[1])
        if np.isfinite(robot.others[1]):
            low, high = robot.others
            healthy &= ((low < qpos[:, 2:]) & (qpos[:, 2:] < high)).all(axis=1)
            healthy &= ((low < qvel) & (qvel < high)).all(axis=1)
        return healthy

    def _observe(self) -> None:
        """Write observations and states, but not those of unstable worlds."""
        robot, physics, n = self.robot, self._physics, self._n_positions
        unstable = np.flatnonzero(physics.unstable)
        kept = (self.obs[unstable], self.state[unstable]) if unstable.size else None
        raw, velocity = self._raw, self._raw[:, n : n + robot.velocities]
        raw[:, :n] = physics.qpos[:, robot.unseen :]
        velocity[:] = physics.qvel
        if isinstance(physics, ForceSimulations):
            np.clip(physics.forces.reshape(len(raw), -1), -1.0, 1.0, out=raw[:, n + robot.velocities : -1])
        if robot.clips_observation:
            np.clip(velocity, -10.0, 10.0, out=velocity)
        np.take(raw, self._seen, axis=1, out=self._views)
        n_agents = self.obs.shape[1]
        self.obs[:, :, :-n_agents] = self._views.reshape(len(raw), n_agents, -1)
        if robot.clips_velocity:
            np.clip(velocity, -10.0, 10.0, out=velocity)
        self.state[:] = raw[:, :-1]
        if kept is not None:
            self.obs[unstable], self.state[unstable] = kept

    def _check_start(self, initial_state: Any) -> tuple[np.ndarray, np.ndarray]:
        sizes = {"qpos": self.robot.positions, "qvel": self.robot.velocities}
        return check_start(initial_state, sizes)


def check_start(initial_state: Any, sizes: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions and velocities that `initial_state` asks for.

    Raises:
        StateError: see `MamujocoEngine.reset`.
    """
    form = f'{{"qpos": ({sizes["qpos"]},), "qvel": ({sizes["qvel"]},)}} here'
    given = read_start(initial_state, sizes, form)
    values = []
    for name, size in sizes.items():
        value = read_numbers(name, given[name], (size,))
        if not np.isfinite(value).all():
            raise StateError(f"{name} must be {size} finite numbers, but it is {value.tolist()}.")
        if (np.abs(value) > LIMIT).any():
            raise StateError(
                f"{name} must hold numbers from {-LIMIT:g} to {LIMIT:g}, since MuJoCo gives up beyond, but it is "
                f"{value.tolist()}."
            )
        values.append(value)
    return values[0], values[1]
