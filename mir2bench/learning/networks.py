"""Networks: one actor shared by all agents, and a centralized critic over the set of agents.

All layers are plain torch modules; the parameters of a policy are its actor's alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mir2bench.learning.replay import Batch, Sequences

_NEVER = -1e9  # logit of an illegal action; finite, so that gradients stay finite


@dataclass(frozen=True, slots=True)
class ActorShape:
    """What is needed to build an actor again.

    Attributes:
        obs_dim: O, agent id included.
        action_dim: A.
        discrete: whether the A outputs are logits rather than action components.
        hidden: width of the hidden layers.
        recurrent: whether a GRU cell takes the place of the second hidden layer.
    """

    obs_dim: int
    action_dim: int
    discrete: bool
    hidden: int
    recurrent: bool


class Actor(nn.Module):
    """pi(a^i | h^i), one network for all agents: the agent id at the end of each observation tells them apart.

    Two hidden layers with layer normalization; the second is a GRU cell for `recurrent` actors. Outputs are logits
    (discrete) or actions in (-1, 1) through tanh.
    """

    def __init__(self, shape: ActorShape) -> None:
        super().__init__()
        self.shape = shape
        self.inner = nn.Linear(shape.obs_dim, shape.hidden)
        self.norm = nn.LayerNorm(shape.hidden)
        self.outer = (nn.GRUCell if shape.recurrent else nn.Linear)(shape.hidden, shape.hidden)
        self.head = nn.Linear(shape.hidden, shape.action_dim)

    def features(self, obs: Tensor, carry: Tensor | None = None) -> Tensor:
        """Map (..., n, O) observations to (..., n, H), the last hidden layer.

        All that the policy uses of the history h passes through it, so I(h; a) = I(features; a). For a recurrent actor
        it is also the memory: `carry` is what the last call returned, or None at an episode's start.
        """
        x = F.relu(self.norm(self.inner(obs)))
        if self.shape.recurrent:
            flat = x.reshape(-1, self.shape.hidden)
            return self.outer(flat, None if carry is None else carry.reshape(flat.shape)).reshape(x.shape)
        return F.relu(self.outer(x))

    def squash(self, logits: Tensor) -> Tensor:
        """Turn the outputs of `head` into what the actor reports: logits, or continuous actions through tanh."""
        return logits if self.shape.discrete else torch.tanh(logits)

    def forward(self, obs: Tensor, carry: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Compute outputs (..., n, A) and the new carry (None for feed-forward actors); see `features`."""
        x = self.features(obs, carry)
        return self.squash(self.head(x)), (x if self.shape.recurrent else None)

    def unroll(self, sequences: Sequences) -> Tensor:
        """Return the features of whole episodes, (T, E, n, O) -> (T * E, n, H), starting from an empty memory."""
        steps: list[Tensor] = []
        for obs in sequences.obs:
            steps.append(self.features(obs, steps[-1] if steps else None))
        return torch.cat(steps)

    def features_now(self, batch: Batch) -> Tensor:
        """Return the features (M, n, H) at a batch's observations."""
        if batch.sequences is None:
            return self.features(batch.obs)
        return self.unroll(batch.sequences)[batch.sequences.index]

    def features_next(self, batch: Batch) -> Tensor:
        """Return the features (M, n, H) at a batch's bootstrap observations."""
        if batch.sequences is None:
            return self.features(batch.next_obs)
        return self.unroll(batch.sequences)[batch.sequences.next_index]


def legal_logits(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Push the logits of illegal actions out of reach of softmax, argmax and sampling."""
    return logits if mask is None else logits.masked_fill(mask <= 0, _NEVER)


def greedy_one_hot(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Return the one-hot of the best legal action, (..., A)."""
    best = legal_logits(logits, mask).argmax(dim=-1)
    return F.one_hot(best, logits.shape[-1]).to(logits.dtype)


def straight_through_sample(logits: Tensor, mask: Tensor | None, generator: torch.Generator) -> Tensor:
    """Draw a one-hot legal action whose gradient is that of the soft Gumbel sample (Jang et al. 2017)."""
    uniform = torch.rand(logits.shape, generator=generator, dtype=logits.dtype)
    gumbel = -torch.log(-torch.log(uniform.clamp(1e-10, 1 - 1e-7)))
    soft = torch.softmax(legal_logits(logits + gumbel, mask), dim=-1)
    hard = F.one_hot(soft.argmax(dim=-1), logits.shape[-1]).to(logits.dtype)
    return hard + (soft - soft.detach())  # in this order the value is one-hot to the last bit


class Critic(nn.Module):
    """Q(s, o, a): the value of a joint action, centralized over all n agents.

    Each agent's (o^i, a^i) passes through the same two layers; their mean joins an embedding of the global state and a
    last hidden layer gives the value. The mean over agents costs n small passes instead of one layer that grows with
    n * (O + A), learns from n times the data, and sees angles as the cosines and sines of the observations.
    """

    def __init__(self, obs_dim: int, action_dim: int, state_dim: int, hidden: int) -> None:
        super().__init__()
        self.agent_in = nn.Linear(obs_dim + action_dim, hidden)
        self.agent_norm = nn.LayerNorm(hidden)
        self.agent_out = nn.Linear(hidden, hidden)
        self.state_in = nn.Linear(state_dim, hidden)
        self.state_norm = nn.LayerNorm(hidden)
        self.joint = nn.Linear(2 * hidden, hidden)
        self.value = nn.Linear(hidden, 1)

    def forward(self, state: Tensor, obs: Tensor, action: Tensor) -> Tensor:
        """Return (M,) values of (M, S) states, (M, n, O) observations and (M, n, A) joint actions."""
        agents = F.relu(self.agent_norm(self.agent_in(torch.cat([obs, action], dim=-1))))
        team = F.relu(self.agent_out(agents)).mean(dim=-2)
        world = F.relu(self.state_norm(self.state_in(state)))
        return self.value(F.relu(self.joint(torch.cat([team, world], dim=-1)))).squeeze(-1)
