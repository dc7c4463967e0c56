"""What the tests of defenders share: learners, batches of their games, and training beside plain MADDPG."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from games import Tandem, Trust, game
from torch import Tensor

from mir2bench.defenders import maddpg
from mir2bench.learning.replay import Batch
from mir2bench.learning.worst_case import Situation

SMALL = maddpg.Config(hidden=4, worlds=4, batch_size=8, warmup=20)


def make_learner(defender: Any, engine: Any, n_agents: int = 3, seed: int = 0, **settings: Any) -> Any:
    """Return a defender's learner whose target networks are not copies of the online ones."""
    chosen = defender(defender.Config(**{**vars(SMALL), "hidden": 8, **settings}))
    task = chosen.task(game(engine, n_agents), seed)
    task.reset(seeds=list(range(task.batch)))
    learner = chosen.Learner(task, chosen.config, seed)
    with torch.no_grad():
        for parameter in learner._target:
            parameter.mul_(0.8)
    return learner


def make_batch(
    learner: Any, size: int = 6, n_agents: int = 3, *, masked: bool = False, phi: Sequence[int] = (), seed: int = 1
) -> Batch:
    """Return random transitions; `masked` forbids about a third of all actions, now and then."""
    generator = torch.Generator().manual_seed(seed)
    obs_dim, action_dim = learner.actor.shape.obs_dim, learner.actor.shape.action_dim
    state_dim = learner.critic.shape.state_dim

    def draw(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator)

    def draw_mask() -> Tensor:
        mask = (torch.rand(size, n_agents, action_dim, generator=generator) > 0.35).float()
        mask[..., 0] = torch.maximum(mask[..., 0], (mask.sum(dim=-1) == 0).float())
        return mask

    mask, next_mask = (draw_mask(), draw_mask()) if masked else (None, None)
    action = draw(size, n_agents, action_dim).tanh()
    if learner.actor.shape.discrete:
        likes = action if mask is None else action - 9 * (1 - mask)
        action = torch.nn.functional.one_hot(likes.argmax(dim=-1), action_dim).float()
    return Batch(
        obs=draw(size, n_agents, obs_dim),
        next_obs=draw(size, n_agents, obs_dim),
        state=draw(size, state_dim),
        next_state=draw(size, state_dim),
        action=action,
        reward=draw(size),
        discount=torch.full((size,), 0.9),
        weight=torch.ones(size),
        phi=torch.tensor(phi or (0,) * n_agents, dtype=torch.float32).expand(size, n_agents),
        mask=mask,
        next_mask=next_mask,
    )


def moment(batch: Batch) -> Situation:
    """Return where a batch's transitions begin."""
    return Situation(batch.state, batch.obs, batch.action, batch.mask, batch.phi)


class KnownCritic(torch.nn.Module):
    """A critic written down; a subclass gives `embed` and `judge`. Observations are read as they are."""

    def forward(self, state: Tensor, obs: Tensor, action: Tensor, phi: Tensor | None = None) -> Tensor:
        return self.judge(self.embed(self.read(obs, phi), action).mean(dim=-2), self.embed_state(state))

    def read(self, obs: Tensor, phi: Tensor | None = None) -> Tensor:
        return obs

    def embed_state(self, state: Tensor) -> Tensor:
        return state

    def embed(self, read: Tensor, action: Tensor) -> Tensor:
        raise NotImplementedError

    def judge(self, team: Tensor, world: Tensor) -> Tensor:
        raise NotImplementedError

    def embed_with_gradient(self, read: Tensor, action: Tensor, world: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            action = action.detach().requires_grad_()
            agents = self.embed(read, action)
            (gradient,) = torch.autograd.grad(self.judge(agents.mean(dim=-2), world).sum(), action)
        return agents.detach(), gradient

    def judge_replacements(self, agents: Tensor, others: Tensor, world: Tensor, who: Tensor | None = None) -> Tensor:
        own = agents if who is None else agents[torch.arange(len(agents))[:, None], who]
        while own.ndim < others.ndim:
            own = own.unsqueeze(2)
        mean = agents.mean(dim=1).view(len(agents), *[1] * (others.ndim - 2), -1)
        return self.judge(mean + (others - own) / agents.shape[1], world)


class TandemCritic(KnownCritic):
    """The exact value of `games.Tandem`."""

    def embed(self, read: Tensor, action: Tensor) -> Tensor:
        return torch.cat([action, action.square()], dim=-1)

    def judge(self, team: Tensor, world: Tensor) -> Tensor:
        total, squares = (2 * team).unbind(dim=-1)  # over both agents
        return 0.3 * total + 0.5 * (total.square() - squares) / 2 - 0.5 * squares


def in_tandem(defender: Any, steps: int = 150, **settings: Any) -> list[float]:
    """Return what both agents of `games.Tandem` end up playing if the critic is exact and their actor ascends it."""
    learner = make_learner(defender, Tandem, 2, actor_lr=1e-2, **settings)
    obs = torch.cat([torch.zeros(2, 1), torch.eye(2)], dim=1)[None]
    batch = replace(make_batch(learner, 1, 2), obs=obs)
    learner.critic = TandemCritic()
    for _ in range(steps):
        action = torch.tanh(learner.actor.head(learner.actor.features_now(batch)))
        learner._descend(-learner.actor_value(batch, action).mean(), learner.actor_optimizer)
    return learner.actor(obs)[0][0, :, 0].tolist()


def gradients(loss: Tensor, network: torch.nn.Module) -> list[Tensor]:
    """Return the gradients of all of a network's parameters; zero where there is none."""
    found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(network.parameters(), found, strict=True)]


def team_weights(policy: Any) -> list[Tensor]:
    """Return all weights of a team's actor and critic."""
    return [*policy.actor.parameters(), *policy.critic.parameters()]


def same(one: Any, other: Any) -> bool:
    """Whether two teams have the same weights, actor and critic, bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(team_weights(one), team_weights(other), strict=True))


@cache
def plain_training(engine: Any, recurrent: bool) -> Any:
    """Return what MADDPG makes of a short training."""
    return maddpg.MADDPG(replace(SMALL, recurrent=recurrent, n_steps=2)).train(game(engine), seed=3, budget=160)


def training(defender: Any, engine: Any, recurrent: bool, **settings: Any) -> Any:
    """Return what a defender makes of the same training."""
    config = defender.Config(**{**vars(SMALL), "recurrent": recurrent, "n_steps": 2, **settings})
    return defender(config).train(game(engine), seed=3, budget=160)


def teach_trust(defender: Any, phis: Sequence[Sequence[int]] = ((0, 0),), **settings: Any) -> tuple[list[int], Any]:
    """Train a team on all joint actions of `games.Trust` at once; return what it plays, and the learner."""
    learner = make_learner(
        defender, Trust, 2, **{"hidden": 32, "actor_lr": 2e-3, "critic_lr": 1e-2, "tau": 0.1, **settings}
    )
    copies = 72 // (9 * len(phis))
    plays = torch.tensor(list(itertools.product(range(3), repeat=2))).repeat(copies * len(phis), 1)
    reward = torch.tensor(Trust.PAYS, dtype=torch.float32)[plays[:, 0], plays[:, 1]]
    obs = torch.cat([torch.zeros(2, 1), torch.eye(2)], dim=1).expand(72, 2, 3)
    batch = replace(
        make_batch(learner, 72, 2),
        obs=obs,
        next_obs=obs,
        state=torch.zeros(72, 2),
        next_state=torch.zeros(72, 2),
        action=torch.nn.functional.one_hot(plays, 3).float(),
        reward=reward,
        discount=torch.zeros(72),
        phi=torch.tensor(phis, dtype=torch.float32).repeat_interleave(9 * copies, dim=0),
    )
    for _ in range(250):
        learner.update(batch)
    return learner.actor(obs[:1])[0].argmax(dim=-1)[0].tolist(), learner


def teach_match(learner: Any, updates: int) -> Batch:
    """Train a team of two on random joint actions of `games.Match`; return the transitions."""
    generator = torch.Generator().manual_seed(0)
    seen = 1.6 * torch.rand(96, 2, 1, generator=generator) - 0.8
    action = 2 * torch.rand(96, 2, 1, generator=generator) - 1
    obs = torch.cat([seen, torch.eye(2).expand(96, 2, 2)], dim=-1)
    batch = replace(
        make_batch(learner, 96, 2),
        obs=obs,
        next_obs=obs,
        state=seen[..., 0],
        next_state=seen[..., 0],
        action=action,
        reward=-(action - seen).square().mean(dim=(1, 2)),
        discount=torch.zeros(96),
    )
    for _ in range(updates):
        learner.update(batch)
    return batch
