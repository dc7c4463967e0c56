# pyright: reportAttributeAccessIssue=false
# MuJoCo does not tell type checkers what it holds.
"""MuJoCo for a batch of B equal robots: set positions and velocities, advance by one step of the world, read them.

Both ways carry the solver's warm start from step to step, so that every world is to the last bit what one `MjData`
stepped by itself would be, however many threads share the batch.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np

from mir2bench.engines import slices
from mir2bench.engines.mamujoco_robots import Robot
from mir2bench.errors import MissingDependencyError

try:
    from mujoco.batch import Batch
except ImportError as error:
    raise MissingDependencyError(
        f"the worlds of MAMujoco need MuJoCo 3.17 or newer, but {mujoco.__version__} is installed. "
        'Run: pip install "mir2bench[mujoco]"'
    ) from error

_ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
_WORLDS_PER_THREAD = 8  # below this a thread costs more than it saves
_STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)
_UNSTABLE = [int(getattr(mujoco.mjtWarning, f"mjWARN_{name}")) for name in ("BADQPOS", "BADQVEL", "BADQACC")]
_HANDLER = threading.RLock()


def load_model(robot: Robot) -> mujoco.MjModel:
    """Return the robot's model from Gymnasium's assets."""
    with without_warnings():
        return mujoco.MjModel.from_xml_path(str(_ASSETS / robot.model))


def _ignore(message: str) -> None:
    """Do nothing with a warning."""


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep MuJoCo from telling the screen and a file in the working directory what is old-fashioned in a model.

    The whole process has one handler of warnings, so threads take turns here: otherwise the last to leave might put
    back what another had set.
    """
    with _HANDLER:
        before = mujoco.get_mju_user_warning()
        mujoco.set_mju_user_warning(_ignore)
        try:
            yield
        finally:
            mujoco.set_mju_user_warning(before)


def gave_up(data: mujoco.MjData) -> bool:
    """Whether MuJoCo met a number that was not finite or far too large, and put the robot back to its default pose."""
    return any(data.warning[kind].number for kind in _UNSTABLE)


def thread_count(batch: int, threads: int | None) -> int:
    """Return how many threads share a batch.

    Args:
        batch: B.
        threads: how many; None takes one per 8 worlds, at most one per core that this process may use and at most
            NUMBA_NUM_THREADS, which the compiled engines obey as well.
    """
    if threads is not None:
        return threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(int(os.environ.get("NUMBA_NUM_THREADS") or cores), cores, batch // _WORLDS_PER_THREAD))


class Simulations:
    """B equal robots.

    Args:
        robot: what they are.
        batch: B.
        threads: how many threads share the batch.

    Attributes:
        rest: (Nq,) float64, the default positions.
        qpos, qvel: (B, Nq) and (B, Nv) float64.
        ctrl: (B, U) float64, the actuators' commands for the next step.
        unstable: (B,) bool, whether MuJoCo gave up on the last step, because a number was not finite or far too large.
    """

    qpos: np.ndarray
    qvel: np.ndarray
    ctrl: np.ndarray

    def __init__(self, robot: Robot, batch: int, threads: int) -> None:
        self._made_of = (robot, batch, threads)
        self._steps = robot.frame_skip
        self._model = load_model(robot)
        self.rest = self._model.qpos0.copy()
        self.unstable = np.zeros(batch, dtype=bool)

    def place(self, worlds: Sequence[int], qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Put robots anywhere, (n, Nq) and (n, Nv) of at most 1e10, as if nothing had happened before."""
        raise NotImplementedError

    def step(self) -> None:
        """Advance all robots by one step of the world."""
        raise NotImplementedError


class BatchSimulations(Simulations):
    """B robots on MuJoCo's own batches; for robots whose reward needs positions and velocities only."""

    def __init__(self, robot: Robot, batch: int, threads: int) -> None:
        super().__init__(robot, batch, threads)
        self._batch = Batch(self._model, batch, threads)
        self._batch.reset()
        self.qpos, self.qvel, self.ctrl = (self._batch.bind(name) for name in ("qpos", "qvel", "ctrl"))
        self._orphaned = False
        if threads > 1:
            _threaded.add(self)

    def __getstate__(self) -> dict[str, Any]:
        return {"made_of": self._made_of, "state": self._batch.state.copy(), "unstable": self.unstable.copy()}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__init__(*kept["made_of"])
        self._batch.state[:] = kept["state"]
        self.unstable[:] = kept["unstable"]

    def place(self, worlds: Sequence[int], qpos: np.ndarray, qvel: np.ndarray) -> None:
        """See `Simulations.place`."""
        self._adopt()
        chosen = np.array(worlds, dtype=np.int32)
        self._batch.reset(chosen, stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        self.qpos[chosen], self.qvel[chosen] = qpos, qvel
        self._batch.forward(chosen)
        self._batch.warning[chosen] = 0
        self.unstable[chosen] = False

    def step(self) -> None:
        """See `Simulations.step`."""
        self._adopt()
        self._batch.step(nstep=self._steps)
        warnings = self._batch.warning
        self.unstable[:] = warnings.any() and warnings[:, _UNSTABLE, 1].any(axis=1)

    def orphan(self) -> None:
        """Be prepared to go on in a forked child, where the batch's threads are missing.

        MuJoCo would wait for them for ever, to step as well as to free the batch. So it is never freed.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._batch))
        self._orphaned = True

    def _adopt(self) -> None:
        if self._orphaned:
            self.__setstate__(self.__getstate__())


_threaded: weakref.WeakSet[BatchSimulations] = weakref.WeakSet()


def _after_fork() -> None:
    for simulations in _threaded:
        simulations.orphan()
    _HANDLER.release()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_HANDLER.acquire, after_in_parent=_HANDLER.release, after_in_child=_after_fork)


class ForceSimulations(Simulations):
    """B robots with one `MjData` each; for robots whose reward needs contact forces, which batches do not compute.

    Python's share of the work is a few percent there, since such robots are costly to simulate.

    Attributes:
        torso: (B, 3) float64, the torso's position one simulation step ago, where Gymnasium looks for it.
        forces: (B, bodies, 6) float64, contact forces on each body in the last simulation step.
    """

    def __init__(self, robot: Robot, batch: int, threads: int) -> None:
        super().__init__(robot, batch, threads)
        self._data = [mujoco.MjData(self._model) for _ in range(batch)]
        self.qpos, self.qvel = np.zeros((batch, self._model.nq)), np.zeros((batch, self._model.nv))
        self.ctrl, self.torso = np.zeros((batch, self._model.nu)), np.zeros((batch, 3))
        self.forces = np.zeros((batch, robot.bodies, 6))
        self._slices = slices.cut(batch, threads)

    def __getstate__(self) -> dict[str, Any]:
        state = np.zeros((len(self._data), mujoco.mj_stateSize(self._model, _STATE)))
        for row, data in zip(state, self._data, strict=True):
            mujoco.mj_getState(self._model, data, row, _STATE)
        seen = {name: getattr(self, name).copy() for name in ("qpos", "qvel", "ctrl", "torso", "forces", "unstable")}
        return {"made_of": self._made_of, "state": state, "seen": seen}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__init__(*kept["made_of"])
        for row, data in zip(kept["state"], self._data, strict=True):
            mujoco.mj_setState(self._model, data, row, _STATE)
        for name, values in kept["seen"].items():
            getattr(self, name)[:] = values

    def place(self, worlds: Sequence[int], qpos: np.ndarray, qvel: np.ndarray) -> None:
        """See `Simulations.place`."""
        for row, world in enumerate(worlds):
            data = self._data[world]
            mujoco.mj_resetData(self._model, data)
            data.qpos[:], data.qvel[:] = qpos[row], qvel[row]
            mujoco.mj_forward(self._model, data)
            self._read(world, data)

    def step(self) -> None:
        """See `Simulations.step`."""
        slices.run(self._advance, self._slices)

    def _advance(self, first: int, last: int) -> None:
        for world in range(first, last):
            data = self._data[world]
            data.ctrl[:] = self.ctrl[world]
            mujoco.mj_step(self._model, data, self._steps)
            mujoco.mj_rnePostConstraint(self._model, data)
            self._read(world, data)

    def _read(self, world: int, data: Any) -> None:
        self.qpos[world], self.qvel[world] = data.qpos, data.qvel
        self.torso[world], self.forces[world] = data.xpos[1], data.cfrc_ext[1:]
        self.unstable[world] = gave_up(data)
