"""The policy that an actor network plays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mir2bench.errors import PolicyError
from mir2bench.learning.architectures import Network
from mir2bench.learning.networks import ActorShape, Critic, legal_logits
from mir2bench.policies import Carry, Policy

SCRIPT_LOGIT = 4.0
"""What a script's choice adds to a discrete actor's logit."""


class NetworkPolicy:
    """A trained actor as a `Policy`.

    Args:
        actor: the network, of a known architecture; its parameters are used as they are.
        n_agents: n, the agents it plays: N for a team, K for the adversaries of a partition.
        noise: standard deviation of the Gaussian that non-deterministic continuous actions add.
        script: name and policy of a script whose actions the actor's outputs are added to (a residual policy), or None;
            then the script's memory is the policy's, and the actor is feed-forward.
        critic: the centralized critic that the team was trained with, for white-box attacks, or None.
        training_adversary: the adversary that the team was trained against, or None.
    """

    def __init__(
        self,
        actor: Network,
        n_agents: int,
        noise: float = 0.0,
        script: tuple[str, Policy] | None = None,
        *,
        critic: Critic | None = None,
        training_adversary: NetworkPolicy | None = None,
    ) -> None:
        self.actor: Any = actor
        self.n_agents = n_agents
        self.noise = noise
        self.script = script
        self.critic = critic
        self.training_adversary = training_adversary

    def initial_carry(self, batch: int) -> Carry:
        """Return the empty memory: zeros (B, n, H) float32, the script's, or None for other feed-forward actors."""
        if self.script is not None:
            return self.script[1].initial_carry(batch)
        shape = self.actor.shape
        return np.zeros((batch, self.n_agents, shape.hidden), np.float32) if shape.recurrent else None

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
        """See `Policy.act`. Samples of discrete actions follow softmax(logits) over the legal actions."""
        n_agents = getattr(self.actor.shape, "n_agents", "agents")
        if obs.ndim != 3 or obs.shape[-1] != self.actor.shape.obs_dim or n_agents not in ("agents", obs.shape[1]):
            raise PolicyError(
                f"this policy reads observations of shape (worlds, {n_agents}, {self.actor.shape.obs_dim}), but they "
                f"have shape {obs.shape}. Was it trained for another variant?"
            )
        seen = torch.from_numpy(np.ascontiguousarray(obs, dtype=np.float32))
        if self.script is None:
            memory = None if carry is None else torch.from_numpy(np.asarray(carry, dtype=np.float32))
            out, memory = self.actor(seen, memory)
            carry = None if memory is None else memory.numpy()
        else:
            base, carry = script_output(self.script[1], obs, carry, mask, self.actor.shape, rng)
            out = self.actor(seen)[0] + base
        if self.actor.shape.discrete:
            logits = legal_logits(out, None if mask is None else torch.from_numpy(np.asarray(mask))).numpy()
            if not deterministic:
                logits = logits + rng.gumbel(size=logits.shape)
            return logits.argmax(axis=-1), carry
        action = out.numpy()
        if not deterministic:
            action = action + self.noise * rng.standard_normal(action.shape, dtype=np.float32)
        return np.clip(action, -1.0, 1.0), carry


def script_output(
    script: Policy, obs: np.ndarray, carry: Carry, mask: np.ndarray | None, shape: ActorShape, rng: np.random.Generator
) -> tuple[torch.Tensor, Carry]:
    """Return what a script's actions add to an actor's outputs, (B, n, A), and the script's new memory.

    They are the actions themselves, or logits of its choice.
    """
    action, carry = script.act(obs, carry, mask, rng=rng)
    if shape.discrete:
        choice = torch.nn.functional.one_hot(torch.from_numpy(np.asarray(action)), shape.action_dim)
        return SCRIPT_LOGIT * choice.float(), carry
    return torch.from_numpy(np.asarray(action, dtype=np.float32)), carry
