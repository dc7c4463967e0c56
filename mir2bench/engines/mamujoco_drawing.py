"""Pictures of MuJoCo's robots: each agent's limbs in blue, adversaries' in red. Needs no screen, but OSMesa or EGL."""

from __future__ import annotations

import atexit
import importlib
import os
import platform
from collections.abc import Mapping, Sequence
from ctypes.util import find_library
from functools import cache
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np

from mir2bench.engines.mamujoco_physics import load_model
from mir2bench.engines.mamujoco_robots import ROBOTS
from mir2bench.errors import MissingDependencyError

if TYPE_CHECKING:
    from mir2bench.registration import VariantSpec

WIDTH, HEIGHT = 480, 320  # pixels; multiples of 16, which video encoders want
_DEFENDER, _ADVERSARY, _TORSO = (0.0, 0.45, 0.7, 1.0), (0.84, 0.15, 0.16, 1.0), (0.75, 0.77, 0.8, 1.0)
_NEAREST, _PER_METER = 2.0, 1.5  # the camera's distance from a robot in meters, and more of it per meter of its radius


def draw(history: Sequence[Mapping[str, np.ndarray]], phi: np.ndarray, variant: VariantSpec) -> np.ndarray:
    """Draw the robot as it stands now, from a camera that follows it.

    Args:
        history: snapshots {"qpos": (Nq,), "qvel": (Nv,)} of this episode since its start; the last is now.
        phi: (N,), nonzero for adversaries.
        variant: the variant that is played.

    Returns:
        (320, 480, 3) uint8 RGB.

    Raises:
        MissingDependencyError: this machine can draw neither through OSMesa nor through EGL.
    """
    scenario, partition = variant.engine_args["scenario"], variant.engine_args["partition"]
    return _studio(scenario, partition, variant.layout.actuators).picture(history[-1]["qpos"], np.asarray(phi) != 0)


class _Studio:
    """A robot, a camera and an image in memory."""

    def __init__(self, model: mujoco.MjModel, limbs: list[list[int]]) -> None:
        self._context = _context()(WIDTH, HEIGHT)
        self._context.make_current()
        self._model, self._data, self._limbs = model, mujoco.MjData(model), limbs
        self._scene = mujoco.MjvScene(model, maxgeom=2000)
        self._options, self._camera = mujoco.MjvOption(), mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_TRACKING
        self._camera.trackbodyid, self._camera.fixedcamid = 1, -1
        robot = model.geom_bodyid != 0
        mujoco.mj_forward(model, self._data)
        radius = np.linalg.norm(self._data.geom_xpos[robot] - self._data.xpos[1], axis=1).max()
        self._camera.distance = _NEAREST + _PER_METER * radius
        self._camera.azimuth, self._camera.elevation = 90.0, -15.0
        self._renderer = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._renderer)
        model.geom_matid[robot] = -1
        model.geom_rgba[robot] = _TORSO

    def picture(self, qpos: np.ndarray, adversarial: np.ndarray) -> np.ndarray:
        """Return (320, 480, 3) uint8 of the robot at these positions."""
        for bodies, bad in zip(self._limbs, adversarial, strict=True):
            self._model.geom_rgba[np.isin(self._model.geom_bodyid, bodies)] = _ADVERSARY if bad else _DEFENDER
        self._data.qpos[:] = qpos
        mujoco.mj_forward(self._model, self._data)
        self._context.make_current()
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, self._data, self._options, None, self._camera, everything, self._scene)
        image, area = np.zeros((HEIGHT, WIDTH, 3), np.uint8), mujoco.MjrRect(0, 0, WIDTH, HEIGHT)
        mujoco.mjr_render(area, self._scene, self._renderer)
        mujoco.mjr_readPixels(image, None, area, self._renderer)
        return image[::-1].copy()


@cache
def _studio(scenario: str, partition: str, actuators: tuple[tuple[str, ...], ...]) -> _Studio:
    if scenario in ROBOTS:
        robot = ROBOTS[scenario]
        model, numbers = load_model(robot), {joint: place for place, joint in enumerate(robot.actuators)}
        moved = [[numbers[joint] for joint in own] for own in actuators]
    else:
        from mir2bench.engines.mamujoco_robotics import model_and_actuators

        model, moved = model_and_actuators(scenario, partition)
    limbs = [[int(model.jnt_bodyid[model.actuator_trnid[a, 0]]) for a in own] for own in moved]
    return _Studio(model, limbs)


@cache
def _context() -> Any:
    """Return the class that makes an image in memory to draw on."""
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    if platform.system() != "Linux" or wanted not in ("", "osmesa", "egl"):
        return mujoco.GLContext
    ways = (
        [wanted] if wanted else [way for way in ("osmesa", "egl") if find_library({"osmesa": "OSMesa"}.get(way, "EGL"))]
    )
    try:
        if not ways:
            raise ImportError("neither library is installed")
        kind = importlib.import_module(f"mujoco.{ways[0]}").GLContext
        kind(16, 16)  # a library without a device to draw on fails here
        return kind
    except Exception as error:  # OpenGL's loaders raise many kinds
        raise MissingDependencyError(
            f"drawing robots without a screen needs OSMesa or EGL, and neither works here ({error}). On Debian or "
            "Ubuntu run: apt install libosmesa6. The environment variable MUJOCO_GL=osmesa or MUJOCO_GL=egl chooses."
        ) from error


atexit.register(_studio.cache_clear)  # contexts must go before the libraries that free them
