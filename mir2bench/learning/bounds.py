"""Certified bounds: what a critic's value can at most fall to when all agents but one move their actions a little.

Interval arithmetic through `networks.Critic`: every quantity is a center and a radius, and no value within reach lies
outside. Linear layers move radii by the absolute values of their weights, ReLU is monotone, and layer normalization
divides centered intervals by the smallest or the largest standard deviation within reach.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mir2bench.learning.networks import Critic
from mir2bench.learning.worst_case import Situation


def lower_bounds(critic: Critic, at: Situation, epsilon: float, discrete: bool) -> Tensor:
    """Return for each agent i a lower bound of Q over all actions of the others within epsilon of theirs, (M, n).

    Boxes around one-hots are intersected with [0, 1], and illegal actions stay at 0. Those around continuous actions
    are not cut at [-1, 1]: smaller boxes at the edge would pay agents for saturated actions.
    Differentiable in the joint action and in the critic's parameters.
    """
    low, high = at.action - epsilon, at.action + epsilon
    if discrete:
        low, high = low.clamp_min(0.0), high.clamp_max(1.0)
    if at.mask is not None:
        high = high * (at.mask > 0)
    read, world = critic.read(at.obs, at.phi), critic.embed_state(at.state)
    weight = critic.agent_in.weight[:, : critic.shape.action_dim]
    center = read + F.linear((low + high) / 2, weight)
    radius = F.linear((high - low) / 2, weight.abs())
    center, radius = _relu(*_normalize(center, radius, critic.agent_norm))
    center, radius = _relu(*_linear(center, radius, critic.agent_out))

    # The others' mean embedding is an interval; agent i's own is a point.
    own = critic.embed(read, at.action)
    n = own.shape[-2]
    center = (center.sum(dim=-2, keepdim=True) - center + own) / n
    radius = (radius.sum(dim=-2, keepdim=True) - radius) / n
    hidden = critic.shape.hidden
    of_team, of_world = critic.joint.weight[:, :hidden], critic.joint.weight[:, hidden:]
    center = F.linear(center, of_team) + F.linear(world, of_world, critic.joint.bias).unsqueeze(-2)
    center, radius = _relu(center, F.linear(radius, of_team.abs()))
    center, radius = _linear(center, radius, critic.value)
    return (center - radius).squeeze(-1)


def _linear(center: Tensor, radius: Tensor, layer: nn.Linear) -> tuple[Tensor, Tensor]:
    return layer(center), F.linear(radius, layer.weight.abs())


def _relu(center: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    low, high = F.relu(center - radius), F.relu(center + radius)
    return (low + high) / 2, (high - low) / 2


def _normalize(center: Tensor, radius: Tensor, layer: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Bound gain (x - mean x) / std(x) + bias for all x in the box."""
    size = center.shape[-1]
    # x_k - mean x = (1 - 1/size) x_k - (1/size) sum of the others.
    middle = center - center.mean(dim=-1, keepdim=True)
    reach = radius * (1 - 2 / size) + radius.mean(dim=-1, keepdim=True)
    low, high = middle - reach, middle + reach
    smallest = torch.where((low < 0) & (high > 0), 0.0, torch.minimum(low.square(), high.square()))
    largest = torch.maximum(low.square(), high.square())
    std_low = (smallest.mean(dim=-1, keepdim=True) + layer.eps).sqrt()
    std_high = (largest.mean(dim=-1, keepdim=True) + layer.eps).sqrt()
    below = torch.where(low < 0, low / std_low, low / std_high)
    above = torch.where(high > 0, high / std_low, high / std_high)
    middle, reach = (below + above) / 2, (above - below) / 2
    return middle * layer.weight + layer.bias, reach * layer.weight.abs()
