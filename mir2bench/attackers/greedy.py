"""The white-box attacker: in every step, what the team's own critic likes least.

A team that ships its centralized critic Q tells an adversary how much every joint action is worth to it. At each step
the K adversaries, who know the state, all observations and what their team-mates are about to do, play

    argmin_b Q(s, o, (b, a^{-phi})),

by signed gradient steps from several starts for continuous actions; for discrete ones by enumeration over the legal
actions, exact for one adversary, while several change one action after the other, the most harmful first, until no
single change helps. A critic that is told phi is told the true one. Nothing is trained.

A critic sees as far as its discount, assumes that everybody follows the team's policy from the next step on, and knows
only the joint actions it was trained on: this attack is no upper bound on what a learned one finds. It is the one that
max-min defenders train against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mir2bench.attackers.checks import check_attack
from mir2bench.errors import ConfigError, NotApplicableError
from mir2bench.learning.networks import Critic
from mir2bench.learning.progress import Callback
from mir2bench.learning.rollout import Moment
from mir2bench.learning.worst_case import Situation
from mir2bench.partition import Partition
from mir2bench.policies import Carry, Policy
from mir2bench.registration import VariantSpec


@dataclass(frozen=True)
class Config:
    """Settings of the white-box attacker.

    Attributes:
        starts: actions from which the descent begins: what the team would have played, then random ones.
        steps: signed gradient steps from each.
        size: length of the first step, per action component, whose range is 2; later ones shrink linearly.
        sweeps: for discrete actions of K > 1 adversaries, most changes per adversary.
    """

    starts: int = 4
    steps: int = 10
    size: float = 0.4
    sweeps: int = 3

    def __post_init__(self) -> None:
        for name in ("starts", "steps", "size", "sweeps"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be a finite number above 0, but it is {getattr(self, name)}.")


class GreedyAttacker:
    """Builds the white-box adversaries of one team; there is nothing to train."""

    name: ClassVar[str] = "greedy"
    Config: ClassVar[type] = Config
    trains: ClassVar[bool] = False

    def __init__(self, config: Config | None = None) -> None:
        self.config = Config() if config is None else config

    def attack(
        self,
        variant: VariantSpec,
        victim: Policy,
        phi: Partition,
        *,
        seed: int,
        budget: int,
        callback: Callback | None = None,
    ) -> Policy:
        """Return the adversaries' policy; seed and budget do not matter.

        Raises:
            NotApplicableError: the team ships no critic.
            PartitionError: see `check_attack`.
        """
        check_attack(self.name, variant, phi)
        critic = getattr(victim, "critic", None)
        if critic is None:
            raise NotApplicableError(
                f"the attacker `greedy` minimizes the team's own critic, but this team ({type(victim).__name__}) "
                "ships none. Choose another attacker, or a team trained with a centralized critic."
            )
        return GreedyPolicy(critic, phi, variant.layout.discrete, self.config)


class GreedyPolicy:
    """Adversaries that minimize a critic. They have to know everything, so they play in roll-outs only.

    Args:
        critic: of the team.
        phi: who is adversarial.
        discrete: whether actions are.
        config: how to search.
    """

    def __init__(self, critic: Critic, phi: Partition, discrete: bool, config: Config) -> None:
        self._critic = critic
        self._phi = torch.tensor(phi.phi, dtype=torch.float32)
        self._discrete = discrete
        self._config = config

    def initial_carry(self, batch: int) -> Carry:
        """Return None: nothing is remembered."""
        return None

    def act(self, obs: Any, carry: Carry, mask: Any = None, *, rng: Any, deterministic: bool = True) -> Any:
        """Refuse: own observations are not enough."""
        raise NotApplicableError(
            "the attacker `greedy` cannot act on observations alone: it plays where `act_knowing` is called, as in "
            "`mir2bench.learning.rollout.rollout`."
        )

    def act_knowing(self, moment: Moment, carry: Carry, *, rng: np.random.Generator) -> tuple[np.ndarray, Carry]:
        """Return the adversaries' actions, (B, K, A) or (B, K); see `rollout.Knowing`."""
        at = Situation.of(moment, moment.actions)
        choices = _Choices(self._critic, at, self._phi)
        if self._discrete:
            return self._enumerate(choices).numpy(), carry
        return self._descend(choices, rng).numpy(), carry

    def _descend(self, choices: _Choices, rng: np.random.Generator) -> Tensor:
        """Return the actions (B, K, A) of the lowest value on all descents, all starts at once."""
        own = choices.own
        random = rng.uniform(-1.0, 1.0, (len(own), self._config.starts - 1, *own.shape[1:])).astype(np.float32)
        action = torch.cat([own[:, None], torch.from_numpy(random)], dim=1)
        best, lowest = own, torch.full((len(own),), torch.inf)
        for step in range(self._config.steps + 1):
            action.requires_grad_()
            value = choices.values(action)
            now, start = value.detach().min(dim=1)
            better = now < lowest
            best = torch.where(better[:, None, None], action.detach()[torch.arange(len(own)), start], best)
            lowest = torch.where(better, now, lowest)
            if step < self._config.steps:
                (gradient,) = torch.autograd.grad(value.sum(), action)
                size = self._config.size * (1 - step / self._config.steps)
                action = (action.detach() - size * torch.sign(gradient)).clamp(-1.0, 1.0)
        return best

    @torch.no_grad()
    def _enumerate(self, choices: _Choices) -> Tensor:
        """Return legal actions (B, K) after the most harmful single changes."""
        k, actions = choices.own.shape[1:]
        chosen = choices.own.argmax(dim=-1)
        # Candidate k * A + a is the present choice with adversary k playing a.
        who, what = torch.arange(k).repeat_interleave(actions), torch.arange(actions).repeat(k)
        change = F.one_hot(who, k).bool()
        for _ in range(1 if k == 1 else self._config.sweeps * k):
            candidates = torch.where(change, what[:, None], chosen[:, None])
            values = choices.values(F.one_hot(candidates, actions).float())
            if choices.legal is not None:
                values = values.masked_fill(~choices.legal.flatten(1), torch.inf)
            before, chosen = chosen, candidates[torch.arange(len(chosen)), values.argmin(dim=-1)]
            if torch.equal(before, chosen):
                break
        return chosen


class _Choices:
    """What a critic makes of the adversaries' choices while everything else stays as it is.

    Attributes:
        own: (B, K, A), what the team's policy would have played in their place.
        legal: (B, K, A) bool, or None.
    """

    @torch.no_grad()
    def __init__(self, critic: Critic, at: Situation, phi: Tensor) -> None:
        self._critic = critic
        self._n_agents = len(phi)
        index = phi.nonzero()[:, 0]
        self.own = at.action[:, index]
        self.legal = None if at.mask is None else at.mask[:, index] > 0
        read = critic.read(at.obs, phi.expand(len(at.obs), -1))
        self._read = read[:, None, index]
        self._others = critic.embed(read, at.action)[:, None, phi == 0].sum(dim=-2)
        self._world = critic.embed_state(at.state)[:, None]

    def values(self, action: Tensor) -> Tensor:
        """Return Q (B, S) of S candidates (B, S, K, A) for the adversaries' actions."""
        own = self._critic.embed(self._read, action).sum(dim=-2)
        return self._critic.judge((self._others + own) / self._n_agents, self._world)
