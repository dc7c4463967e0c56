"""Worst cases inside a critic: what hurts a team most, according to the values it has learned.

All functions search in the neighborhood of a joint action (M, n, A) of a batch and leave illegal actions alone. One
gradient of the critic serves all n agents, and replacing one agent's action costs one pass through the critic's last
layers (`Critic.judge_replacements`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mir2bench.engines.base import Layout
from mir2bench.learning.networks import Critic


@dataclass(frozen=True, slots=True)
class Situation:
    """M moments, and who acts how in them.

    Attributes:
        state: (M, S).
        obs: (M, n, O).
        action: (M, n, A), one-hot in discrete worlds.
        mask: (M, n, A), nonzero for legal actions, or None.
        phi: (M, n).
    """

    state: Tensor
    obs: Tensor
    action: Tensor
    mask: Tensor | None
    phi: Tensor

    def rows(self, which: Tensor) -> Situation:
        """Return the moments of these indices (k,)."""
        mask = None if self.mask is None else self.mask[which]
        return Situation(self.state[which], self.obs[which], self.action[which], mask, self.phi[which])

    @classmethod
    def of(cls, worlds: Standing, actions: np.ndarray) -> Situation:
        """Return where worlds stand, with the joint action (B, n, A) or (B, n) that is about to be played."""
        action = torch.from_numpy(np.asarray(actions))
        discrete = worlds.layout.discrete
        return cls(
            state=torch.from_numpy(worlds.state.astype(np.float32)),
            obs=torch.from_numpy(worlds.obs.astype(np.float32)),
            action=F.one_hot(action, worlds.layout.action_dim).float() if discrete else action.float(),
            mask=None if worlds.mask is None else torch.from_numpy(worlds.mask.astype(np.float32)),
            phi=torch.from_numpy(worlds.phi.astype(np.float32)),
        )


class Standing(Protocol):
    """Where B worlds stand: what `Task` and `rollout.Moment` have in common."""

    @property
    def layout(self) -> Layout: ...
    @property
    def state(self) -> np.ndarray: ...
    @property
    def obs(self) -> np.ndarray: ...
    @property
    def mask(self) -> np.ndarray | None: ...
    @property
    def phi(self) -> np.ndarray: ...


def as_actions(action: Tensor, discrete: bool) -> np.ndarray:
    """Return joint actions (B, n, A) as worlds take them: (B, n, A) float32, or (B, n) int64 for one-hots."""
    return (action.argmax(dim=-1) if discrete else action).detach().numpy()


def share(size: int, fraction: float) -> Tensor:
    """Return the indices of an evenly spread `fraction` of a batch of `size` transitions.

    Batches are drawn at random, so a fraction of one is as good as a coin tossed for each of its transitions. A
    fraction above 0 gives one index at least.
    """
    count = (torch.arange(size + 1) * max(fraction, 1 / size if fraction > 0 else 0.0) + 0.5).floor()
    return (count[1:] > count[:-1]).nonzero()[:, 0]


@dataclass(frozen=True, slots=True)
class Embedded:
    """What a critic makes of a situation.

    Attributes:
        read: (M, n, H), the observations.
        agents: (M, n, H), the agents with their actions.
        world: (M, H), the state.
    """

    read: Tensor
    agents: Tensor
    world: Tensor


def embed(critic: Critic, at: Situation) -> Embedded:
    """Return the embeddings of a situation; those of agents are differentiable in the joint action."""
    with torch.no_grad():  # nothing here is trained: gradients are for actions alone
        read, world = critic.read(at.obs, at.phi), critic.embed_state(at.state)
    return Embedded(read, critic.embed(read, at.action), world)


def embed_with_gradient(critic: Critic, at: Situation) -> tuple[Embedded, Tensor]:
    """Return the embeddings of a situation and the gradient (M, n, A) of Q in the joint action.

    If the action has a graph, so have the embeddings; the gradient never has.
    """
    if not at.action.requires_grad:
        with torch.no_grad():
            read, world = critic.read(at.obs, at.phi), critic.embed_state(at.state)
        agents, gradient = critic.embed_with_gradient(read, at.action, world)
        return Embedded(read, agents, world), gradient
    now = embed(critic, at)
    value = critic.judge(now.agents.mean(dim=-2), now.world)
    (gradient,) = torch.autograd.grad(value.sum(), at.action, retain_graph=True)
    return now, gradient


def step_against(action: Tensor, gradient: Tensor, size: float, mask: Tensor | None, discrete: bool) -> Tensor:
    """Move each agent's action by `size` against its own gradient, normalized per agent, (M, n, A).

    Continuous actions stay in [-1, 1]; one-hot ones become relaxed, and never gain weight on an illegal action.
    """
    if mask is not None:
        gradient = gradient * (mask > 0)
    moved = action.detach() - size * F.normalize(gradient, dim=-1)
    return moved if discrete else moved.clamp(-1.0, 1.0)


def worst_replacement(critic: Critic, at: Situation, discrete: bool, candidates: int = 3) -> Tensor:
    """Find the agent and the action of that agent alone which lower Q most, while all others act as they do.

    Discrete: exact, over all agents and all their legal actions. Continuous: the gradient names the worst corner of
    each agent's action box and says how much it should hurt; the critic compares the `candidates` that promise most.

    Returns:
        The values (M,), differentiable in the actions of those who keep theirs if `at.action` is.
    """
    if discrete:
        now = embed(critic, at)
        values, replacements = _values_of_all_actions(critic, now, at)
        choice = values.flatten(1).argmin(dim=-1)
        who = choice // values.shape[-1]
        worst = pick(replacements.flatten(1, 2), choice)
    else:
        now, gradient = embed_with_gradient(critic, at)
        with torch.no_grad():
            corners = -torch.sign(gradient)
            harm = (gradient * (at.action - corners)).sum(dim=-1)
            ranked = harm.topk(min(candidates, harm.shape[-1]), dim=-1).indices  # (M, k)
            replacements = critic.embed(pick(now.read, ranked), pick(corners, ranked))
            values = critic.judge_replacements(now.agents, replacements, now.world, ranked)
            choice = values.argmin(dim=-1)
            who, worst = pick(ranked, choice), pick(replacements, choice)
    own = critic.embed(pick(now.read, who), pick(at.action, who))  # again, since indexing has a slow gradient
    team = now.agents.mean(dim=-2) + (worst - own) / now.agents.shape[-2]
    return critic.judge(team, now.world)


def pick(values: Tensor, index: Tensor) -> Tensor:
    """Return the entries (M,) or (M, k) along the second axis of `values`, row by row."""
    rows = torch.arange(len(index))
    return values[rows, index] if index.ndim == 1 else values[rows[:, None], index]


def _values_of_all_actions(critic: Critic, now: Embedded, at: Situation) -> tuple[Tensor, Tensor]:
    """Return Q (M, n, A) if one agent plays each of its actions, infinite for illegal ones, and their embeddings.

    Illegal actions are left out of all passes; their embeddings are zero.
    """
    with torch.no_grad():
        legal = torch.ones_like(at.action) if at.mask is None else at.mask
        row, agent, action = (legal > 0).nonzero(as_tuple=True)
        chosen = torch.eye(at.action.shape[-1])[action]
        embedded = critic.embed(now.read[row, agent], chosen)  # (K, H)
        team = now.agents.mean(dim=-2)[row] + (embedded - now.agents[row, agent]) / now.agents.shape[-2]
        values = torch.full_like(at.action, torch.inf)
        values[row, agent, action] = critic.judge(team, now.world, row)
        every = now.read.new_zeros(*at.action.shape, now.read.shape[-1])
        every[row, agent, action] = embedded
        return values, every


def descend(critic: Critic, at: Situation, steps: int, size: float, discrete: bool) -> np.ndarray:
    """Return what each agent would play against Q if it alone were adversarial.

    Continuous: `steps` signed gradient steps from its action, (B, n, A) float32 in [-1, 1]. Discrete: the exact minimum
    over its legal actions, (B, n) int64.
    """
    with torch.no_grad():
        now = embed(critic, at)
        if discrete:
            return _values_of_all_actions(critic, now, at)[0].argmin(dim=-1).numpy()
    action = at.action.clone()
    for _ in range(steps):
        action.requires_grad_()
        values = critic.judge_replacements(now.agents, critic.embed(now.read, action), now.world)
        (gradient,) = torch.autograd.grad(values.sum(), action)
        action = (action.detach() - size * torch.sign(gradient)).clamp(-1.0, 1.0)
    return action.detach().numpy()
