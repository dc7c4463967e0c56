"""The known architectures of policies: what a bundle may name, and how it is built again.

Beside the actor that all agents share there are two for adversaries, who may conspire: an actor for each of them, and
one network that sees all of them at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mir2bench.errors import PolicyError
from mir2bench.learning.networks import Actor, ActorShape
from mir2bench.registration import VariantSpec

_MAX_HIDDEN = 4096
_MAX_LAYERS = 8


@dataclass(frozen=True, slots=True)
class SeparateShape:
    """What is needed to build separate actors again.

    Attributes:
        obs_dim, action_dim, discrete, hidden: of each actor, see `ActorShape`.
        n_agents: n, the number of actors.
    """

    obs_dim: int
    action_dim: int
    discrete: bool
    hidden: int
    n_agents: int
    recurrent: ClassVar[bool] = False


class SeparateActors(nn.Module):
    """A feed-forward actor for each of n agents; seen from outside, one network like `Actor`."""

    def __init__(self, shape: SeparateShape) -> None:
        super().__init__()
        self.shape = shape
        own = ActorShape(shape.obs_dim, shape.action_dim, shape.discrete, shape.hidden, recurrent=False)
        self.actors = nn.ModuleList(Actor(own) for _ in range(shape.n_agents))

    def forward(self, obs: Tensor, carry: None = None) -> tuple[Tensor, None]:
        """Compute outputs (..., n, A) from observations (..., n, O); there is no memory."""
        rows = zip(self.actors, obs.unbind(dim=-2), strict=True)
        return torch.stack([actor(own)[0] for actor, own in rows], dim=-2), None


@dataclass(frozen=True, slots=True)
class JointShape:
    """What is needed to build a joint network again.

    Attributes:
        obs_dim, action_dim: O and A of each agent.
        discrete: whether the A outputs of an agent are logits rather than action components.
        n_agents: n.
        hidden: widths of the hidden layers.
    """

    obs_dim: int
    action_dim: int
    discrete: bool
    n_agents: int
    hidden: tuple[int, ...]
    recurrent: ClassVar[bool] = False


class JointMlp(nn.Module):
    """One network for n agents who know each other's observations: (n * O) numbers in, (n * A) out.

    Linear layers with tanh between them. Continuous outputs are not squashed: the policy clips them.
    """

    def __init__(self, shape: JointShape) -> None:
        super().__init__()
        self.shape = shape
        widths = (shape.n_agents * shape.obs_dim, *shape.hidden, shape.n_agents * shape.action_dim)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.Tanh()]
        self.layers = nn.Sequential(*layers[:-1])

    @property
    def linear(self) -> list[nn.Module]:
        """The linear layers, from observations to outputs."""
        return list(self.layers)[::2]

    def forward(self, obs: Tensor, carry: None = None) -> tuple[Tensor, None]:
        """Compute outputs (..., n, A) from observations (..., n, O); there is no memory."""
        return self.layers(obs.flatten(-2)).unflatten(-1, (self.shape.n_agents, self.shape.action_dim)), None


Network = Actor | SeparateActors | JointMlp
"""What a `NetworkPolicy` plays."""

_KNOWN: dict[str, tuple[Any, Any]] = {
    "actor": (ActorShape, Actor),
    "separate_actors": (SeparateShape, SeparateActors),
    "joint_mlp": (JointShape, JointMlp),
}


def describe(network: Network) -> dict[str, Any]:
    """Return the one entry, name -> sizes, from which `build` makes the same network; plain data.

    Raises:
        PolicyError: it is none of the known architectures.
    """
    for name, (_, architecture) in _KNOWN.items():
        if isinstance(network, architecture):
            return {name: asdict(network.shape)}
    raise PolicyError(f"a {type(network).__name__} is no known architecture: {', '.join(_KNOWN)}.")


def build(architecture: Mapping[str, Any], variant: VariantSpec, n_agents: int) -> Network:
    """Build the network that `describe` described, with weights yet to be loaded.

    Args:
        architecture: name -> sizes.
        variant: what it is to play.
        n_agents: the agents that it is to play; N for a team.

    Raises:
        ValueError, TypeError, KeyError: no known architecture, or sizes that do not fit.
    """
    layout = variant.layout
    names = [name for name in _KNOWN if name in architecture]
    if len(names) != 1:
        raise ValueError(f"it must name one of {', '.join(_KNOWN)}, but it names {sorted(architecture)}")
    (name,) = names
    sizes = dict(architecture[name])
    hidden = sizes["hidden"]
    if isinstance(hidden, list):
        hidden = sizes["hidden"] = tuple(hidden)
    shape = _KNOWN[name][0](**sizes)
    widths = hidden if isinstance(hidden, tuple) else (hidden,)
    fits = (shape.obs_dim, shape.action_dim, shape.discrete) == (layout.obs_dim, layout.action_dim, layout.discrete)
    if not fits or not all(1 <= width <= _MAX_HIDDEN for width in widths) or len(widths) > _MAX_LAYERS:
        raise ValueError(f"sizes do not fit {variant.id}")
    if not 1 <= n_agents <= layout.n_agents or getattr(shape, "n_agents", n_agents) != n_agents:
        raise ValueError(f"sizes do not fit {variant.id}: it plays {n_agents} of {layout.n_agents} agents")
    if name == "joint_mlp" and n_agents == layout.n_agents:
        raise ValueError("a team must act agent by agent, but this network sees all observations at once")
    with torch.random.fork_rng(devices=[]):  # new weights are drawn, though never used here
        return _KNOWN[name][1](shape)
