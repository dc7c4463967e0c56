# pyright: reportAttributeAccessIssue=false
# MuJoCo does not tell type checkers what it holds.
"""Every scenario of Gymnasium-Robotics' MaMuJoCo v1 behind our interface, one world after the other in Python.

For robots that `mamujoco.MamujocoEngine` simulates, both engines give the same numbers, and this one is far slower; it
is there for all the others, and as the reference. Actions in [-1, 1] are stretched to the range of each actuator.
Observations: the joints that an agent sees, the torso (unless hidden), the agent id; agents that see less than others,
or move less, have their places filled with 0 and their further actions ignored.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, ClassVar

import mujoco  # first: without it, Gymnasium-Robotics sends users to another package's extra
import numpy as np

with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
    warnings.simplefilter("ignore")  # these and what it prints are about environments that are not used here
    from gymnasium_robotics import mamujoco_v1
    from gymnasium_robotics.envs.multiagent_mujoco.obsk import build_obs

from mir2bench.engines.base import Layout
from mir2bench.engines.mamujoco import LIMIT, MamujocoEngine, check_start
from mir2bench.engines.mamujoco_physics import gave_up, without_warnings
from mir2bench.engines.mamujoco_robots import ROBOTS, check_reach
from mir2bench.errors import SpecError, unknown_name

PARTITIONS: dict[str, tuple[str, ...]] = {
    **{name: tuple(robot.partitions) for name, robot in ROBOTS.items()},
    "Humanoid": ("9|8",),
    "HumanoidStandup": ("9|8",),
    "Reacher": ("2x1",),
    "Pusher": ("3p",),
    "Swimmer": ("2x1",),
    "CoupledHalfCheetah": ("1p1",),
    "ManySegmentSwimmer": ("<agents>x<segments each>",),
    "ManySegmentAnt": ("<agents>x<segments each>",),
}
_REWARD = "reward_"  # how the terms of a reward are called in `info`


class RoboticsEngine:
    """One of Gymnasium-Robotics' robots for a batch of B teams; see the module's text.

    Args:
        batch: B.
        n_agents: N, which must be what the partition says.
        scenario: the robot, one of `PARTITIONS`.
        partition: who moves which joints, such as "2x1".
        agent_obsk: how many links away agents see joints.
        torso: whether agents see the torso.
        threads: ignored; worlds take turns.

    Raises:
        SpecError: unknown scenario or partition, or another number of agents.
    """

    scripted_teams: ClassVar[Mapping[str, str]] = {
        "idle": "mir2bench.policies:IdlePolicy",
        "random": "mir2bench.policies:RandomPolicy",
    }
    planted: ClassVar[str] = ""
    scripted_traitors: ClassVar[Mapping[str, str]] = {
        "oscillate": "mir2bench.engines.mamujoco_scripted:OscillateTraitor",
    }
    drawing: ClassVar[str] = MamujocoEngine.drawing

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
        self._envs = [make_robot(scenario, partition, agent_obsk, torso) for _ in range(batch)]
        self._sizes = _sizes(scenario, partition, agent_obsk, torso)
        self.obs = np.zeros((batch, n_agents, layout.obs_dim), dtype=np.float32)
        self.obs[:, :, -n_agents:] = np.eye(n_agents, dtype=np.float32)
        self.state = np.zeros((batch, layout.state_dim), dtype=np.float32)
        self.mask = None
        self.reward = np.zeros(batch)
        self._terms = {name: np.zeros(batch) for name in _terms(scenario, partition, agent_obsk, torso)}
        self.terminated, self.interrupted = np.zeros(batch, dtype=bool), np.zeros(batch, dtype=bool)

    @property
    def channels(self) -> dict[str, np.ndarray]:
        """The reward, its terms as Gymnasium calls them (without "reward_"), and "unstable", 1.0 in a step that MuJoCo
        gave up, for which the reward is 0 and everything seen stays as it was.
        """
        return {"team": self.reward, **self._terms, "unstable": self.interrupted.astype(np.float64)}

    @classmethod
    @cache
    def layout(cls, n_agents: int, scenario: str, partition: str, agent_obsk: int = 1, torso: bool = True) -> Layout:
        """Return sizes and names; the only bound on what is seen is where MuJoCo gives up.

        Raises:
            SpecError: see the class.
        """
        local, common, state, actuators = _sizes(scenario, partition, agent_obsk, torso)
        if n_agents != len(local):
            raise SpecError(f"{scenario} {partition} has {len(local)} agents, but the variant says {n_agents}.")
        action_dim = max(map(len, actuators))
        return Layout(
            n_agents=n_agents,
            observation_fields=(
                *(f"joints_{k}" for k in range(max(local))),
                *(f"torso_{k}" for k in range(common)),
                *(f"id_{i}" for i in range(n_agents)),
            ),
            obs_low=(*(-LIMIT,) * (max(local) + common), *(0.0,) * n_agents),
            obs_high=(*(LIMIT,) * (max(local) + common), *(1.0,) * n_agents),
            state_fields=tuple(f"state_{k}" for k in range(state)),
            action_dim=action_dim,
            discrete=False,
            action_fields=tuple(f"torque_{k}" for k in range(action_dim)),
            actuators=actuators,
        )

    def reset(self, worlds: Sequence[int], generators: Sequence[np.random.Generator], initial_state: Any) -> None:
        """Start as Gymnasium does, or as `initial_state` says.

        Args:
            worlds: indices of worlds that start anew.
            generators: one per world; a seed gives the start that it gives in Gymnasium.
            initial_state: None, or {"qpos": (Nq,), "qvel": (Nv,)} in m, rad and per second.

        Raises:
            StateError: unknown key, wrong shape, or a number that is not finite or beyond 1e10; nothing was changed
                then.
        """
        model = _base(self._envs[0]).model
        start = None if initial_state is None else check_start(initial_state, {"qpos": model.nq, "qvel": model.nv})
        for world, generator in zip(worlds, generators, strict=True):
            env, base = self._envs[world], _base(self._envs[world])
            base.np_random = generator
            env.reset()
            if start is not None:
                base.set_state(*start)
            self.interrupted[world] = False
            self._observe(world)

    def step(self, actions: np.ndarray) -> None:
        """Advance all worlds by one step; `actions` is (B, N, A)."""
        for world, env in enumerate(self._envs):
            joint = {}
            for agent, action in zip(env.possible_agents, actions[world], strict=True):
                space = env.action_space(agent)
                own = action[: space.shape[0]]
                joint[agent] = own * (space.high - space.low) / 2 + (space.high + space.low) / 2
            _, rewards, terminations, _, infos = env.step(joint)
            agent = env.possible_agents[0]
            lost = gave_up(_base(env).data)
            self.interrupted[world] = lost
            self.reward[world] = 0.0 if lost else rewards[agent]
            self.terminated[world] = terminations[agent] and not lost
            for name, values in self._terms.items():
                values[world] = 0.0 if lost else infos[agent].get(_REWARD + name, 0.0)
            if not lost:
                self._observe(world)

    def snapshot(self, world: int) -> dict[str, np.ndarray]:
        """Return {"qpos": (Nq,), "qvel": (Nv,)} float64 of one world, copies."""
        data = _base(self._envs[world]).data
        return {"qpos": data.qpos.copy(), "qvel": data.qvel.copy()}

    def _observe(self, world: int) -> None:
        env, (local, common, _, _) = self._envs[world], self._sizes
        for agent in range(len(local)):
            seen = env.unwrapped._get_obs_agent(agent)
            self.obs[world, agent, : local[agent]] = seen[: local[agent]]
            self.obs[world, agent, max(local) : max(local) + common] = seen[local[agent] :]
        self.state[world] = env.unwrapped.state()


def make_robot(scenario: str, partition: str, agent_obsk: int, torso: bool) -> Any:
    """Make one of Gymnasium-Robotics' worlds, with an episode started.

    Raises:
        SpecError: unknown scenario or partition, one that fails in Gymnasium-Robotics itself, or agent_obsk is no
            integer of 0 or more.
    """
    if scenario not in PARTITIONS:
        raise SpecError(str(unknown_name("scenario", scenario, PARTITIONS)))
    known = PARTITIONS[scenario]
    free = known[0].startswith("<")
    if partition not in known and not (free and re.fullmatch(r"[1-9]\d?x[1-9]\d?", partition)):
        hint = " Give numbers, such as 4x2." if free else ""
        raise SpecError(f"{unknown_name(f'partition of {scenario}', partition, known)}{hint}")
    check_reach(agent_obsk)
    with without_warnings(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            env = mamujoco_v1.parallel_env(
                scenario, partition, agent_obsk=agent_obsk, global_categories=None if torso else ()
            )
            env.reset(seed=0)
        except Exception as error:  # whatever it meets in a robot that it cannot build or read
            raise SpecError(
                f"Gymnasium-Robotics {version('gymnasium-robotics')} cannot simulate {scenario} {partition} with "
                f"MuJoCo {mujoco.__version__}: {error} ({type(error).__name__}). Take another scenario or partition."
            ) from error
    for rings in env.unwrapped.k_dicts:
        for ring in rings.values():  # sorted by names already, but Pusher has a name twice
            ring.sort(key=lambda node: (node.label, node.qpos_ids))
    return env


def model_and_actuators(scenario: str, partition: str) -> tuple[Any, list[list[int]]]:
    """Return a robot's model, to draw it, and the numbers of the actuators that each agent drives."""
    env = make_robot(scenario, partition, 0, True)
    return _base(env).model, [[node.act_ids for node in part] for part in env.unwrapped.agent_action_partitions]


def _base(env: Any) -> Any:
    """Return the single-agent world inside, with its `model` and `data`."""
    return env.unwrapped.single_agent_env.unwrapped


@cache
def _sizes(
    scenario: str, partition: str, agent_obsk: int, torso: bool
) -> tuple[tuple[int, ...], int, int, tuple[tuple[str, ...], ...]]:
    """Return how many numbers of joints each agent sees, how many of the torso, S, and what each agent moves."""
    env = make_robot(scenario, partition, agent_obsk, torso)
    inner = env.unwrapped
    common = len(build_obs(_base(env).data, {}, [], inner.mujoco_globals, inner.global_categories, False))
    local = tuple(env.observation_space(agent).shape[0] - common for agent in env.possible_agents)
    moved = tuple(tuple(node.label for node in part) for part in inner.agent_action_partitions)
    return local, common, len(inner.state()), moved


@cache
def _terms(scenario: str, partition: str, agent_obsk: int, torso: bool) -> tuple[str, ...]:
    """Return the names of the reward's terms."""
    env = make_robot(scenario, partition, agent_obsk, torso)
    *_, infos = env.step({agent: np.zeros(env.action_space(agent).shape) for agent in env.possible_agents})
    return tuple(key.removeprefix(_REWARD) for key in infos[env.possible_agents[0]] if key.startswith(_REWARD))
