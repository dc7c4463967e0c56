# pyright: reportAttributeAccessIssue=false
# MuJoCo does not tell type checkers what it holds.
"""Other simulations of the same robots, to compare speeds with: each function returns one that steps a whole batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import mujoco
import numpy as np

from mir2bench.engines.mamujoco_physics import load_model, thread_count
from mir2bench.engines.mamujoco_robots import find

if TYPE_CHECKING:
    from mir2bench.registration import VariantSpec

Step = Callable[[], object]


def gymnasium_robotics(variant: VariantSpec, batch: int) -> Step:
    """Return a function that steps `batch` worlds of Gymnasium-Robotics one after the other."""
    from mir2bench.engines.mamujoco_robotics import make_robot

    args = {"agent_obsk": 1, "torso": True, **variant.engine_args}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        envs = [make_robot(**args) for _ in range(batch)]
    rng = np.random.default_rng(0)
    actions = {a: rng.uniform(-1, 1, envs[0].action_space(a).shape) for a in envs[0].possible_agents}

    def step() -> None:
        for env in envs:
            *_, terminated, truncated, _ = env.step(actions)
            if any(terminated.values()) or any(truncated.values()):
                env.reset()

    return step


def envpool(variant: VariantSpec, batch: int) -> Step:
    """Return a function that steps a batch of EnvPool's robot (one agent), on as many threads as ours.

    Raises:
        ImportError: EnvPool is not installed.
    """
    import envpool  # type: ignore[import-not-found]

    name, threads = f"{variant.engine_args['scenario']}-v4", thread_count(batch, None)
    env = envpool.make_gymnasium(name, num_envs=batch, num_threads=threads, seed=0)
    env.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (batch, *env.action_space.shape))
    return lambda: env.step(actions)


def bare_batch(variant: VariantSpec, batch: int) -> Step:
    """Return a function that advances MuJoCo's own batch and looks at nothing: the most that ours can reach."""
    from mujoco.batch import Batch

    robot = find(variant.engine_args["scenario"], variant.engine_args["partition"])
    simulations = Batch(load_model(robot), batch, thread_count(batch, None))
    simulations.reset()
    simulations.bind("ctrl")[:] = np.random.default_rng(0).uniform(-1, 1, simulations.bind("ctrl").shape)
    return lambda: simulations.step(nstep=robot.frame_skip)


def bare_step(variant: VariantSpec, batch: int) -> Step:
    """Return a function that advances `batch` robots with mj_step, one after the other, and looks at nothing."""
    robot = find(variant.engine_args["scenario"], variant.engine_args["partition"])
    model = load_model(robot)
    robots = [mujoco.MjData(model) for _ in range(batch)]
    for data in robots:
        data.ctrl[:] = np.random.default_rng(0).uniform(-1, 1, model.nu)

    def step() -> None:
        for data in robots:
            mujoco.mj_step(model, data, robot.frame_skip)

    return step
