"""The learned worst case: a zero-sum adversary trained against one frozen team and one partition (paper, Eq. 3).

The adversaries' actor reads their own observations, a value network the global state and these observations; the
victim is frozen, greedy and part of the environment. They maximize minus the reward channel that the variant names for
attacks, by proximal policy optimization (Schulman et al. 2017): with normalized advantages A_t from GAE and the ratio
rho = pi(a_t | o_t) / pi_old(a_t | o_t) of probabilities, all epochs over a batch of rollouts descend

    L = - mean min(rho A, clip(rho, 1 - epsilon, 1 + epsilon) A) + mean (V(s_t, o_t) - R_t)^2.

Training starts twice: once from what hurts this victim most of the family's scripted traitors and of doing nothing, to
whose actions the actor's output, zero at first, is added (residual policy learning, Silver et al. 2018); once without
scripts, from the most harmful of many random networks (`scouting`). The policies on the way are compared on seeds of
their own, and the strongest is returned: a team must not look robust because one training went astray.

Continuous exploration is correlated in time: noise that is drawn anew in each step cancels out before a team reacts to
it (colored noise, Hollenstein et al. 2024). The likelihoods are those of the noise of one step.

Differences from the paper and from its authors' code:
1. They train the adversary with MADDPG, as the team. Against a rendezvous team that scored -10.6 clean and -26.7 under
   the scripted flight, MADDPG's attack stayed between -25.2 and -26.1 in trials of 100,000 to 300,000 steps. PPO from
   scratch came as far in the same time, and it does not spoil a good start.
2. The starts from a script, where the family has scripted traitors, and from a scouted network.
3. The strongest of several policies is kept, by the team's return on seeds that evaluation never uses.
4. Adversaries share their actor, as theirs do, and the agent id tells them apart; `shared=False` gives each its own.
   Actors are feed-forward.
5. A time limit is bootstrapped with the value of the true last observation. Worlds stand at different phases of their
   episodes (`StaggeredTask`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mir2bench.attackers.checks import check_attack
from mir2bench.attackers.scouting import affordable, heads, scout
from mir2bench.attackers.staggered import StaggeredTask
from mir2bench.attackers.strongest import Strongest
from mir2bench.errors import ConfigError
from mir2bench.learning.architectures import Network, SeparateActors, SeparateShape
from mir2bench.learning.networks import Actor, ActorShape, Critic, legal_logits
from mir2bench.learning.policy import NetworkPolicy, script_output
from mir2bench.learning.progress import Callback, Progress
from mir2bench.learning.threads import one_torch_thread
from mir2bench.partition import Partition
from mir2bench.policies import Policy, build_scripted, worst_behaviors
from mir2bench.registration import VariantSpec

REPORTS = 8
"""How often each start reports its strength, spread evenly over its part of the budget."""


@dataclass(frozen=True)
class Config:
    """Settings of the learned attacker.

    Attributes:
        starts: trainings, each with an equal part of the budget: the first builds on the strongest scripted traitor (if
            the family has one), all others begin from a scouted network.
        scouts: random networks tried before such a beginning, fewer on small budgets; 0 begins from the first at hand.
        shared: whether all adversaries share one actor rather than have one each.
        hidden: width of all hidden layers.
        lr: Adam's step size for the actor at the start; it shrinks linearly to a twentieth.
        script_lr: the same on top of a script.
        value_lr: the same for the value network.
        gamma: discount per step.
        gae: lambda of generalized advantage estimation.
        clip: epsilon, the range of the probability ratio.
        epochs: passes over each batch of rollouts.
        minibatch: samples per gradient step.
        std: standard deviation of continuous exploration at the start; it is learned from then on.
        script_std: the same on top of a script.
        persistence: correlation of continuous exploration from one step to the next.
        worlds: parallel episodes.
        rollout: steps per world and batch.
        max_grad_norm: gradients of the actor and of the value network are each clipped to this norm.
    """

    starts: int = 2
    scouts: int = 64
    shared: bool = True
    hidden: int = 64
    lr: float = 5e-4
    script_lr: float = 2e-4
    value_lr: float = 2e-3
    gamma: float = 0.995
    gae: float = 0.97
    clip: float = 0.2
    epochs: int = 4
    minibatch: int = 800
    std: float = 0.3
    script_std: float = 0.1
    persistence: float = 0.9
    worlds: int = 64
    rollout: int = 50
    max_grad_norm: float = 0.5

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self) if f.name != "shared"):
            value = getattr(self, name)
            may_be_zero = name in ("scouts", "persistence")
            if not (0 < value < float("inf") or (may_be_zero and value == 0)):
                least = "of at least 0" if may_be_zero else "above 0"
                raise ConfigError(f"{name} must be a finite number {least}, but it is {value}.")
        if self.gamma > 1 or self.gae > 1:
            raise ConfigError(f"gamma and gae must be at most 1, but they are {self.gamma} and {self.gae}.")
        if self.persistence >= 1:
            raise ConfigError(f"persistence must be below 1, but it is {self.persistence}.")


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
            PartitionError, ConfigError: see `check_attack`.
            PolicyError: the team's returns are not finite.
        """
        check_attack(self.name, variant, phi, budget)
        strongest = Strongest(variant, victim, phi)
        scripts = {name: build_scripted(p, variant) for name, p in worst_behaviors(variant).items()}
        hardest = min(scripts, key=lambda name: strongest.returns_under(scripts[name]).mean(), default="")
        share = budget // self.config.starts
        for start, sequence in enumerate(np.random.SeedSequence(seed).spawn(self.config.starts)):
            script = (hardest, scripts[hardest]) if hardest and start == 0 else None
            own_seed = int(sequence.generate_state(1)[0])
            training = _Training(variant, victim, phi, self.config, share, own_seed, script)
            with closing(training.task):
                for steps, losses in training.run():
                    scores = strongest.offer(training.policy, training.snapshot)
                    if callback is not None:
                        callback(Progress(min(start * share + steps, budget), budget, {**scores, **losses}))
        return strongest.policy()


class _Training:
    """One PPO training of `budget` environment steps: its task, networks and optimizer.

    A small budget means fewer worlds and shorter rollouts, so that it still holds several updates. With a script, the
    actor's output is added to the script's actions; it is zero at first, so that training starts as good as the script.
    """

    def __init__(
        self,
        variant: VariantSpec,
        victim: Policy,
        phi: Partition,
        config: Config,
        budget: int,
        seed: int,
        script: tuple[str, Policy] | None,
    ) -> None:
        worlds = min(config.worlds, max(8, budget // (2 * variant.horizon)))
        self.config = config
        self.budget = budget
        self.seed = seed
        self.rollout = min(config.rollout, max(1, budget // (4 * worlds)))
        self.task = StaggeredTask(variant, worlds, victim, phi, seed)
        layout = self.task.layout
        self.shape = ActorShape(layout.obs_dim, layout.action_dim, layout.discrete, config.hidden, recurrent=False)
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):  # torch draws initial weights from its global generator only
            torch.manual_seed(seed)
            self.actor = self._new_actor()
            self.value = Critic(layout.obs_dim, 0, layout.state_dim, config.hidden)
        if script is not None:
            for head in heads(self.actor):
                torch.nn.init.zeros_(head.weight)
                torch.nn.init.zeros_(head.bias)
        std = config.std if script is None else config.script_std
        self.log_std = torch.full((layout.action_dim,), float(np.log(std)), requires_grad=True)
        self.noise: Tensor | None = None
        self.script = script
        self.script_rng = np.random.default_rng(seed)
        self.script_carry = None if script is None else script[1].initial_carry(worlds)
        self.policy = NetworkPolicy(self.actor, self.task.n_agents, script=script)
        self.played_against = (variant, victim, phi)

    def snapshot(self) -> NetworkPolicy:
        """Return a copy of the policy as it stands."""
        return NetworkPolicy(copy.deepcopy(self.actor), self.task.n_agents, script=self.script)

    def run(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Train, yielding the environment steps done and the losses from time to time.

        A good start, from a script or from scouting, is yielded first of all; and before the actor leaves it, the value
        network learns for a tenth of the rounds.
        """
        config = self.config
        used = self._scout() if self.script is None else 0
        if used or self.script is not None:
            yield used, {}
        rates = (config.lr if self.script is None else config.script_lr, config.value_lr)
        networks = ([*self.actor.parameters(), self.log_std], list(self.value.parameters()))
        groups = [{"params": network, "lr": lr} for network, lr in zip(networks, rates, strict=True)]
        optimizer = torch.optim.Adam(groups, fused=True)
        steps = self.task.batch * self.rollout
        rounds = max(1, (self.budget - used) // steps)
        reports = {max(1, rounds * k // REPORTS) for k in range(1, REPORTS + 1)}
        for done in range(1, rounds + 1):
            for group, lr in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = lr * (1 - 0.95 * done / rounds)
            losses = self._improve(optimizer, train_actor=done > rounds // 10)
            if done in reports:
                yield used + done * steps, losses

    def _new_actor(self) -> Network:
        """Draw an actor from torch's global generator."""
        shape, k = self.shape, self.task.n_agents
        if self.config.shared or k == 1:
            return Actor(shape)
        return SeparateActors(SeparateShape(shape.obs_dim, shape.action_dim, shape.discrete, shape.hidden, k))

    def _scout(self) -> int:
        """Take over the weights of the best of many random networks; return the environment steps that it took."""
        count = affordable(self.config.scouts, self.played_against[0], self.budget)
        if count == 0:
            return 0
        found, steps = scout(*self.played_against, self._new_actor, count, self.seed)
        self.actor.load_state_dict(found.state_dict())
        return steps

    def _improve(self, optimizer: torch.optim.Optimizer, *, train_actor: bool) -> dict[str, float]:
        """Collect one batch of rollouts and make all epochs over it."""
        config = self.config
        obs, state, mask, base, action, log_prob, advantage, target = self._rollout()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        nothing = obs.new_zeros(len(obs), obs.shape[1], 0)
        policy_loss = value_loss = obs.new_zeros(())
        for _ in range(config.epochs):
            order = torch.randperm(len(obs), generator=self.generator)
            for index in order.split(config.minibatch):
                legal = None if mask is None else mask[index]
                new_log_prob = self._log_prob(self.actor(obs[index])[0] + base[index], legal, action[index])
                ratio = (new_log_prob - log_prob[index]).exp()
                gain = advantage[index]
                policy_loss = -torch.min(ratio * gain, ratio.clamp(1 - config.clip, 1 + config.clip) * gain).mean()
                value = self.value(state[index], obs[index], nothing[index])
                value_loss = (value - target[index]).square().mean()
                loss = value_loss + (policy_loss if train_actor else 0.0)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                for group in optimizer.param_groups:
                    trained = [p for p in group["params"] if p.grad is not None]
                    torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
                optimizer.step()
        return {"loss/policy": policy_loss.item(), "loss/value": value_loss.item()}

    @torch.no_grad()
    def _rollout(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Play `rollout` steps in all worlds; return flat samples with their advantages and value targets.

        Values are learned in units of 1 / (1 - gamma), so that they stay near 1 whatever the horizon. Nothing that is
        done meanwhile depends on them: they are computed at the end, in one pass.
        """
        task, config = self.task, self.config
        seen, states, masks, bases, outs, actions = [], [], [], [], [], []
        rewards, terminated, ended = [], [], []
        last_seen, last_states = [], []  # where episodes ended
        for _ in range(self.rollout):
            obs = torch.from_numpy(task.obs.copy())
            mask = None if task.mask is None else torch.from_numpy(task.mask.astype(np.float32))
            base = self._base()
            out = self.actor(obs)[0] + base
            action = self._sample(out, mask)
            for kept, part in zip((seen, masks, bases, outs, actions), (obs, mask, base, out, action), strict=True):
                kept.append(part)
            states.append(torch.from_numpy(task.state.copy()))
            task.step(action.numpy() if self.shape.discrete else action.clamp(-1.0, 1.0).numpy())
            over = task.ended
            rewards.append(torch.from_numpy(task.reward.astype(np.float32)))
            terminated.append(torch.from_numpy(task.terminated.copy()))
            ended.append(torch.from_numpy(over))
            if over.any():
                last_seen.append(torch.from_numpy(task.obs[over]))
                last_states.append(torch.from_numpy(task.state[over]))
                self._forget(over)
                task.restart()
        obs, state, base, out, action = map(torch.cat, (seen, states, bases, outs, actions))
        mask = None if masks[0] is None else torch.cat(masks)

        unit = 1.0 / (1.0 - min(config.gamma, 0.999))
        all_obs = torch.cat([obs, torch.from_numpy(task.obs), *last_seen])
        all_states = torch.cat([state, torch.from_numpy(task.state), *last_states])
        judged = self.value(all_states, all_obs, all_obs.new_zeros(*all_obs.shape[:2], 0)) * unit
        steps, batch = len(obs), task.batch
        values = judged[:steps].view(-1, batch)
        next_values = judged[batch : steps + batch].view(-1, batch).clone()
        over = torch.stack(ended)
        next_values[over] = judged[steps + batch :]
        next_values[torch.stack(terminated)] = 0.0
        delta = torch.stack(rewards) + config.gamma * next_values - values
        advantage = torch.zeros_like(delta)
        ahead = torch.zeros(batch)
        for t in reversed(range(self.rollout)):
            ahead = delta[t] + config.gamma * config.gae * ~over[t] * ahead
            advantage[t] = ahead
        target = (advantage + values) / unit
        log_prob = self._log_prob(out, mask, action)
        return obs, state, mask, base, action, log_prob, advantage.flatten(), target.flatten()

    def _base(self) -> Tensor:
        """Return what the script adds to the actor's outputs now, (B, n, A); zeros without one."""
        if self.script is None:
            return torch.zeros(self.task.batch, self.task.n_agents, self.shape.action_dim)
        base, self.script_carry = script_output(
            self.script[1], self.task.obs, self.script_carry, self.task.mask, self.shape, self.script_rng
        )
        return base

    def _forget(self, done: np.ndarray) -> None:
        """Empty the script's memory in worlds that start anew."""
        if self.script is not None and self.script_carry is not None:
            fresh = np.asarray(self.script[1].initial_carry(self.task.batch))
            self.script_carry = np.array(self.script_carry)
            self.script_carry[done] = fresh[done]

    def _sample(self, out: Tensor, mask: Tensor | None) -> Tensor:
        """Draw actions around the outputs (B, n, A), (B, n, A) before clipping or (B, n)."""
        if self.shape.discrete:
            probs = legal_logits(out, mask).softmax(dim=-1)
            return torch.multinomial(probs.flatten(0, 1), 1, generator=self.generator).view(probs.shape[:2])
        fresh, rho = torch.randn(out.shape, generator=self.generator), self.config.persistence
        noise = fresh if self.noise is None else rho * self.noise + (1 - rho**2) ** 0.5 * fresh
        self.noise = noise
        return out + self.log_std.exp() * noise

    def _log_prob(self, out: Tensor, mask: Tensor | None, action: Tensor) -> Tensor:
        """Return the joint log-probability (B,) of the adversaries' actions, given their outputs (B, n, A)."""
        if self.shape.discrete:
            log_probs = legal_logits(out, mask).log_softmax(dim=-1)
            return log_probs.gather(-1, action[..., None]).sum(dim=(-2, -1))
        gap = (action - out) / self.log_std.exp()
        return -(0.5 * gap.square() + self.log_std).sum(dim=(-2, -1))
