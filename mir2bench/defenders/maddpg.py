"""MADDPG (Lowe et al. 2017): the backbone, and the baseline without any defence.

With state s, joint observation o, joint action a, shared actor pi with parameters theta, critic Q and slowly following
copies pi', Q', one update on a batch is

    y    = r + gamma Q'(s', o', pi'(o'))                                   (no bootstrap after a termination only)
    L_Q  = mean 1/2 (Q(s, o, a) - y)^2
    L_pi = - mean Q(s, o, pi(o)) + c mean logit^2          (discrete: max(|logit| - 2, 0)^2)
    theta' <- (1 - tau) theta' + tau theta                                 for actor and critic

Every other defender changes one line of it; the methods below are those lines.

Differences from the paper's description and its authors' code:
1. One critic of the state and all (o^i, a^i), averaged over agents behind shared layers, in place of one flat layer per
   agent head: all agents receive the same reward, so N heads would estimate the same value.
2. The actor's loss replaces all agents' actions by the current policy's at once (as FACMAC does), not one at a time
   with the others' actions taken from the replay.
3. A time limit is bootstrapped with the true last observation; theirs counts it as a terminal state.
4. One update of `batch_size` transitions per round of `worlds` steps; theirs makes one of 8 whole episodes per episode.
5. Layer normalization, a penalty on the actor's logits (without it tanh saturates in the first updates and the team
   drives into a corner for good; softmax saturates too, and the team never again tries what it once gave up), rewards
   scaled by the variant's score range, gamma 0.97.
6. Discrete actions: targets use the greedy legal action, the actor's loss a straight-through Gumbel sample, illegal
   actions are never sampled.
"""

from __future__ import annotations

import copy
from contextlib import closing
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mir2bench.errors import ConfigError
from mir2bench.learning import loop
from mir2bench.learning.networks import Actor, ActorShape, Critic, greedy_one_hot, straight_through_sample
from mir2bench.learning.policy import NetworkPolicy
from mir2bench.learning.progress import GREEDY_RETURN, GREEDY_WINS, Callback
from mir2bench.learning.replay import Batch
from mir2bench.learning.rollout import rollout
from mir2bench.learning.state import Keeper, State, attributes_of, restore_attributes
from mir2bench.learning.tasks import Task, TeamTask
from mir2bench.partition import Partition
from mir2bench.policies import Policy
from mir2bench.registration import VariantSpec

CURVE_SEED = 1_000_000
"""First of the seeds on which learning curves are measured; apart from training's and evaluation's."""
CURVE_EPISODES = 32
"""How many of them; fewer in worlds of more than 200 steps, whose curves would cost more than their training."""
FREE_LOGIT = 2.0
"""How large the logit of a discrete action may grow before it is penalized."""


@dataclass(frozen=True)
class Config:
    """Settings shared by all defenders.

    Attributes:
        hidden: width of all hidden layers.
        recurrent: actors with a GRU cell, trained on whole episodes (`batch_size` then counts episodes).
        actor_lr, critic_lr: Adam's step sizes.
        final_lr: the share of all step sizes that is left at the end of the budget; they shrink linearly.
        gamma: discount per step.
        n_steps: steps of reward before the bootstrap.
        tau: how far target networks move per update.
        noise: standard deviation of the Gaussian exploration noise on continuous actions in [-1, 1].
        logit_penalty: c, weight of the mean squared logit; of discrete actors, of its excess over 2.
        max_grad_norm: gradients are clipped to this norm.
        worlds: parallel episodes.
        batch_size: transitions per update.
        updates_per_step: updates per round of `worlds` environment steps.
        warmup: environment steps of uniformly random play before the first update.
        capacity: transitions kept for replay.
    """

    hidden: int = 64
    recurrent: bool = False
    actor_lr: float = 1e-3
    critic_lr: float = 1e-3
    final_lr: float = 1.0
    gamma: float = 0.97
    n_steps: int = 1
    tau: float = 0.01
    noise: float = 0.2
    logit_penalty: float = 2e-3
    max_grad_norm: float = 10.0
    worlds: int = 32
    batch_size: int = 256
    updates_per_step: int = 1
    warmup: int = 5_000
    capacity: int = 100_000

    def __post_init__(self) -> None:
        positive = ("hidden", "actor_lr", "critic_lr", "n_steps", "tau", "max_grad_norm", "worlds", "batch_size")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, but it is {getattr(self, name)}.")
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if isinstance(value, int | float) and not 0 <= value < float("inf"):
                raise ConfigError(f"{name} must be a finite number of 0 or more, but it is {value}.")
        for name in ("gamma", "tau", "final_lr"):
            if not getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be at most 1, but it is {getattr(self, name)}.")


class MaddpgLearner:
    """Networks and update rule of MADDPG for the n agents of a task."""

    critic_knows_phi: ClassVar[bool] = False
    """Whether the critic is told who is adversarial; only for defenders that train with adversaries."""

    def __init__(self, task: Task, config: Config, seed: int) -> None:
        layout = task.layout
        shape = ActorShape(layout.obs_dim, layout.action_dim, layout.discrete, config.hidden, config.recurrent)
        self.config = config
        self.recurrent = config.recurrent
        with torch.random.fork_rng(devices=[]):  # torch draws initial weights from its global generator only
            torch.manual_seed(seed)
            self.actor = Actor(shape)
            sizes = (layout.obs_dim, layout.action_dim, layout.state_dim, config.hidden)
            self.critic = Critic(*sizes, knows_phi=task.n_agents if self.critic_knows_phi else 0)
        self.generator = torch.Generator().manual_seed(seed)
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=config.actor_lr, fused=True)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=config.critic_lr, fused=True)
        self._online = [*self.actor.parameters(), *self.critic.parameters()]
        self._target = [*self.target_actor.parameters(), *self.target_critic.parameters()]
        self.policy = NetworkPolicy(self.actor, task.n_agents, config.noise, critic=self.critic)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Make one step on the critic, one on the actor, and move the targets."""
        features = self.actor.features_now(batch)

        with torch.no_grad():
            reward = self.reward(batch, features.detach())
            td_target = reward + batch.discount * self.next_value(batch, self.next_action(batch))
        value = self.critic(batch.state, batch.obs, batch.action, batch.phi)
        critic_loss = 0.5 * (value - td_target).square().mean() + self.critic_penalty(batch, value)
        self._descend(critic_loss, self.critic_optimizer)

        logits = self.actor.head(features)
        actor_value = self.actor_value(batch, self.soft_action(logits, batch.mask))
        actor_loss = self.actor_penalty(batch, logits) - actor_value.mean()
        self._descend(actor_loss, self.actor_optimizer)

        with torch.no_grad():
            torch._foreach_lerp_(self._target, self._online, self.config.tau)  # type: ignore[attr-defined]
        return {"loss/critic": critic_loss.detach(), "loss/actor": actor_loss.detach()}

    def anneal(self, done: float) -> None:
        """See `loop.Learner.anneal`: shrink the step sizes of all optimizers."""
        if self.config.final_lr == 1:
            return
        for optimizer in (value for value in vars(self).values() if isinstance(value, torch.optim.Optimizer)):
            for group in optimizer.param_groups:
                full = group.setdefault("full_lr", group["lr"])
                group["lr"] = full * (1 - (1 - self.config.final_lr) * done)

    def reward(self, batch: Batch, features: Tensor) -> Tensor:
        """Return the reward (M,) that the critic learns from; `features` (M, n, H) stand for the histories."""
        return batch.reward

    def next_action(self, batch: Batch) -> Tensor:
        """Return the target policy's joint action (M, n, A) at the bootstrap observations."""
        logits = self.target_actor.head(self.target_actor.features_next(batch))
        return self.greedy_action(logits, batch.next_mask)

    def greedy_action(self, logits: Tensor, mask: Tensor | None) -> Tensor:
        """Return the best actions (M, n, A) of these logits: one-hots of legal ones, or through tanh."""
        return greedy_one_hot(logits, mask) if self.actor.shape.discrete else torch.tanh(logits)

    def next_value(self, batch: Batch, action: Tensor) -> Tensor:
        """Return the value (M,) of the joint action (M, n, A) at the bootstrap observations; called without grad."""
        return self.target_critic(batch.next_state, batch.next_obs, action, batch.phi)

    def critic_penalty(self, batch: Batch, value: Tensor) -> Tensor | float:
        """Return what is added to the critic's loss; `value` (M,) is the critic's at the batch's actions."""
        return 0.0

    def soft_action(self, logits: Tensor, mask: Tensor | None) -> Tensor:
        """Return the policy's joint action (M, n, A), differentiable in the logits."""
        if self.actor.shape.discrete:
            return straight_through_sample(logits, mask, self.generator)
        return torch.tanh(logits)

    def actor_value(self, batch: Batch, action: Tensor) -> Tensor:
        """Return the value (M,) that the actor ascends, differentiable in the joint action (M, n, A)."""
        return self.critic(batch.state, batch.obs, action, batch.phi)

    def actor_penalty(self, batch: Batch, logits: Tensor) -> Tensor | float:
        """Return what is added to the actor's loss: c times the mean squared logit, or its excess (M, n, A)."""
        excess = (logits.abs() - FREE_LOGIT).clamp_min(0.0) if self.actor.shape.discrete else logits
        return self.config.logit_penalty * excess.square().mean()

    def intervene(self, task: Task, actions: np.ndarray) -> np.ndarray:
        """See `loop.Learner.intervene`: in attack-free training the team plays what it chose."""
        return actions

    def diagnose(self, batch: Batch) -> dict[str, Tensor]:
        """See `loop.Learner.diagnose`."""
        with torch.no_grad():
            value = self.critic(batch.state, batch.obs, batch.action, batch.phi)
        return {"value/mean": value.mean(), "value/reward": batch.reward.mean()}

    def state_dict(self) -> State:
        """Return all attributes with their states, those of subclasses as well; see `state.attributes_of`."""
        return attributes_of(self, apart=(NetworkPolicy,))

    def load_state_dict(self, state: State) -> None:
        """See `state.Stateful`."""
        restore_attributes(self, state)

    def _descend(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Make one clipped gradient step on the optimizer's own parameters; no others collect gradients."""
        parameters = optimizer.param_groups[0]["params"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=parameters)
        torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
        optimizer.step()


class MADDPG:
    """The defender: trains a team on attack-free episodes."""

    name: ClassVar[str] = "maddpg"
    Config: ClassVar[type] = Config
    Learner: ClassVar[type[MaddpgLearner]] = MaddpgLearner

    def __init__(self, config: Config | None = None) -> None:
        self.config = self.Config() if config is None else config

    def task(self, variant: VariantSpec, seed: int) -> TeamTask:
        """Return the episodes to train on: attack-free ones."""
        return TeamTask(variant, self.config.worlds)

    def train(
        self,
        variant: VariantSpec,
        *,
        seed: int,
        budget: int,
        callback: Callback | None = None,
        checkpoint: Keeper | None = None,
    ) -> NetworkPolicy:
        """Train a team policy and return it as it stands after the last step.

        Args:
            variant: the world.
            seed: determines weights, starts, exploration and sampling.
            budget: environment steps.
            callback: gets progress reports with "greedy_return", "greedy_win_rate" where there are victories, and the
                losses.
            checkpoint: where the state is kept from time to time, and what to continue from.

        Raises:
            CheckpointError: what is to be continued is damaged, or another training.
        """
        clean = Partition.of(variant.n_agents)

        def measure(policy: Policy) -> dict[str, float]:
            episodes = max(8, min(CURVE_EPISODES, 200 * CURVE_EPISODES // variant.horizon))
            seeds = range(CURVE_SEED, CURVE_SEED + episodes)
            played = rollout(variant, policy, clean, None, seeds)
            figures = {GREEDY_RETURN: float(played.returns.mean())}
            return figures if played.won is None else figures | {GREEDY_WINS: float(played.won.mean())}

        with closing(self.task(variant, seed)) as task:
            task.reset()
            learner = self.Learner(task, self.config, seed)
            loop.train(
                task,
                learner,
                self.config,
                budget=budget,
                seed=seed,
                measure=measure,
                callback=callback,
                checkpoint=checkpoint,
            )
        return learner.policy
