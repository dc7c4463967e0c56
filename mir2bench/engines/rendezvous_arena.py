"""Rendezvous as e-puck2 robots would meet it: bodies, imperfect wheels, late commands and an overhead camera.

The physics are those of `rendezvous`, one sub-step at a time, with what a real arena adds (see `Conditions`). Bodies
push each other apart without friction, as equals, and stay inside the walls. Policies get what a tracking system would
give them: observations are computed from poses that the camera measured, in which the wall is as far away as the edge
of the body. The state and the reward are true. Nothing but the numbers that a policy reads and the motion of the
robots differs, so policies of `rendezvous` play here unchanged.

With bodies no episode ends early: centers cannot come closer than 7 cm. Each episode has other robots: calibration
errors are drawn at its start. All draws come from the world's own generator, and none is made when nothing is random.
With all conditions 0 this world is `rendezvous` bit for bit.

Reward and state: those of `mir2bench.engines.rendezvous`, from true poses.

Termination: none with bodies; every episode ends at the time limit.

Observation fields and state fields: those of `mir2bench.engines.rendezvous`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any, ClassVar

import numpy as np

from mir2bench.engines import slices
from mir2bench.engines.base import Layout
from mir2bench.engines.rendezvous import (
    ACTION_COST,
    ARENA_SIZE,
    COMM_RADIUS,
    DT,
    SUBSTEPS,
    TURN_RATE,
    WHEEL_SPEED,
    RendezvousEngine,
)
from mir2bench.errors import SpecError

_LARGEST = {"body_radius": 10.0, "delay": 1.0, "noise": 10.0}  # of any other number: 1


@dataclass(frozen=True)
class Conditions:
    """What a real arena adds; defaults are those of the registered worlds.

    The robot's size is that on e-puck.org: 70 mm in diameter, wheels of 41 mm. The others are assumptions, not
    measurements: no robots were at hand. Each is argued below, and `noise` scales them all, to see how much depends on
    them.

    Attributes:
        body_radius: cm. 0 lets robots pass through each other and half over the walls.
        wheel_noise: standard deviation of a wheel's relative speed error, drawn anew each step. Stepper motors make
            the steps they are told, so what is left is floor and gear play: 3%.
        calibration: standard deviation of a wheel's relative speed error that lasts, by the diameter of its tire and
            the axle. 0.4 mm of a 41 mm wheel is 1%; worn tires and dust double it: 2%.
        slip: chance that a wheel slips in a step; it then makes a uniform share of its way. 2%: now and then on a plain
            floor.
        delay: seconds from a camera's picture to the wheels, in steps of 0.01. 0.05: exposure and image at 30 Hz,
            detection, radio.
        camera_position: cm, standard deviation of each coordinate. 0.5: two to three pixels of a full-HD camera that
            sees 2 m in 1080 lines (0.19 cm each), with the error of its calibration.
        camera_heading: rad, standard deviation. 0.05: such an error over a 7 cm marker's corners.
        dropped: chance that the camera misses a robot in a picture; its last pose stays. 2%: glare, occlusion by hands
            and cables.
        stale: chance that a whole picture comes too late, and all poses stay. 2%: a frame lost now and then.
        noise: factor on all of the above except the body.
    """

    body_radius: float = 3.5
    wheel_noise: float = 0.03
    calibration: float = 0.02
    slip: float = 0.02
    delay: float = 0.05
    camera_position: float = 0.5
    camera_heading: float = 0.05
    dropped: float = 0.02
    stale: float = 0.02
    noise: float = 1.0

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Conditions:
        """Check given values and fill up the others; the factor `noise` is applied and 1 afterwards.

        Raises:
            SpecError: an unknown name, or a number out of range.
        """
        names = [f.name for f in fields(cls)]
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise SpecError(f"the arena has no condition {unknown[0]!r}. There are: {', '.join(names)}.")
        for name, value in given.items():
            largest = _LARGEST.get(name, 5.0 if name == "camera_position" else 1.0)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= largest:
                raise SpecError(f"the arena's {name} must be a number from 0 to {largest:g}, but it is {value!r}.")
        values = asdict(cls(**given))
        factor = values.pop("noise")
        scaled = {name: value * (1.0 if name == "body_radius" else factor) for name, value in values.items()}
        chances = {name: min(scaled[name], 1.0) for name in ("slip", "dropped", "stale")}
        return cls(**{**scaled, **chances})

    @property
    def random(self) -> bool:
        """Whether anything is drawn."""
        quiet = ("body_radius", "delay", "noise")
        return any(value for name, value in asdict(self).items() if name not in quiet)

    @property
    def plain(self) -> bool:
        """Whether nothing at all differs from rendezvous."""
        return not self.random and not self.body_radius and not self.delay


class RendezvousArenaEngine(RendezvousEngine):
    """The arena for a batch of B teams; see the module's text.

    Args:
        batch: B.
        n_agents: N.
        threads: see `RendezvousEngine`.
        conditions: the attributes of `Conditions`.

    Raises:
        SpecError: unknown or impossible conditions.
    """

    scripted_teams: ClassVar[Mapping[str, str]] = {
        name: target for name, target in RendezvousEngine.scripted_teams.items() if name != RendezvousEngine.planted
    }
    planted: ClassVar[str] = ""  # its trigger tells distances apart that bodies do not allow

    def __init__(self, batch: int, n_agents: int, *, threads: int | None = None, **conditions: float) -> None:
        super().__init__(batch, n_agents, threads=threads)
        self.conditions = Conditions.of(conditions)
        self._late = round(self.conditions.delay / DT)  # sub-steps
        self._gains = np.ones((batch, n_agents, 2))
        # What the wheels do: of this step, of the last, ...
        self._wheels = np.zeros((1 + -(-self._late // SUBSTEPS), batch, n_agents, 2))
        self._seen = np.zeros_like(self.poses)
        self._generators: list[np.random.Generator | None] = [None] * batch
        self._unused = np.zeros_like(self.obs), np.zeros_like(self.state)

    @classmethod
    def layout(cls, n_agents: int, **conditions: float) -> Layout:
        """Return sizes, names and bounds, those of rendezvous.

        Raises:
            SpecError: fewer than two robots, or unknown or impossible conditions.
        """
        Conditions.of(conditions)
        return RendezvousEngine.layout(n_agents)

    def reset(self, worlds: Sequence[int], generators: Sequence[np.random.Generator], initial_state: Any) -> None:
        """Place the robots as in rendezvous, then push overlapping bodies apart; see `RendezvousEngine.reset`.

        `initial_state` may also hold "camera", (N, 3) like "poses": where the camera sees the robots at first.
        """
        camera = None
        if isinstance(initial_state, Mapping) and set(initial_state) == {"poses", "camera"} and self.conditions.random:
            camera = self._check_start({"poses": initial_state["camera"]})
            initial_state = {"poses": initial_state["poses"]}
        super().reset(worlds, generators, initial_state)
        if self.conditions.plain:
            return
        n = self.poses.shape[1]
        for world, generator in zip(worlds, generators, strict=True):
            self._generators[world] = generator
            self._wheels[:, world] = 0.0
            _kernels().settle(world, world + 1, self.poses, ARENA_SIZE, self.conditions.body_radius)
            self._seen[world] = self.poses[world]
            if self.conditions.random:
                self._gains[world] = 1.0 + self.conditions.calibration * generator.standard_normal((n, 2))
                self._look(slice(world, world + 1), generator.standard_normal((1, n, 3)), np.ones((1, n), dtype=bool))
            if camera is not None:
                self._seen[world] = camera
            self._observe(world, world + 1)

    def snapshot(self, world: int) -> dict[str, np.ndarray]:
        """Return {"poses": (N, 3)} of one world, and what the camera saw, {"camera": (N, 3)}, where it errs; copies."""
        seen = {"camera": self._seen[world].copy()} if self.conditions.random else {}
        return {**super().snapshot(world), **seen}

    def step(self, actions: np.ndarray) -> None:
        """Advance all worlds by 0.1 s; `actions` is (B, N, 2)."""
        if self.conditions.plain:
            super().step(actions)
            return
        self._wheels[1:] = self._wheels[:-1].copy()
        self._wheels[0] = np.clip(actions, -1.0, 1.0)
        errors, visible = self._roll_dice() if self.conditions.random else (None, None)

        def work(first: int, last: int) -> None:
            _kernels().drive(
                first,
                last,
                self.poses,
                actions,
                self._wheels,
                self._late,
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
                self.conditions.body_radius,
            )
            if errors is None or visible is None:
                self._seen[first:last] = self.poses[first:last]
            else:
                self._look(slice(first, last), errors[first:last], visible[first:last])
            self._observe(first, last)

        slices.run(work, self._slices)
        np.add(self._terms[0], self._terms[1], out=self.reward)

    def _roll_dice(self) -> tuple[np.ndarray, np.ndarray]:
        """Disturb the wheels; return the camera's errors (B, N, 3) and which robots it sees (B, N)."""
        given, (batch, n) = self.conditions, self.poses.shape[:2]
        normal, uniform = np.zeros((batch, n, 5)), np.ones((batch, 5 * n + 1))
        for world, generator in enumerate(self._generators):
            if generator is not None:  # None in a batch of which only a part was ever started
                generator.standard_normal(out=normal[world])
                generator.random(out=uniform[world])
        slips, share, dropped = np.split(uniform[:, :-1], [2 * n, 4 * n], axis=1)
        shape = (batch, n, 2)
        grip = np.where(slips.reshape(shape) < given.slip, share.reshape(shape), 1.0)
        self._wheels[0] *= self._gains * (1.0 + given.wheel_noise * normal[..., :2]) * grip
        return normal[..., 2:], (dropped >= given.dropped) & (uniform[:, -1:] >= given.stale)

    def _look(self, worlds: slice, errors: np.ndarray, visible: np.ndarray) -> None:
        """Let the camera measure b worlds: errors (b, N, 3) in standard deviations, visible (b, N)."""
        given = self.conditions
        measured = self.poses[worlds] + errors * (given.camera_position, given.camera_position, given.camera_heading)
        measured[..., :2] = np.clip(measured[..., :2], given.body_radius, ARENA_SIZE - given.body_radius)
        measured[..., 2] %= 2 * np.pi
        measured[measured[..., 2] >= 2 * np.pi, 2] = 0.0  # % may round a tiny negative angle up to 2 pi
        self._seen[worlds] = np.where(visible[..., None], measured, self._seen[worlds])

    def _observe(self, first: int, last: int) -> None:
        radius = self.conditions.body_radius
        inner = ARENA_SIZE - 2 * radius
        unused_obs, unused_state = self._unused
        edge = self._seen[first:last] - np.array([radius, radius, 0.0])
        part = last - first
        _kernels().observe(0, part, edge, self.obs[first:last], unused_state[first:last], inner, COMM_RADIUS)
        _kernels().observe(first, last, self.poses, unused_obs, self.state, ARENA_SIZE, COMM_RADIUS)


@cache
def _kernels() -> Any:
    from mir2bench.engines import rendezvous_arena_kernels  # loads numba

    return rendezvous_arena_kernels
