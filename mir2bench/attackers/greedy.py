"""The white-box attacker: in every step, what the team's own critic likes least.

A team that ships its centralized critic Q tells an adversary how much every joint action is worth to it. At each step
the K adversaries, who know the state, all observations and what their team-mates are about to do, play

    argmin_b Q(s, o, (b, a^{-phi})),

by signed gradient steps from several starts for continuous actions, by exact enumeration over legal ones for discrete
actions (one adversary at a time, in turn, when there are several). Nothing is trained. A critic sees as far as its
discount, and knows only the joint actions it was trained on, so that this attack is no upper bound on what a learned
one finds; it is the one that max-min defenses such as RoM-Q train against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mir2bench.errors import ConfigError, NotApplicableError
from mir2bench.learning.networks import Critic
from mir2bench.learning.progress import Callback
from mir2bench.learning.rollout import Moment
from mir2bench.learning.worst_case import Situation, as_actions
from mir2bench.partition import Partition
from mir2bench.policies import Carry, Policy
from mir2bench.registration import VariantSpec


@dataclass(frozen=True)
class Config:
    """Settings of the white-box attacker.

    Attributes:
        starts: actions from which the descent begins: what the team would have played, then random ones.
        steps: signed gradient steps from each.
        size: length of a step, per action component; its range is 2.
        sweeps: for discrete actions, how often each of several adversaries chooses anew.
    """

    starts: int = 4
    steps: int = 10
    size: float = 0.2
    sweeps: int = 2

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
            ConfigError: phi names no adversary.
        """
        critic = getattr(victim, "critic", None)
        if critic is None:
            raise NotApplicableError(
                f"the attacker `greedy` reads the team's own critic, but this team ({type(victim).__name__}) ships "
                "none. Choose another attacker, or a team trained with a centralized critic."
            )
        if phi.weight == 0:
            raise ConfigError("the attacker `greedy` needs a partition with at least one adversary, but phi is all 0.")
        return GreedyPolicy(critic, phi, variant.layout.discrete, self.config)


class GreedyPolicy:
    """Adversaries that minimize a critic. They need to know everything, so they play in roll-outs only."""

    def __init__(self, critic: Critic, phi: Partition, discrete: bool, config: Config) -> None:
        self._critic = critic
        self._index = list(phi.adversaries)
        self._discrete = discrete
        self._config = config

    def initial_carry(self, batch: int) -> Carry:
        """Return None: nothing is remembered."""
        return None

    def act(self, obs: Any, carry: Carry, mask: Any = None, *, rng: Any, deterministic: bool = True) -> Any:
        """Refuse: own observations are not enough."""
        raise NotApplicableError("white-box adversaries need `act_knowing`: they cannot act on observations alone.")

    def act_knowing(self, moment: Moment, carry: Carry, *, rng: np.random.Generator) -> tuple[np.ndarray, Carry]:
        """Return the adversaries' actions, (B, K, A) or (B, K); see `rollout.Knowing`."""
        at = Situation.of(moment, moment.actions)
        with torch.no_grad():
            read = self._critic.read(at.obs, at.phi)
            agents = self._critic.embed(read, at.action)
            scene = _Scene(
                critic=self._critic,
                read=read[:, self._index],
                rest=agents.sum(dim=-2) - agents[:, self._index].sum(dim=-2),
                world=self._critic.embed_state(at.state),
                n_agents=agents.shape[-2],
            )
        team = at.action[:, self._index]
        mask = None if at.mask is None else at.mask[:, self._index]
        own = self._enumerate(scene, team, mask) if self._discrete else self._descend(scene, team, rng)
        return as_actions(own, self._discrete), carry

    def _descend(self, scene: _Scene, team: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the best end points (B, K, A) of descents from what the team would play and from random actions."""
        random = rng.uniform(-1.0, 1.0, (self._config.starts - 1, *team.shape)).astype(np.float32)
        own = torch.cat([team[None], torch.from_numpy(random)])  # (starts, B, K, A)
        for _ in range(self._config.steps):
            own.requires_grad_()
            (gradient,) = torch.autograd.grad(scene.value(own).sum(), own)
            own = (own.detach() - self._config.size * torch.sign(gradient)).clamp(-1.0, 1.0)
        with torch.no_grad():
            best = scene.value(own).argmin(dim=0)
        return own[best, torch.arange(len(best))]

    @torch.no_grad()
    def _enumerate(self, scene: _Scene, team: Tensor, mask: Tensor | None) -> Tensor:
        """Return what is worst, (B, K, A), after each adversary has chosen among its legal actions in turn."""
        own, every = team.clone(), torch.eye(team.shape[-1])
        for _ in range(self._config.sweeps if len(self._index) > 1 else 1):
            for k in range(len(self._index)):
                tried = own.repeat(len(every), 1, 1, 1)  # (A, B, K, A)
                tried[:, :, k] = every[:, None]
                values = scene.value(tried)  # (A, B)
                if mask is not None:
                    values = values.masked_fill(mask[:, k].T <= 0, torch.inf)
                own[:, k] = every[values.argmin(dim=0)]
        return own


@dataclass(frozen=True, slots=True)
class _Scene:
    """B moments in which everything but the adversaries' actions is settled.

    Attributes:
        critic: the team's.
        read: (B, K, H), what it makes of the adversaries' observations.
        rest: (B, H), sum of the embeddings of all others.
        world: (B, H), the states' embeddings.
        n_agents: N.
    """

    critic: Critic
    read: Tensor
    rest: Tensor
    world: Tensor
    n_agents: int

    def value(self, own: Tensor) -> Tensor:
        """Return Q (T, B) of T attempts (T, B, K, A)."""
        team = (self.rest + self.critic.embed(self.read, own).sum(dim=-2)) / self.n_agents
        return self.critic.judge(team, self.world)
