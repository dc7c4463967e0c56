"""The learned worst case: a zero-sum adversary trained against one frozen team and one partition (paper, Eq. 3).

The adversaries' actor reads their own observations, a value network the global state and these observations; the
victim is frozen, greedy and part of the environment. They maximise minus the reward channel that the variant names for
attacks, by proximal policy optimisation (Schulman et al. 2017): with advantages A_t from GAE and the probability ratio
rho = pi(a_t | o_t) / pi_old(a_t | o_t), all epochs over a batch of rollouts descend

    L = - mean min(rho A, clip(rho, 1 - epsilon, 1 + epsilon) A) + mean (V(s_t, o_t) - R_t)^2.

Training starts twice: once from scratch, and once from an actor that has imitated the family's scripted traitor which
hurts this victim most. The policies on the way are compared on seeds of their own, and the strongest is returned: a
team must not look robust because one training went astray.

Differences from the paper and from its authors' code:
1. They train the adversary with MADDPG, as the team. Against a rendezvous team that scored -10.6 clean and -26.7 under
   the scripted flight, MADDPG's attack stayed between -25.2 and -26.1 in trials of 100,000 to 300,000 steps. PPO from
   scratch came as far in the same time, and it keeps what imitation gave it.
2. The start by imitation, where the family has scripted traitors. There it finds what the script does and little more:
   against that team -26.6, and from scratch -26.2 after 1.6 million steps.
3. The strongest of several policies is kept, by the team's return on seeds that evaluation never uses.
4. Adversaries share their actor, as theirs do; the agent id tells them apart. Actors are feed-forward.
5. A time limit is bootstrapped with the value of the true last observation.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mir2bench.attackers.fixed import scripted_traitors
from mir2bench.errors import ConfigError, PolicyError
from mir2bench.learning.networks import Actor, ActorShape, Critic, legal_logits
from mir2bench.learning.policy import NetworkPolicy
from mir2bench.learning.progress import Callback, Progress
from mir2bench.learning.rollout import rollout
from mir2bench.learning.tasks import AdversaryTask
from mir2bench.learning.threads import one_torch_thread
from mir2bench.partition import Partition
from mir2bench.policies import Policy
from mir2bench.registration import VariantSpec

SELECTION_SEED = 2_000_000
"""First of the seeds on which an attack's candidates are compared; apart from training's and evaluation's."""
SELECTION_EPISODES = 64
REPORTS = 8
"""How often each start reports its strength, spread evenly over its part of the budget."""


@dataclass(frozen=True)
class Config:
    """Settings of the learned attacker.

    Attributes:
        starts: trainings, each with an equal part of the budget: the first imitates the strongest scripted traitor (if
            the family has one), all others begin from scratch.
        hidden: width of all hidden layers.
        lr: Adam's step size at the start; it shrinks linearly to a twentieth.
        imitation_lr: Adam's step size after imitation; while imitating it is 20 times that.
        gamma: discount per step.
        gae: lambda of generalised advantage estimation.
        clip: epsilon, the range of the probability ratio.
        epochs: passes over each batch of rollouts.
        minibatch: samples per gradient step.
        std: standard deviation of continuous exploration at the start; it is learned from then on.
        imitation_std: the same after imitation.
        imitation_steps: gradient steps of imitation.
        worlds: parallel episodes.
        rollout: steps per world and batch.
        max_grad_norm: gradients are clipped to this norm.
    """

    starts: int = 2
    hidden: int = 64
    lr: float = 2e-3
    imitation_lr: float = 2e-4
    gamma: float = 0.98
    gae: float = 0.9
    clip: float = 0.2
    epochs: int = 4
    minibatch: int = 3200
    std: float = 0.5
    imitation_std: float = 0.1
    imitation_steps: int = 4_000
    worlds: int = 256
    rollout: int = 50
    max_grad_norm: float = 0.5

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if not 0 <= value < float("inf") or (value == 0 and name != "imitation_steps"):
                raise ConfigError(f"{name} must be a finite number above 0, but it is {value}.")
        if self.gamma > 1 or self.gae > 1:
            raise ConfigError(f"gamma and gae must be at most 1, but they are {self.gamma} and {self.gae}.")


class LearnedAttacker:
    """Trains the adversaries of one phi against one frozen team."""

    name: ClassVar[str] = "learned"
    Config: ClassVar[type] = Config

    def __init__(self, config: Config | None = None) -> None:
        self.config = self.Config() if config is None else config

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
        """Train on `budget` environment steps in all and return the strongest policy.

        Args:
            variant: the world.
            victim: the frozen team.
            phi: who is adversarial; at least one agent.
            seed: determines everything that is drawn.
            budget: environment steps over all starts.
            callback: gets reports whose "attacked_return" is the team's return under the strongest policy so far,
                and whose "attacked_return/now" is that under the policy in training.

        Raises:
            ConfigError: phi names no adversary, or the budget is not positive.
            PolicyError: the team's returns are not finite.
        """
        if budget < 1:
            raise ConfigError(f"the budget must be 1 step or more, but it is {budget}.")
        if phi.weight == 0:
            raise ConfigError("the learned attacker needs a partition with at least one adversary, but phi is all 0.")

        def strength(policy: Policy) -> float:
            seeds = range(SELECTION_SEED, SELECTION_SEED + SELECTION_EPISODES)
            return float(rollout(variant, victim, phi, policy, seeds).returns.mean())

        teachers = {strength(teacher): teacher for teacher in scripted_traitors(variant)}
        best_score = float("inf")
        best: NetworkPolicy | None = None
        share = budget // self.config.starts
        for start, sequence in enumerate(np.random.SeedSequence(seed).spawn(self.config.starts)):
            training = _Training(variant, victim, phi, self.config, share, int(sequence.generate_state(1)[0]))
            imitates = start == 0 and teachers and self.config.imitation_steps > 0
            for steps, losses in training.run(teachers[min(teachers)] if imitates else None):
                now = strength(training.policy)
                if now < best_score:
                    best_score, best = now, training.snapshot()
                if callback is not None:
                    figures = {"attacked_return": best_score, "attacked_return/now": now, **losses}
                    callback(Progress(min(start * share + steps, budget), budget, figures))
        if best is None:
            raise PolicyError(f"{variant.id}: the team's return under attack was never a finite number.")
        return best


class _Training:
    """One PPO training of `budget` environment steps: its task, networks and optimiser.

    A small budget means fewer worlds, shorter rollouts and less imitation, so that it still holds several updates.
    """

    def __init__(
        self, variant: VariantSpec, victim: Policy, phi: Partition, config: Config, budget: int, seed: int
    ) -> None:
        worlds = min(config.worlds, max(8, budget // (2 * variant.horizon)))
        starts, victim_seed = np.random.SeedSequence(seed).generate_state(2)
        self.config = config
        self.budget = budget
        self.rollout = min(config.rollout, max(1, budget // (4 * worlds)))
        self.task = AdversaryTask(variant, worlds, victim, phi, np.random.default_rng(victim_seed))
        seeds = np.random.default_rng(starts).integers(2**63, size=worlds)
        self.task.reset(seeds=[int(s) for s in seeds])
        layout = self.task.layout
        self.shape = ActorShape(layout.obs_dim, layout.action_dim, layout.discrete, config.hidden, recurrent=False)
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):  # torch draws initial weights from its global generator only
            torch.manual_seed(seed)
            self.actor = Actor(self.shape)
            self.value = Critic(layout.obs_dim, 0, layout.state_dim, config.hidden)
        self.log_std = torch.full((layout.action_dim,), float(np.log(config.std)), requires_grad=True)
        self.policy = NetworkPolicy(self.actor, self.task.n_agents)

    def snapshot(self) -> NetworkPolicy:
        """Return a copy of the policy as it stands."""
        return NetworkPolicy(copy.deepcopy(self.actor), self.task.n_agents)

    def imitate(self, teacher: Policy) -> int:
        """Fit the actor to a teacher, first on the teacher's own episodes, then on those that the actor plays.

        Returns:
            Environment steps that were played.
        """
        rng = np.random.default_rng(0)
        peak = 20 * self.config.imitation_lr
        steps = max(1, min(self.config.imitation_steps, self.budget // 25) // 2)
        half = max(1, self.task.horizon // 2)
        optimizer = torch.optim.Adam(self.actor.parameters(), lr=peak, fused=True)
        seen: list[Tensor] = []
        shown: list[Tensor] = []
        for player in (teacher, self.policy):
            for _ in range(half):
                advice, _ = teacher.act(self.task.obs, None, self.task.mask, rng=rng)
                actions = advice
                if player is not teacher:
                    actions, _ = player.act(self.task.obs, None, self.task.mask, rng=rng)
                seen.append(torch.from_numpy(self.task.obs.copy()))
                shown.append(torch.from_numpy(np.array(advice)))
                self.task.step(actions)
                self._restart()
            obs, target = torch.cat(seen), torch.cat(shown)
            for step in range(steps):
                optimizer.param_groups[0]["lr"] = peak * (1 - 0.95 * step / steps)
                index = torch.randint(len(obs), (512,), generator=self.generator)
                out, _ = self.actor(obs[index])
                if self.shape.discrete:
                    loss = F.cross_entropy(out.flatten(0, 1), target[index].flatten())
                else:
                    loss = F.mse_loss(out, target[index])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            self.log_std.fill_(float(np.log(self.config.imitation_std)))
        return 2 * half * self.task.batch

    def run(self, teacher: Policy | None) -> Iterator[tuple[int, dict[str, float]]]:
        """Train, yielding the environment steps done and the losses from time to time.

        With a teacher it starts by imitation, yields once after it, and then lets the value network learn for a tenth
        of the rounds before the actor follows it.
        """
        config, spent = self.config, 0
        if teacher is not None:
            spent = self.imitate(teacher)
            yield spent, {}
        lr = config.lr if teacher is None else config.imitation_lr
        parameters = [*self.actor.parameters(), *self.value.parameters(), self.log_std]
        optimizer = torch.optim.Adam(parameters, lr=lr, fused=True)
        steps = self.task.batch * self.rollout
        rounds = max(1, (self.budget - spent) // steps)
        value_rounds = 0 if teacher is None else rounds // 10
        reports = {max(1, rounds * k // REPORTS) for k in range(1, REPORTS + 1)}
        for done in range(1, rounds + 1):
            optimizer.param_groups[0]["lr"] = lr * (1 - 0.95 * done / rounds)
            losses = self._improve(optimizer, parameters, train_actor=done > value_rounds)
            if done in reports:
                yield spent + done * steps, losses

    def _improve(
        self, optimizer: torch.optim.Optimizer, parameters: list[Tensor], *, train_actor: bool
    ) -> dict[str, float]:
        """Collect one batch of rollouts and make all epochs over it."""
        config = self.config
        obs, state, mask, action, log_prob, advantage, target = self._rollout()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        nothing = obs.new_zeros(len(obs), obs.shape[1], 0)
        policy_loss = value_loss = obs.new_zeros(())
        for _ in range(config.epochs):
            order = torch.randperm(len(obs), generator=self.generator)
            for index in order.split(config.minibatch):
                new_log_prob = self._log_prob(obs[index], None if mask is None else mask[index], action[index])
                ratio = (new_log_prob - log_prob[index]).exp()
                gain = advantage[index]
                policy_loss = -torch.min(ratio * gain, ratio.clamp(1 - config.clip, 1 + config.clip) * gain).mean()
                value = self.value(state[index], obs[index], nothing[index])
                value_loss = (value - target[index]).square().mean()
                loss = value_loss + (policy_loss if train_actor else 0.0)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], config.max_grad_norm)
                optimizer.step()
        return {"loss/policy": policy_loss.item(), "loss/value": value_loss.item()}

    @torch.no_grad()
    def _rollout(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor]:
        """Play `rollout` steps in all worlds; return flat samples with their advantages and value targets.

        Values are learned in units of 1 / (1 - gamma), so that they stay near 1 whatever the horizon.
        """
        task, config = self.task, self.config
        unit = 1.0 / (1.0 - min(config.gamma, 0.999))
        samples: list[tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]] = []
        rewards, values, next_values, ended = [], [], [], []
        for _ in range(self.rollout):
            obs = torch.from_numpy(task.obs.copy())
            state = torch.from_numpy(task.state.copy())
            mask = None if task.mask is None else torch.from_numpy(task.mask.astype(np.float32))
            action = self._sample(obs, mask)
            log_prob = self._log_prob(obs, mask, action)
            samples.append((obs, state, mask, action, log_prob))
            values.append(self._value() * unit)
            executed = action.numpy() if self.shape.discrete else action.clamp(-1.0, 1.0).numpy()
            task.step(executed)
            rewards.append(torch.from_numpy(task.reward.astype(np.float32)))
            done = task.terminated | task.truncated
            next_values.append(self._value() * unit * torch.from_numpy(~task.terminated))
            ended.append(torch.from_numpy(done))
            self._restart()
        advantage = torch.zeros(task.batch)
        advantages = []
        for t in reversed(range(self.rollout)):
            delta = rewards[t] + config.gamma * next_values[t] - values[t]
            advantage = delta + config.gamma * config.gae * ~ended[t] * advantage
            advantages.append(advantage)
        gains = torch.stack(advantages[::-1])
        targets = (gains + torch.stack(values)) / unit
        obs, state, mask, action, log_prob = zip(*samples, strict=True)
        legal = None if mask[0] is None else torch.cat([m for m in mask if m is not None])
        return (
            torch.cat(obs),
            torch.cat(state),
            legal,
            torch.cat(action),
            torch.cat(log_prob),
            gains.flatten(),
            targets.flatten(),
        )

    def _value(self) -> Tensor:
        """Return V of the task's current states, (B,), in units of 1 / (1 - gamma)."""
        obs = torch.from_numpy(self.task.obs)
        return self.value(torch.from_numpy(self.task.state), obs, obs.new_zeros(*obs.shape[:2], 0))

    def _sample(self, obs: Tensor, mask: Tensor | None) -> Tensor:
        """Draw actions, (B, n, A) before clipping or (B, n)."""
        out, _ = self.actor(obs)
        if self.shape.discrete:
            probs = legal_logits(out, mask).softmax(dim=-1)
            return torch.multinomial(probs.flatten(0, 1), 1, generator=self.generator).view(probs.shape[:2])
        return out + self.log_std.exp() * torch.randn(out.shape, generator=self.generator)

    def _log_prob(self, obs: Tensor, mask: Tensor | None, action: Tensor) -> Tensor:
        """Return the joint log-probability (B,) of the adversaries' actions."""
        logits = self.actor.head(self.actor.features(obs))
        if self.shape.discrete:
            log_probs = legal_logits(logits, mask).log_softmax(dim=-1)
            return log_probs.gather(-1, action[..., None]).sum(dim=(-2, -1))
        gap = (action - torch.tanh(logits)) / self.log_std.exp()
        return -(0.5 * gap.square() + self.log_std).sum(dim=(-2, -1))

    def _restart(self) -> None:
        """Start anew the episodes that have ended."""
        ended = np.flatnonzero(self.task.terminated | self.task.truncated)
        if ended.size:
            self.task.reset(ended)
