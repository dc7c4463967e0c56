"""The robots of the batched MuJoCo engine as data: joints, who they belong to, what is seen, rewarded and unhealthy.

Figures and rules are those of Gymnasium's -v5 environments and of Gymnasium-Robotics' MaMuJoCo v1. All robots here end
their positions and velocities with their actuated joints, after those of the torso.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

from mir2bench.errors import SpecError, unknown_name

Range = tuple[float, float]
_ANY: Range = (-float("inf"), float("inf"))


@dataclass(frozen=True)
class Robot:
    """One robot.

    Attributes:
        model: file among Gymnasium's MuJoCo assets.
        frame_skip: simulation steps per step of the world.
        timestep: seconds per simulation step.
        joints: names of the actuated joints, in the order of positions and velocities.
        actuators: the joint that each actuator drives.
        links: groups of joints that are neighbors of each other.
        partitions: name -> the joints of each agent, in the order of its actions.
        torso_positions, torso_velocities: names of the torso's coordinates.
        unseen: how many of the first positions (where the robot is) nobody sees.
        clips_velocity: velocities in the state are cut to [-10, 10] ...
        clips_observation: ... and those that agents see, too.
        contact_forces: whether the state and the reward hold the contact forces on each body.
        bodies: how many bodies there are then.
        felt: the bodies, from 1 on, whose contact forces the agent that owns a joint sees.
        control_cost: weight of the sum of squared actions.
        survival: reward per step that ends healthy.
        height: coordinate of the height among the positions.
        heights, angles: open ranges outside of which the robot is unhealthy and the episode ends; a robot with heights
            only includes their ends.
        others: open range for all other coordinates.
        normal_velocities: whether starting velocities are normal rather than uniform.
        noise: scale of the random start.
    """

    model: str
    frame_skip: int
    timestep: float
    joints: tuple[str, ...]
    actuators: tuple[str, ...]
    links: tuple[tuple[str, ...], ...]
    partitions: dict[str, tuple[tuple[str, ...], ...]]
    torso_positions: tuple[str, ...]
    torso_velocities: tuple[str, ...]
    unseen: int = 1
    clips_velocity: bool = False
    clips_observation: bool = False
    contact_forces: bool = False
    bodies: int = 0
    felt: dict[str, tuple[int, ...]] = field(default_factory=dict)
    control_cost: float = 1e-3
    survival: float = 1.0
    height: int = 1
    heights: Range | None = None
    angles: Range = _ANY
    others: Range = _ANY
    normal_velocities: bool = False
    noise: float = 5e-3

    @property
    def seconds(self) -> float:
        """Seconds per step of the world."""
        return self.timestep * self.frame_skip

    @property
    def positions(self) -> int:
        """Nq."""
        return len(self.torso_positions) + len(self.joints)

    @property
    def velocities(self) -> int:
        """Nv."""
        return len(self.torso_velocities) + len(self.joints)

    def near(self, own: tuple[str, ...], distance: int) -> list[list[str]]:
        """Return the joints at each distance from 0 (the own ones) on, sorted by name."""
        known, rings = set(own), [sorted(own)]
        for _ in range(distance):
            ring = {j for link in self.links if not set(link).isdisjoint(rings[-1]) for j in link} - known
            known |= ring
            rings.append(sorted(ring))
        return rings

    def seen_positions(self) -> tuple[str, ...]:
        """Return the names of the torso's positions that are seen."""
        return self.torso_positions[self.unseen :]


_PLANAR = ("x", "z", "pitch")
_LEGS = ("thigh", "shin", "foot")
_BACK, _FRONT = tuple(f"b{part}" for part in _LEGS), tuple(f"f{part}" for part in _LEGS)
_HOPPER = ("thigh_joint", "leg_joint", "foot_joint")
_RIGHT, _LEFT = _HOPPER, ("thigh_left_joint", "leg_left_joint", "foot_left_joint")


def _chain(*joints: str) -> tuple[tuple[str, str], ...]:
    return tuple(pairwise(joints))


def _leg(*numbers: int) -> tuple[str, ...]:
    return tuple(f"{part}{number}" for number in numbers for part in ("hip", "ankle"))


ROBOTS = {
    "HalfCheetah": Robot(
        model="half_cheetah.xml",
        frame_skip=5,
        timestep=0.01,
        joints=(*_BACK, *_FRONT),
        actuators=(*_BACK, *_FRONT),
        links=_chain("bfoot", "bshin", "bthigh", "fthigh", "fshin", "ffoot"),
        partitions={"2x3": (_BACK, _FRONT), "6x1": tuple((joint,) for joint in (*_BACK, *_FRONT))},
        control_cost=0.1,
        survival=0.0,
        normal_velocities=True,
        noise=0.1,
        torso_positions=_PLANAR,
        torso_velocities=_PLANAR,
    ),
    "Ant": Robot(
        model="ant.xml",
        frame_skip=5,
        timestep=0.01,
        joints=_leg(1, 2, 3, 4),
        actuators=_leg(4, 1, 2, 3),
        links=(*(_leg(number) for number in (1, 2, 3, 4)), ("hip1", "hip2", "hip3", "hip4")),
        partitions={
            "2x4": (_leg(1, 2), _leg(3, 4)),
            "2x4d": (_leg(1, 4), _leg(2, 3)),
            "4x2": (_leg(1), _leg(2), _leg(3), _leg(4)),
        },
        torso_positions=("x", "y", "z", "quaternion_w", "quaternion_x", "quaternion_y", "quaternion_z"),
        torso_velocities=("x", "y", "z", "about_x", "about_y", "about_z"),
        unseen=2,
        contact_forces=True,
        bodies=13,
        felt={
            **{f"hip{leg}": (1, 3 * leg - 1) for leg in (1, 2, 3, 4)},
            **{f"ankle{leg}": (3 * leg - 1, 3 * leg, 3 * leg + 1) for leg in (1, 2, 3, 4)},
        },
        control_cost=0.5,
        height=2,
        heights=(0.2, 1.0),
        normal_velocities=True,
        noise=0.1,
    ),
    "Hopper": Robot(
        model="hopper.xml",
        frame_skip=4,
        timestep=0.002,
        joints=_HOPPER,
        actuators=_HOPPER,
        links=_chain("foot_joint", "leg_joint", "thigh_joint"),
        partitions={"3x1": tuple((joint,) for joint in _HOPPER)},
        clips_velocity=True,
        clips_observation=True,
        heights=(0.7, float("inf")),
        angles=(-0.2, 0.2),
        others=(-100.0, 100.0),
        torso_positions=_PLANAR,
        torso_velocities=_PLANAR,
    ),
    "Walker2d": Robot(
        model="walker2d_v5.xml",
        frame_skip=4,
        timestep=0.002,
        joints=(*_RIGHT, *_LEFT),
        actuators=(*_RIGHT, *_LEFT),
        links=(*_chain(*_RIGHT), *_chain(*_LEFT), (_RIGHT[0], _LEFT[0])),
        partitions={"2x3": (_RIGHT[::-1], _LEFT[::-1])},
        clips_velocity=True,
        heights=(0.8, 2.0),
        angles=(-1.0, 1.0),
        torso_positions=_PLANAR,
        torso_velocities=_PLANAR,
    ),
}

FORCE_AXES = ("about_x", "about_y", "about_z", "x", "y", "z")
CONTACT_COST = 5e-4
"""Weight of the sum of squared contact forces, each cut to [-1, 1]."""


@dataclass(frozen=True)
class Split:
    """One robot divided among agents.

    Attributes:
        robot: the robot.
        agents: the joints of each agent, in the order of its actions.
        actuators: (U,) where each actuator's command stands among the N * A numbers of a joint action.
        seen: (N, O - N) where each observed number stands in (seen positions, velocities, forces, 0); the 0 pads.
        fields: the O - N names.
        action_dim: A.
    """

    robot: Robot
    agents: tuple[tuple[str, ...], ...]
    actuators: tuple[int, ...]
    seen: tuple[tuple[int, ...], ...]
    fields: tuple[str, ...]
    action_dim: int


def find(scenario: str, partition: str) -> Robot:
    """Return a robot that can be partitioned like this.

    Raises:
        SpecError: unknown scenario or partition; the message suggests close names.
    """
    if scenario not in ROBOTS:
        raise SpecError(
            f"{unknown_name('scenario of the batched engine', scenario, ROBOTS)} For any other that Gymnasium-Robotics "
            "offers, give engine = "
            '"mir2bench.engines.mamujoco_robotics:RoboticsEngine".'
        )
    robot = ROBOTS[scenario]
    if partition not in robot.partitions:
        raise SpecError(str(unknown_name(f"partition of {scenario}", partition, robot.partitions)))
    return robot


def check_reach(agent_obsk: int) -> None:
    """Raise `SpecError` unless agents can see that many links far."""
    if type(agent_obsk) is not int or agent_obsk < 0:
        raise SpecError(f"agent_obsk is the number of links that agents see far: 0 or more, not {agent_obsk!r}.")


@cache
def split(scenario: str, partition: str, agent_obsk: int, torso: bool) -> Split:
    """Divide a robot among agents.

    Raises:
        SpecError: unknown scenario or partition, or agent_obsk is no integer of 0 or more.
    """
    robot = find(scenario, partition)
    check_reach(agent_obsk)
    agents = robot.partitions[partition]
    action_dim = max(map(len, agents))
    place = {j: a * action_dim + k for a, joints in enumerate(agents) for k, j in enumerate(joints)}
    rings = [robot.near(joints, agent_obsk) for joints in agents]
    widths = [max(len(ring) for ring in at) for at in zip(*rings, strict=True)]
    n_positions = robot.positions - robot.unseen
    n_moving = n_positions + robot.velocities
    nothing = n_moving + 6 * robot.bodies

    def angle(joint: str) -> int:
        return n_positions - len(robot.joints) + robot.joints.index(joint)

    def velocity(joint: str) -> int:
        return n_moving - len(robot.joints) + robot.joints.index(joint)

    def local(own: list[str], *others: list[str]) -> Iterator[int]:
        felt: set[int] = set()
        for joint in own:
            yield from (angle(joint), velocity(joint))
            for body in robot.felt.get(joint, ()):
                if body not in felt:
                    felt.add(body)
                    yield from range(n_moving + 6 * (body - 1), n_moving + 6 * body)
        yield from [nothing] * (2 * (widths[0] - len(own)))
        near = [joint for ring in others for joint in ring]
        yield from map(angle, near)
        yield from [nothing] * (n_near - len(near))

    n_near = max(sum(map(len, other)) for _, *other in rings)
    body = range(len(robot.seen_positions())), range(n_positions, n_positions + len(robot.torso_velocities))
    torso_seen = [i for part in body for i in part] if torso else []
    names = list(_own_names(robot, rings[0][0], widths[0]))
    names += [f"near_{k}_angle" for k in range(n_near)]
    if torso:
        names += [f"torso_{name}" for name in robot.seen_positions()]
        names += [f"torso_velocity_{name}" for name in robot.torso_velocities]
    return Split(
        robot=robot,
        agents=agents,
        actuators=tuple(place[joint] for joint in robot.actuators),
        seen=tuple((*local(*ring), *torso_seen) for ring in rings),
        fields=tuple(names),
        action_dim=action_dim,
    )


def _own_names(robot: Robot, own: list[str], width: int) -> Iterator[str]:
    """Yield what an agent sees of itself; agents that feel bodies own equally many joints and bodies."""
    felt: list[int] = []
    for k in range(width):
        yield from (f"own_{k}_angle", f"own_{k}_velocity")
        for body in robot.felt.get(own[k], ()) if robot.felt else ():
            if body not in felt:
                felt.append(body)
                yield from (f"own_body_{len(felt) - 1}_force_{axis}" for axis in FORCE_AXES)


def state_fields(robot: Robot) -> tuple[str, ...]:
    """Return the names of the S numbers of the state."""
    velocities = (*(f"torso_{name}" for name in robot.torso_velocities), *robot.joints)
    forces = [f"force_{body}_{axis}" for body in range(1, robot.bodies + 1) for axis in FORCE_AXES]
    return (
        *(f"torso_{name}" for name in robot.seen_positions()),
        *(f"angle_{joint}" for joint in robot.joints),
        *(f"velocity_{name}" for name in velocities),
        *forces,
    )
