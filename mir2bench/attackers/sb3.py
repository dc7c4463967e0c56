"""Proximal policy optimization of Stable-Baselines3 as an attacker: an implementation that is not ours.

The K adversaries play as one agent that sees all their observations and chooses all their actions, as in `AttackerEnv`;
the frozen, greedy team is part of the environment, and the reward is minus the channel that the variant names for
attacks. What is found is copied into a `JointMlp`, so that its bundle is loaded without Stable-Baselines3.

A second implementation with other tricks guards against attacks that fail for reasons of ours: one network for all
adversaries, smooth state-dependent exploration (Raffin et al. 2021) and no scripts. It trains twice, once as the
library begins and once from the most harmful of many random networks (`scouting`). In masked worlds it does not know
the masks while it trains: an illegal choice becomes the first legal action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from mir2bench.attackers.checks import check_attack
from mir2bench.attackers.scouting import affordable, scout
from mir2bench.attackers.staggered import StaggeredTask
from mir2bench.attackers.strongest import Strongest
from mir2bench.errors import ConfigError
from mir2bench.learning.architectures import JointMlp, JointShape
from mir2bench.learning.policy import NetworkPolicy
from mir2bench.learning.progress import Callback, Progress
from mir2bench.learning.threads import one_torch_thread
from mir2bench.partition import Partition
from mir2bench.policies import Policy
from mir2bench.registration import VariantSpec

REPORTS = 8
"""How often each start reports its strength, spread evenly over its part of the budget."""


@dataclass(frozen=True)
class Config:
    """Settings of Stable-Baselines3's PPO.

    Attributes:
        starts: trainings, each with an equal part of the budget: the first as the library begins, all others from a
            scouted network.
        scouts: random networks tried before such a beginning, fewer on small budgets; 0 leaves it to the library.
        hidden: width of the two hidden layers, of the policy and of the value network.
        lr: Adam's step size at the start; it shrinks linearly to 0.
        gamma: discount per step.
        gae: lambda of generalized advantage estimation.
        clip: range of the probability ratio.
        epochs: passes over each batch of rollouts.
        minibatches: gradient steps per pass.
        entropy: weight of the entropy bonus.
        smooth: steps between two draws of state-dependent exploration (continuous worlds); 0 explores with independent
            noise in every step instead.
        log_std: logarithm of the exploration's initial standard deviation (continuous worlds).
        worlds: parallel episodes.
        rollout: steps per world and batch.
    """

    starts: int = 2
    scouts: int = 64
    hidden: int = 64
    lr: float = 1e-3
    gamma: float = 0.995
    gae: float = 0.97
    clip: float = 0.2
    epochs: int = 4
    minibatches: int = 4
    entropy: float = 0.0
    smooth: int = 8
    log_std: float = -0.5
    worlds: int = 128
    rollout: int = 32

    def __post_init__(self) -> None:
        free = {"scouts": 0, "entropy": 0, "smooth": 0, "log_std": -float("inf")}  # what may be 0 or less
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if not (value >= free[name] if name in free else value > 0) or not np.isfinite(value):
                least = f"of at least {free[name]}" if name in free else "above 0"
                raise ConfigError(f"{name} must be a finite number {least}, but it is {value}.")
        if self.gamma > 1 or self.gae > 1:
            raise ConfigError(f"gamma and gae must be at most 1, but they are {self.gamma} and {self.gae}.")


class Sb3PpoAttacker:
    """Trains the adversaries of one phi against one frozen team, with Stable-Baselines3."""

    name: ClassVar[str] = "sb3-ppo"
    Config: ClassVar[type] = Config

    def __init__(self, config: Config | None = None) -> None:
        self.config = Config() if config is None else config

    @one_torch_thread()
    def attack(
        self,
        variant: VariantSpec,
        victim: Policy,
        phi: Partition,
        *,
        seed: int,
        budget: int,
        callback: Callback | None = None,
    ) -> NetworkPolicy:
        """Train on at most `budget` environment steps and return the strongest policy on the way.

        Args:
            variant: the world.
            victim: the frozen team.
            phi: who is adversarial.
            seed: determines everything that is drawn.
            budget: environment steps, 2 or more; a small one means fewer worlds and shorter rollouts.
            callback: gets reports with the metrics of `Strongest.offer`.

        Raises:
            PartitionError, ConfigError: see `check_attack`.
            PolicyError: the team's returns are not finite.
        """
        check_attack(self.name, variant, phi, budget)
        strongest = Strongest(variant, victim, phi)
        share = budget // self.config.starts
        for start, sequence in enumerate(np.random.SeedSequence(seed).spawn(self.config.starts)):

            def report(policy: NetworkPolicy, steps: int, before: int = start * share) -> None:
                scores = strongest.offer(policy, lambda: policy)
                if callback is not None:
                    callback(Progress(min(before + steps, budget), budget, scores))

            own_seed = int(sequence.generate_state(1)[0])
            with _own_global_generators(own_seed):
                self._train(variant, victim, phi, own_seed, share, start > 0, report)
        return strongest.policy()

    def _train(
        self,
        variant: VariantSpec,
        victim: Policy,
        phi: Partition,
        seed: int,
        budget: int,
        scouted: bool,
        report: Callable[[NetworkPolicy, int], None],
    ) -> None:
        """Train once; `report` gets the policy and the environment steps done from time to time."""
        config, layout = self.config, variant.layout
        worlds = min(config.worlds, max(1, budget // (2 * variant.horizon)))
        length = max(2, min(config.rollout, budget // (4 * worlds)))
        minibatches = min(config.minibatches, length // 2)
        length -= length % minibatches
        task = StaggeredTask(variant, worlds, victim, phi, seed)
        env = _AdversaryVecEnv(task, unit=1.0 / (1.0 - min(config.gamma, 0.999)))
        model = PPO(
            "MlpPolicy",
            env,
            learning_rate=lambda left: config.lr * left,
            n_steps=length,
            batch_size=worlds * length // minibatches,
            n_epochs=config.epochs,
            gamma=config.gamma,
            gae_lambda=config.gae,
            clip_range=config.clip,
            ent_coef=config.entropy,
            use_sde=config.smooth > 0 and not layout.discrete,
            sde_sample_freq=config.smooth,
            policy_kwargs={
                "net_arch": [config.hidden, config.hidden],
                **({} if layout.discrete else {"log_std_init": config.log_std}),
            },
            device="cpu",
        )
        shape = JointShape(layout.obs_dim, layout.action_dim, layout.discrete, phi.weight, (config.hidden,) * 2)
        count = affordable(config.scouts, variant, budget) if scouted else 0
        used = 0
        if count:
            found, used = scout(variant, victim, phi, lambda: JointMlp(shape), count, seed)
            scouted_layers: Any = found.linear
            for theirs, own in zip(_layers(model), scouted_layers, strict=True):
                theirs.load_state_dict(own.state_dict())
            report(_export(model, shape), used)
        steps = worlds * length
        rounds = max(1, (budget - used) // steps)
        marks = {max(1, rounds * k // REPORTS) for k in range(1, REPORTS + 1)}

        def after_update(done: int) -> None:
            if done in marks:
                report(_export(model, shape), used + done * steps)

        with closing(env):
            model.learn(rounds * steps, callback=_AfterUpdates(after_update))


class _AfterUpdates(BaseCallback):
    """Calls `report` with the number of updates made, after each of them."""

    def __init__(self, report: Callable[[int], None]) -> None:
        super().__init__()
        self._report = report
        self._updates = -1

    def _on_rollout_start(self) -> None:
        self._updates += 1
        if self._updates:
            self._report(self._updates)

    def _on_training_end(self) -> None:
        self._report(self._updates + 1)

    def _on_step(self) -> bool:
        return True


def _layers(model: PPO) -> list[Any]:
    """Return the linear layers from observations to the actions' mode."""
    hidden: Any = model.policy.mlp_extractor.policy_net
    return [*hidden[::2], model.policy.action_net]


def _export(model: PPO, shape: JointShape) -> NetworkPolicy:
    """Return the present policy as one of ours; its actions are the modes of the model's distributions."""
    with torch.random.fork_rng(devices=[]):  # the weights that are drawn are replaced at once
        network = JointMlp(shape)
    for own, theirs in zip(network.linear, _layers(model), strict=True):
        own.load_state_dict(theirs.state_dict())
    return NetworkPolicy(network.requires_grad_(False), shape.n_agents)


@contextmanager
def _own_global_generators(seed: int) -> Iterator[None]:
    """Seed the global generators of torch and numpy, from which Stable-Baselines3 draws, and restore them after."""
    before = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002


class _AdversaryVecEnv(VecEnv):
    """The adversaries' task as a vector environment of Stable-Baselines3.

    Observations (B, K * O) and actions (B, K * A), or (B,) and (B, K) in discrete worlds, as in `AttackerEnv`.

    Args:
        task: what is played.
        unit: rewards are divided by it.
    """

    def __init__(self, task: StaggeredTask, unit: float) -> None:
        layout, k = task.layout, task.n_agents
        self._task = task
        self._unit = unit
        self._actions = np.empty(0)
        if not layout.discrete:
            actions: spaces.Space = spaces.Box(-1.0, 1.0, (k * layout.action_dim,), np.float32)
        elif k == 1:
            actions = spaces.Discrete(layout.action_dim)
        else:
            actions = spaces.MultiDiscrete([layout.action_dim] * k)
        super().__init__(task.batch, spaces.Box(-np.inf, np.inf, (k * layout.obs_dim,), np.float32), actions)

    def _obs(self) -> np.ndarray:
        return self._task.obs.reshape(self.num_envs, -1).astype(np.float32)

    def reset(self) -> np.ndarray:
        """Return the first observations; the task has been started already."""
        return self._obs()

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions of the next step."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Play them; worlds that have ended start anew, and tell of the end in their `infos`."""
        task = self._task
        actions: Any = self._actions.reshape(task.layout.action_shape(self.num_envs, task.n_agents))
        if task.mask is not None:
            legal = np.take_along_axis(task.mask, actions[..., None], axis=-1)[..., 0] > 0
            actions = np.where(legal, actions, task.mask.argmax(axis=-1))
        task.step(actions)
        rewards, ended, truncated = (task.reward / self._unit).astype(np.float32), task.ended, task.truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if ended.any():
            last = self._obs()
            for world in np.flatnonzero(ended):
                # A time limit is no end of the game: with these two, PPO adds the value of the last observation.
                infos[world] = {"terminal_observation": last[world], "TimeLimit.truncated": bool(truncated[world])}
            task.restart()
        return self._obs(), rewards, ended, infos

    def close(self) -> None:
        """End the task's episodes."""
        self._task.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return None for each world: there is nothing to render."""
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refuse."""
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Refuse."""
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Return False for each world."""
        return [False] * self.num_envs
