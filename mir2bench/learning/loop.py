"""The one training loop: act, store, update, and from time to time measure the greedy policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from mir2bench.errors import ConfigError
from mir2bench.learning.policy import NetworkPolicy
from mir2bench.learning.progress import Callback, Progress
from mir2bench.learning.replay import Batch, EpisodeReplay
from mir2bench.learning.state import Keeper, State, Stateful, UnknownStateError, restore, state_of
from mir2bench.learning.tasks import Task
from mir2bench.learning.threads import one_torch_thread
from mir2bench.policies import Policy, RandomPolicy

REPORTS = 24
"""How often a run reports its progress and measures the greedy policy, spread evenly over the budget."""


class Learner(Protocol):
    """What is trained: networks, their optimizers and the update rule.

    Attributes:
        policy: the actor as a policy; non-deterministic actions explore.
        recurrent: whether updates need whole episodes.
    """

    policy: NetworkPolicy
    recurrent: bool

    def intervene(self, task: Task, actions: np.ndarray) -> np.ndarray:
        """Return what is executed in place of the exploring policy's actions, (B, n, A) or (B, n)."""
        ...

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Make one gradient step and return what to log."""
        ...

    def anneal(self, done: float) -> None:
        """Adapt step sizes to the share of the budget that is done; called before the updates of each round."""
        ...

    def diagnose(self, batch: Batch) -> dict[str, Tensor]:
        """Return further measurements on a batch; called with each report only, so they may be costly."""
        ...


class LoopConfig(Protocol):
    """The settings that the loop reads from a learner's configuration."""

    @property
    def worlds(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def updates_per_step(self) -> int: ...
    @property
    def warmup(self) -> int: ...
    @property
    def capacity(self) -> int: ...
    @property
    def n_steps(self) -> int: ...
    @property
    def gamma(self) -> float: ...


class Collector:
    """Plays a task with a learner's exploring policy, without gradients, and stores what happens.

    Args:
        task: reset already.
        learner: its policy acts.
        replay: made for the task as it stands.
        rng: of the exploration.
    """

    def __init__(self, task: Task, learner: Learner, replay: EpisodeReplay, rng: np.random.Generator) -> None:
        self._task, self._learner, self._replay, self._rng = task, learner, replay, rng
        self._warmup: Policy = RandomPolicy(task.layout)
        self._carry = learner.policy.initial_carry(task.batch)

    def state_dict(self) -> State:
        """Return the policy's memory and the state of the generator."""
        return {"carry": self._carry, "rng": state_of(self._rng)}

    def load_state_dict(self, state: State) -> None:
        """See `state.Stateful`."""
        self._carry = state["carry"]
        restore(self._rng, state["rng"])

    def step(self, *, warm: bool = False) -> int:
        """Make one step in every world, uniformly random if `warm`; return how many episodes ended, and were reset."""
        task, policy = self._task, self._learner.policy
        actions, carry = policy.act(task.obs, self._carry, task.mask, rng=self._rng, deterministic=False)
        if warm:
            actions, _ = self._warmup.act(task.obs, None, task.mask, rng=self._rng)
        else:
            actions = self._learner.intervene(task, actions)
        self._carry = carry
        task.step(actions)
        self._replay.add(task, actions)
        ended = np.flatnonzero(task.terminated | task.truncated)
        if ended.size:
            task.reset(ended)
            self._replay.start(task, ended)
            if carry is not None:
                carry[ended] = 0.0
        return ended.size


@one_torch_thread()
def train(
    task: Task,
    learner: Learner,
    config: LoopConfig,
    *,
    budget: int,
    seed: int,
    measure: Callable[[Policy], dict[str, float]],
    callback: Callback | None = None,
    checkpoint: Keeper | None = None,
) -> None:
    """Train `learner` on `task` for `budget` environment steps.

    Each round every world makes one step and the learner `updates_per_step` updates, once `warmup` steps (at most a
    quarter of the budget) of uniformly random play are stored. Starts, exploration, sampling and reports draw from
    generators of their own, spawned from `seed`: reports change nothing.

    Args:
        measure: evaluates the greedy policy; its figures go into the report.
        callback: gets `REPORTS` reports, the last at the end of the budget.
        checkpoint: where the state is kept from time to time; a training that continues from there ends with the same
            weights and reports as one that was never interrupted. Without effect if the task or the learner is not
            `Stateful`.

    Raises:
        ConfigError: the budget is not positive.
        CheckpointError: what is to be continued is damaged, or another training.
    """
    if budget < 1:
        raise ConfigError(f"the budget must be 1 step or more, but it is {budget}.")
    starts, explore, sampling, reporting = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4))
    task.reset(seeds=[int(s) for s in starts.integers(2**63, size=task.batch)])
    replay = EpisodeReplay(task, min(config.capacity, budget), n_steps=config.n_steps, gamma=config.gamma)
    draw = replay.sample_episodes if learner.recurrent else replay.sample
    collector = Collector(task, learner, replay, explore)
    logged: dict[str, Tensor] = {}
    rounds = max(1, budget // task.batch)
    warmup_steps = min(config.warmup, budget // 4)
    reports = {max(1, rounds * k // REPORTS) for k in range(1, REPORTS + 1)}
    parts: dict[str, Any] = {"task": task, "replay": replay, "collector": collector, "learner": learner}
    parts |= {"sampling": sampling, "reporting": reporting}
    first, keeper = 1, checkpoint if _can_be_kept(task, learner) else None
    if keeper is not None and (saved := keeper.load()) is not None:
        first = 1 + saved["rounds"]
        for name, part in parts.items():
            restore(part, saved[name])
        if callback is not None:
            steps = saved["rounds"] * task.batch
            callback(Progress(steps, budget, note=f"continued from its checkpoint at step {steps:,} of {budget:,}"))
    for done_rounds in range(first, rounds + 1):
        warm = (done_rounds - 1) * task.batch < warmup_steps
        collector.step(warm=warm)
        if not warm:
            learner.anneal(done_rounds / rounds)
            for _ in range(config.updates_per_step):
                logged = learner.update(draw(config.batch_size, sampling))
        if callback is not None and done_rounds in reports:
            steps = budget if done_rounds == rounds else done_rounds * task.batch
            logged |= learner.diagnose(draw(config.batch_size, reporting))
            figures = {name: float(value) for name, value in logged.items()} | measure(learner.policy)
            callback(Progress(steps, budget, figures))
        if keeper is not None and done_rounds < rounds and keeper.due(replay.nbytes):
            keeper.save({"rounds": done_rounds, **{name: state_of(part) for name, part in parts.items()}})


def _can_be_kept(task: Task, learner: Learner) -> bool:
    try:
        return all(isinstance(part, Stateful) and part.state_dict() is not None for part in (task, learner))
    except UnknownStateError:
        return False
