"""Networks: one actor shared by all agents, and a centralized critic over the set of agents.

All layers are plain torch modules; the parameters of a policy are its actor's alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mir2bench.learning.gru import packed_gru
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
        self.outer: Any = (nn.GRUCell if shape.recurrent else nn.Linear)(shape.hidden, shape.hidden)
        self.head = nn.Linear(shape.hidden, shape.action_dim)

    def features(self, obs: Tensor, carry: Tensor | None = None) -> Tensor:
        """Map (..., n, O) observations to (..., n, H), the last hidden layer.

        All that the policy uses of the history h passes through it, so I(h; a) = I(features; a). For a recurrent actor
        it is also the memory: `carry` is what the last call returned, or None at an episode's start.
        """
        x = F.relu_(self.norm(self.inner(obs)))
        if self.shape.recurrent:
            flat = x.reshape(-1, self.shape.hidden)
            return self.outer(flat, None if carry is None else carry.reshape(flat.shape)).reshape(x.shape)
        return F.relu_(self.outer(x))

    def squash(self, logits: Tensor) -> Tensor:
        """Turn the outputs of `head` into what the actor reports: logits, or continuous actions through tanh."""
        return logits if self.shape.discrete else torch.tanh(logits)

    def forward(self, obs: Tensor, carry: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Compute outputs (..., n, A) and the new carry (None for feed-forward actors); see `features`."""
        x = self.features(obs, carry)
        return self.squash(self.head(x)), (x if self.shape.recurrent else None)

    def unroll(self, sequences: Sequences, *, twice: bool = False) -> Tensor:
        """Return the features (P, n, H) of whole episodes, starting from an empty memory.

        With `twice` they can be differentiated twice, see `gru.packed_gru`.
        """
        x = F.relu_(self.norm(self.inner(sequences.obs)))
        sizes = [size * x.shape[1] for size in sequences.sizes]
        return packed_gru(self.outer, x.flatten(0, 1), sizes, twice=twice).view_as(x)

    def features_now(self, batch: Batch, *, twice: bool = False) -> Tensor:
        """Return the features (M, n, H) at a batch's observations; `twice` as in `unroll`."""
        if batch.sequences is None or not self.shape.recurrent:
            return self.features(batch.obs)
        return self.unroll(batch.sequences, twice=twice)[batch.sequences.index]

    def features_next(self, batch: Batch) -> Tensor:
        """Return the features (M, n, H) at a batch's bootstrap observations."""
        if batch.sequences is None or not self.shape.recurrent:
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


@dataclass(frozen=True, slots=True)
class CriticShape:
    """What is needed to build a critic again.

    Attributes:
        obs_dim: O, agent id included.
        action_dim: A.
        state_dim: S.
        hidden: width of the hidden layers.
        knows_phi: n for a critic that is told which of the n agents are adversarial, else 0.
    """

    obs_dim: int
    action_dim: int
    state_dim: int
    hidden: int
    knows_phi: int = 0


class Critic(nn.Module):
    """Q(s, o, a): the value of a joint action, centralized over all n agents.

    Each agent's (o^i, a^i) passes through the same two layers; their mean joins an embedding of the global state and a
    last hidden layer gives the value. The mean over agents costs n small passes instead of one layer that grows with
    n * (O + A), learns from n times the data, and sees angles as the cosines and sines of the observations.

    The parts are public because worst cases are searched in them: the first layer is linear in the action, so other
    actions at the same observations need no second look at these (`read`); and replacing one agent's action changes one
    embedding, so the values of n such replacements cost n passes through the last layers and no more.
    """

    def __init__(self, obs_dim: int, action_dim: int, state_dim: int, hidden: int, knows_phi: int = 0) -> None:
        super().__init__()
        self.shape = CriticShape(obs_dim, action_dim, state_dim, hidden, knows_phi)
        self.agent_in = nn.Linear(obs_dim + action_dim + knows_phi, hidden)
        self.agent_norm = nn.LayerNorm(hidden)
        self.agent_out = nn.Linear(hidden, hidden)
        self.state_in = nn.Linear(state_dim, hidden)
        self.state_norm = nn.LayerNorm(hidden)
        self.joint = nn.Linear(2 * hidden, hidden)
        self.value = nn.Linear(hidden, 1)

    def forward(self, state: Tensor, obs: Tensor, action: Tensor, phi: Tensor | None = None) -> Tensor:
        """Return (M,) values.

        Args:
            state: (M, S).
            obs: (M, n, O).
            action: (M, n, A), one-hot in discrete worlds.
            phi: (M, n), read only by a critic that `knows_phi`; None means that nobody is adversarial.
        """
        return self.judge(self.embed(self.read(obs, phi), action).mean(dim=-2), self.embed_state(state))

    def read(self, obs: Tensor, phi: Tensor | None = None) -> Tensor:
        """Return what the first layer makes of each agent's observation, (M, n, H), before actions are added."""
        actions = self.shape.action_dim
        if self.shape.knows_phi:
            shape = (*obs.shape[:-1], self.shape.knows_phi)
            told = obs.new_zeros(shape) if phi is None else phi.unsqueeze(-2).expand(shape)
            obs = torch.cat([obs, told], dim=-1)
        return F.linear(obs, self.agent_in.weight[:, actions:], self.agent_in.bias)

    def embed(self, read: Tensor, action: Tensor) -> Tensor:
        """Return the embeddings (..., H) of agents from what was `read` (..., H) and their actions (..., A)."""
        first = read + F.linear(action, self.agent_in.weight[:, : self.shape.action_dim])
        return F.relu_(self.agent_out(F.relu_(self.agent_norm(first))))

    def embed_with_gradient(self, read: Tensor, action: Tensor, world: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings (M, n, H) and the gradient (M, n, A) of Q in the joint action, neither with a graph.

        The chain rule by hand, at three quarters of what autograd takes; all agents share the gradient of their mean.
        """
        with torch.no_grad():
            weight = self.agent_in.weight[:, : self.shape.action_dim]
            norm = self.agent_norm
            first = read + F.linear(action, weight)
            normed, mean, rstd = torch.native_layer_norm(first, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
            inner = F.relu_(normed)
            agents = F.relu_(self.agent_out(inner))
            joint = self._of_team(agents.mean(dim=-2)) + self._of_world(world)
            of_mean = F.linear((joint > 0) * self.value.weight, self._of_team_weight.t()) / agents.shape[-2]
            of_inner = F.linear(of_mean.unsqueeze(-2) * agents.sign(), self.agent_out.weight.t())
            of_normed = of_inner.mul_(inner.sign_())
            (of_first, _, _) = torch.ops.aten.native_layer_norm_backward(
                of_normed, first, norm.normalized_shape, mean, rstd, norm.weight, norm.bias, (True, False, False)
            )
            return agents, of_first @ weight

    def embed_state(self, state: Tensor) -> Tensor:
        """Return the state's embedding, (M, H)."""
        return F.relu_(self.state_norm(self.state_in(state)))

    def judge(self, team: Tensor, world: Tensor, row: Tensor | None = None) -> Tensor:
        """Return the values (M,) of the agents' mean embeddings (M, H) in states embedded as (M, H).

        With `row` (K,) there are K teams (K, H), each in the state of that row.
        """
        told = self._of_world(world)
        return self.value(F.relu_(self._of_team(team) + (told if row is None else told[row]))).squeeze(-1)

    def judge_replacements(self, agents: Tensor, others: Tensor, world: Tensor, who: Tensor | None = None) -> Tensor:
        """Return the values (M, k, ...) of the teams in which one agent's embedding alone is another one.

        Args:
            agents: (M, n, H), the embeddings of all agents.
            others: (M, k, ..., H), one or more to put in the place of an agent's.
            world: (M, H), the states' embeddings.
            who: (M, k), the agents to be replaced; None stands for all n in order.
        """
        m, n, hidden = agents.shape
        axes = [1] * (others.ndim - 3)
        own = agents if who is None else agents[torch.arange(m)[:, None], who]
        change = others - own.view(*own.shape[:2], *axes, hidden)
        team = torch.add(agents.mean(dim=-2).view(m, 1, *axes, hidden), change, alpha=1 / n)
        told = self._of_world(world).view(m, 1, *axes, hidden)
        return self.value(F.relu_(self._of_team(team) + told)).squeeze(-1)

    def _of_team(self, team: Tensor) -> Tensor:
        return F.linear(team, self._of_team_weight)

    @property
    def _of_team_weight(self) -> Tensor:
        return self.joint.weight[:, : self.shape.hidden]

    def _of_world(self, world: Tensor) -> Tensor:
        return F.linear(world, self.joint.weight[:, self.shape.hidden :], self.joint.bias)
