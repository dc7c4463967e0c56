"""Random search for a first policy: adversaries that do something definite, and the one that hurts most.

A network fresh from its initializer does next to nothing, and noise on top of it cancels out from step to step: from
there, what an adversary could do to a team by acting resolutely for a while is out of sight. So many networks are drawn
whose outputs lean far to one side or another, each plays an episode, and the best of them play more (successive
halving, Jamieson and Talwalkar 2016, in two rounds).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from mir2bench.learning.architectures import JointMlp, Network
from mir2bench.learning.networks import Actor, legal_logits
from mir2bench.learning.rollout import rollout
from mir2bench.partition import Partition
from mir2bench.policies import Carry, Policy
from mir2bench.registration import VariantSpec

FINALISTS = 8
"""One of how many scouts plays in the second round."""
ROUNDS = 2
_LEANING = 2.0  # standard deviation of a scout's output biases, before tanh or softmax


def affordable(scouts: int, variant: VariantSpec, budget: int) -> int:
    """Return how many of `scouts` networks a quarter of the budget pays for, a multiple of `FINALISTS`."""
    return min(scouts, budget // (4 * ROUNDS * variant.horizon)) // FINALISTS * FINALISTS


def scout(
    variant: VariantSpec, victim: Policy, phi: Partition, make: Callable[[], Network], count: int, seed: int
) -> tuple[Network, int]:
    """Return the most harmful of `count` random networks, and the environment steps that this took.

    Args:
        variant, victim, phi: whom they play against.
        make: draws a network from torch's global generator.
        count: networks to try; a multiple of `FINALISTS`.
        seed: determines everything that is drawn.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        left = [lean(make()) for _ in range(count)]
    seeds = iter(np.random.default_rng(seed).integers(2**63, size=ROUNDS * count).tolist())
    steps = 0
    for keep in (count // FINALISTS, 1):
        starts = [next(seeds) for _ in range(count)]
        played = rollout(variant, victim, phi, _Panel(left), starts)
        steps += int(played.lengths.sum())
        order = played.returns.reshape(len(left), -1).mean(axis=1).argsort()
        left = [left[i] for i in order[:keep]]
    return left[0], steps


def lean(network: Network) -> Network:
    """Let a network's outputs lean to one side or another, whatever it observes."""
    for head in heads(network):
        nn.init.orthogonal_(head.weight)
        nn.init.normal_(head.bias, std=_LEANING)
    return network


def heads(network: Network) -> list[Any]:
    """Return the output layers of a network."""
    if isinstance(network, JointMlp):
        return [network.layers[-1]]
    return [module.head for module in network.modules() if isinstance(module, Actor)]


class _Panel:
    """A policy for a batch of episodes that its networks share evenly: the first ones are the first network's."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._one = networks[0]
        self._count = len(networks)
        self._weights, _ = stack_module_state(list(networks))

    def initial_carry(self, batch: int) -> Carry:
        """Return None: nothing is remembered."""
        return None

    @torch.no_grad()
    def act(
        self,
        obs: np.ndarray,
        carry: Carry,
        mask: np.ndarray | None = None,
        *,
        rng: np.random.Generator,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Carry]:
        """See `Policy.act`; always greedy."""

        def play(weights: dict[str, Tensor], seen: Tensor) -> Tensor:
            return functional_call(self._one, weights, (seen,))[0]

        seen = torch.from_numpy(obs).unflatten(0, (self._count, -1))
        out = torch.vmap(play)(self._weights, seen).flatten(0, 1)
        if self._one.shape.discrete:
            legal = None if mask is None else torch.from_numpy(mask)
            return legal_logits(out, legal).argmax(dim=-1).numpy(), carry
        return out.clamp(-1.0, 1.0).numpy(), carry
