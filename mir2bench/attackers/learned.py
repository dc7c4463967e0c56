"""The learned worst case: a zero-sum adversary trained against one frozen team and one partition (paper, Eq. 3).

The adversaries' actor reads their own observations, a value network the global state and these observations; the
victim is frozen, greedy and part of the environment. They maximise minus the reward channel that the variant names for
attacks, by proximal policy optimisation (Schulman et al. 2017): with advantages A_t from GAE and the probability ratio
rho = pi(a_t | o_t) / pi_old(a_t | o_t), all epochs over a batch of rollouts descend

    L = - mean min(rho A, clip(rho, 1 - epsilon, 1 + epsilon) A) + mean (V(s_t, o_t) - R_t)^2.

Training starts twice: once from scratch, and once from an actor that has imitated the family's scripted traitor which
hurts this victim most. The policies before and after are compared on seeds of their own, and the strongest is returned:
a team must not look robust because one training went astray.

Differences from the paper and from its authors' code:
1. They train the adversary with MADDPG, as the team. Against rendezvous teams MADDPG settled at attacks weaker than the
   scripted one, however long it trained, and PPO from scratch came nearer to it; a strong attack is the point here.
2. The start by imitation, where the family has scripted traitors.
3. The strongest of several policies is kept, by the team's return on seeds that evaluation never uses.
4. Adversaries share their actor, as theirs do; the agent id tells them apart. Actors are feed-forward.
5. A time limit is bootstrapped with the value of the true last observation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mir2bench.attackers.fixed import scripted_traitors
from mir2bench.errors import ConfigError
from mir2bench.learning.measure import play
from mir2bench.learning.networks import Actor, ActorShape, Critic, legal_logits
from mir2bench.learning.policy import NetworkPolicy
from mir2bench.learning.progress import Callback, Progress
from mir2bench.learning.tasks import AdversaryTask
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
        logit_penalty: weight of the squared excess of continuous actors' logits over 3 (tanh 3 = 0.995).
        max_grad_norm: gradients are clipped to this norm.
    """

    starts: int = 2
    hidden: int = 64
    lr: float = 2e-3
    imitation_lr: float = 2e-4
    gamma: float = 0.99
    gae: float = 0.95
    clip: float = 0.2
    epochs: int = 4
    minibatch: int = 3200
    std: float = 0.5
    imitation_std: float = 0.1
    imitation_steps: int = 2_000
    worlds: int = 256
    rollout: int = 50
    logit_penalty: float = 1e-2
    max_grad_norm: float = 0.5

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if not 0 <= value < float("inf") or (value == 0 and name not in ("imitation_steps", "logit_penalty")):
                raise ConfigError(f"{name} must be a finite number above 0, but it is {value}.")
        if self.gamma > 1 or self.gae > 1:
            raise ConfigError(f"gamma and gae must be at most 1, but they are {self.gamma} and {self.gae}.")


class LearnedAttacker:
    """Trains the adversaries of one phi against one frozen team."""

    name: ClassVar[str] = "learned"
    Config: ClassVar[type] = Config

    def __init__(self, config: Config | None = None) -> None:
        self.config = self.Config() if config is None else config

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
            ConfigError: phi names no adversary.
        """
        if phi.weight == 0:
            raise ConfigError("the learned attacker needs a partition with at least one adversary, but phi is all 0.")

        def strength(policy: Policy) -> float:
            seeds = range(SELECTION_SEED, SELECTION_SEED + SELECTION_EPISODES)
            rng = np.random.default_rng(0)
            return float(play(variant, victim, seeds=seeds, rng=rng, adversary=policy, phi=phi).returns.mean())

        teachers = {strength(teacher): teacher for teacher in scripted_traitors(variant)}
        candidates: list[tuple[float, NetworkPolicy]] = []
        share = budget // self.config.starts
        for start, sequence in enumerate(np.random.SeedSequence(seed).spawn(self.config.starts)):
            teacher = teachers[min(teachers)] if teachers and start == 0 and self.config.imitation_steps else None
            training = _Training(variant, victim, phi, self.config, int(sequence.generate_state(1)[0]))
            if teacher is not None:
                training.imitate(teacher)
                candidates.append((strength(training.policy), training.snapshot()))

            def report(steps: int, metrics: dict[str, float], before: int = start * share) -> None:
                now = strength(training.policy)  # noqa: B023 - called before the loop goes on
                best = min([now, *(score for score, _ in candidates)])
                if callback is not None:
                    figures = {"attacked_return": best, "attacked_return/now": now, **metrics}
                    callback(Progress(min(before + steps, budget), budget, figures))

            training.run(share, report)
            candidates.append((strength(training.policy), training.policy))
        return min(candidates, key=lambda candidate: candidate[0])[1]


class _Training:
    """One PPO training: its task, networks and optimiser."""

    def __init__(self, variant: VariantSpec, victim: Policy, phi: Partition, config: Config, seed: int) -> None:
        starts, victim_seed = np.random.SeedSequence(seed).generate_state(2)
        self.config = config
        self.task = AdversaryTask(variant, config.worlds, victim, phi, np.random.default_rng(victim_seed))
        seeds = np.random.default_rng(starts).integers(2**63, size=config.worlds)
        self.task.reset(seeds=[int(s) for s in seeds])
        layout = self.task.layout
        self.shape = ActorShape(layout.obs_dim, layout.action_dim, layout.discrete, config.hidden, recurrent=False)
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):  # torch draws initial weights from its global generator only
            torch.manual_seed(seed)
            self.actor = Actor(self.shape)
            self.value = Critic(layout.obs_dim, 0, layout.state_dim, config.hidden)
        self.log_std = torch.full((layout.action_dim,), float(np.log(config.std)), requires_grad=True)
        self.lr = config.lr
        self.policy = NetworkPolicy(self.actor, self.task.n_agents)

    def snapshot(self) -> NetworkPolicy:
        """Return a copy of the policy as it stands."""
        actor = Actor(self.shape)
        actor.load_state_dict(self.actor.state_dict())
        return NetworkPolicy(actor, self.task.n_agents)

    def imitate(self, teacher: Policy) -> None:
        """Fit the actor to a teacher: first on the teacher's own episodes, then on those that the actor plays."""
        rng = np.random.default_rng(0)
        optimizer = torch.optim.Adam(self.actor.parameters(), lr=20 * self.config.imitation_lr, fused=True)
        seen: list[Tensor] = []
        shown: list[Tensor] = []
        for player in (teacher, self.policy):
            carry, teacher_carry = player.initial_carry(self.task.batch), teacher.initial_carry(self.task.batch)
            for _ in range(self.task.horizon // 2):
                advice, teacher_carry = teacher.act(self.task.obs, teacher_carry, self.task.mask, rng=rng)
                actions = advice
                if player is not teacher:
                    actions, carry = player.act(self.task.obs, carry, self.task.mask, rng=rng)
                seen.append(torch.from_numpy(self.task.obs.copy()))
                shown.append(torch.from_numpy(np.array(advice)))
                self._play(actions)
            obs, advice = torch.cat(seen), torch.cat(shown)
            steps = self.config.imitation_steps // 2
            for step in range(steps):
                optimizer.param_groups[0]["lr"] = 20 * self.config.imitation_lr * (1 - 0.95 * step / steps)
                index = torch.randint(len(obs), (512,), generator=self.generator)
                out, _ = self.actor(obs[index])
                if self.shape.discrete:
                    loss = F.cross_entropy(out.flatten(0, 1), advice[index].flatten())
                else:
                    loss = F.mse_loss(out, advice[index])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
        self.lr = self.config.imitation_lr
        with torch.no_grad():
            self.log_std.fill_(float(np.log(self.config.imitation_std)))

    def run(self, budget: int, report: Callable[[int, dict[str, float]], None]) -> None:
        """Train for `budget` environment steps; `report` gets the steps done and the losses."""
        config = self.config
        parameters = [*self.actor.parameters(), *self.value.parameters(), self.log_std]
        optimizer = torch.optim.Adam(parameters, lr=self.lr, fused=True)
        rounds = max(1, budget // (config.worlds * config.rollout))
        value_rounds = rounds // 10 if self.lr == config.imitation_lr else 0  # the value learns before it is trusted
        reports = {max(1, rounds * k // REPORTS) for k in range(1, REPORTS + 1)}
        for done in range(1, rounds + 1):
            optimizer.param_groups[0]["lr"] = self.lr * (1 - 0.95 * done / rounds)
            losses = self._improve(optimizer, parameters, train_actor=done > value_rounds)
            if done in reports:
                report(done * config.worlds * config.rollout, losses)

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
                new_log_prob, logits = self._log_prob(obs[index], None if mask is None else mask[index], action[index])
                ratio = (new_log_prob - log_prob[index]).exp()
                gain = advantage[index]
                policy_loss = -torch.min(ratio * gain, ratio.clamp(1 - config.clip, 1 + config.clip) * gain).mean()
                value = self.value(state[index], obs[index], nothing[index])
                value_loss = (value - target[index]).square().mean()
                loss = value_loss + (policy_loss if train_actor else 0.0)
                if not self.shape.discrete:
                    loss = loss + config.logit_penalty * (logits.abs() - 3.0).clamp_min(0.0).square().mean()
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
        for _ in range(config.rollout):
            obs = torch.from_numpy(task.obs.copy())
            state = torch.from_numpy(task.state.copy())
            mask = None if task.mask is None else torch.from_numpy(task.mask.astype(np.float32))
            action = self._sample(obs, mask)
            log_prob, _ = self._log_prob(obs, mask, action)
            samples.append((obs, state, mask, action, log_prob))
            values.append(self._value() * unit)
            executed = action.numpy() if self.shape.discrete else action.clamp(-1.0, 1.0).numpy()
            task.step(executed)
            rewards.append(torch.from_numpy(task.reward.astype(np.float32)))
            done = task.terminated | task.truncated
            next_values.append(self._value() * unit * torch.from_numpy(~task.terminated))
            ended.append(torch.from_numpy(done))
            self._restart(done)
        advantage = torch.zeros(task.batch)
        advantages = []
        for t in reversed(range(config.rollout)):
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

    def _log_prob(self, obs: Tensor, mask: Tensor | None, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return the joint log-probability (B,) of the adversaries' actions, and the actor's logits."""
        logits = self.actor.head(self.actor.features(obs))
        if self.shape.discrete:
            log_probs = legal_logits(logits, mask).log_softmax(dim=-1)
            return log_probs.gather(-1, action[..., None]).sum(dim=(-2, -1)), logits
        gap = (action - torch.tanh(logits)) / self.log_std.exp()
        return -(0.5 * gap.square() + self.log_std).sum(dim=(-2, -1)), logits

    def _play(self, actions: np.ndarray) -> None:
        self.task.step(actions)
        self._restart(self.task.terminated | self.task.truncated)

    def _restart(self, done: np.ndarray) -> None:
        ended = np.flatnonzero(done)
        if ended.size:
            self.task.reset(ended)
