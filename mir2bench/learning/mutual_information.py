"""Mutual information between what agents see and what they do: the CLUB estimate, and the exact value as a check.

CLUB (Cheng et al. 2020) bounds I(x; y) from above with a variational q(y | x) fitted by maximum likelihood:

    I_vCLUB = E_{p(x,y)} log q(y | x) - E_{p(x) p(y)} log q(y | x).

On n pairs (x_k, y_k) the second term is a mean over all n^2 pairs. For the two families of q used here it is known in
closed form from a few averages, so that everything below costs O(n). All functions treat agents as independent
channels: arrays are (M, n, A), M samples of n agents with A action components, and results are (M, n) in nats. The
estimate for agent i is the mean over M; their sum over agents bounds the joint I(h; a) when policies are factorized.

How the estimate is shared out among samples is a choice, because the n^2 negative pairs can be grouped two ways:

    "actions":    I_k = log q(y_k | x_k) - mean_j log q(y_j | x_k)      (the grouping of Cheng et al.)
    "histories":  I_k = log q(y_k | x_k) - mean_j log q(y_k | x_j)

Both have the same mean over k, to the last digit. As a penalty on the reward they differ: seen as a function of the
agent's own action y_k, the negative term of the first is a constant, and what is left only rewards being improbable
under q; the second, like the divergence KL(pi(a | h) || p(a)) that the paper's identity names, also pulls the action
towards those that are usual in other histories.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Negatives = Literal["actions", "histories"]

MAX_LOG_VARIANCE = 2.0
MIN_STD = 1e-3
"""Smallest standard deviation that a policy's noise is taken to have, so that information stays finite."""


def choosing(mask: Tensor | None) -> Tensor | None:
    """Return who has a choice, (M, n) float: agents with two legal actions or more; None if all always have.

    An agent that can do one thing only (the dead in a battle) carries no information in what it does, and its history
    says nothing about the policy: it counts neither among the samples of an estimate nor among their negative pairs.
    """
    return None if mask is None else ((mask > 0).sum(dim=-1) > 1).float()


def _mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean of (M, n, A) over the M samples, (n, A), each agent's weighted by (M, n)."""
    if weight is None:
        return values.mean(dim=0)
    return (weight.unsqueeze(-1) * values).sum(dim=0) / weight.sum(dim=0).clamp_min(1.0).unsqueeze(-1)


def club_gaussian(mean: Tensor, log_var: Tensor, action: Tensor, negatives: Negatives = "histories") -> Tensor:
    """Return the per-sample CLUB estimate of q = N(mean, diag exp(log_var)) with one variance for all samples.

    Args:
        mean: (M, n, A), mu_k at x_k.
        log_var: (A,).
        action: (M, n, A), y_k.
        negatives: see the module's text.

    Returns:
        (M, n), nats.
    """
    # The average over j of (y_j - mu_k)^2 or of (y_k - mu_j)^2 is the variance of what j runs over plus a square;
    # log-variances and constants cancel between positive and negative pairs.
    averaged, fixed = (action, mean) if negatives == "actions" else (mean, action)
    center = averaged.mean(dim=0)
    variance = (averaged - center).square().mean(dim=0)
    gap = variance + (fixed - center).square() - (action - mean).square()
    return gap @ (0.5 * torch.exp(-log_var))


def club_categorical(
    log_probs: Tensor, one_hot: Tensor, negatives: Negatives = "histories", weight: Tensor | None = None
) -> Tensor:
    """Return the per-sample CLUB estimate of a categorical q.

    Args:
        log_probs: (M, n, A), log q(. | x_k), normalized over the last axis and finite (do not mask illegal actions:
            another sample's action may be illegal here, and its log-probability must exist).
        one_hot: (M, n, A), y_k.
        negatives: see the module's text.
        weight: (M, n) of zeros and ones, which samples count, see `choosing`; None for all.

    Returns:
        (M, n), nats; 0 for samples that do not count.
    """
    positive = (one_hot * log_probs).sum(dim=-1)
    if negatives == "actions":
        information = positive - (_mean(one_hot, weight) * log_probs).sum(dim=-1)
    else:
        information = positive - (one_hot * _mean(log_probs, weight)).sum(dim=-1)
    return information if weight is None else weight * information


class ActionModel(nn.Module):
    """The variational q(a | x): a linear layer on x gives a diagonal Gaussian or a categorical distribution per agent.

    One layer serves all agents, q(a^i | x^i); a `joint` model reads the x of all n agents for each agent's action,
    q(a | x) = prod_i q_i(a^i | x^1 ... x^n). The Gaussian's mean passes through tanh and its variance is one learned
    number per action component, as the policy's own noise is.

    Args:
        input_dim: D, the size of one agent's x.
        action_dim: A.
        discrete: categorical rather than Gaussian.
        min_std: floor of the Gaussian's standard deviation: the behavior policy's own noise. A q more certain than the
            policy itself would report information that is not there.
        joint: number of agents n of a joint model; 0 for one model per agent.
    """

    def __init__(self, input_dim: int, action_dim: int, *, discrete: bool, min_std: float, joint: int = 0) -> None:
        super().__init__()
        self.discrete = discrete
        self.joint = joint
        self.min_log_var = 2 * math.log(max(min_std, MIN_STD))
        self.linear = nn.Linear(input_dim * max(1, joint), action_dim * max(1, joint))
        self.free_log_var = nn.Parameter(torch.full((0 if discrete else action_dim,), self.min_log_var))

    @property
    def log_var(self) -> Tensor:
        """(A,), logarithm of the Gaussian's variance."""
        with torch.no_grad():  # a clamp in the graph would hold a variance that once passed the floor there for good
            self.free_log_var.clamp_(self.min_log_var, MAX_LOG_VARIANCE)
        return self.free_log_var

    def forward(self, x: Tensor) -> Tensor:
        """Map x (M, n, D) to q's means (M, n, A), or to its log-probabilities for discrete actions."""
        out = self.linear(x.flatten(-2)).unflatten(-1, (self.joint, -1)) if self.joint else self.linear(x)
        return F.log_softmax(out, dim=-1) if self.discrete else torch.tanh(out)

    def log_likelihood(self, q: Tensor, action: Tensor) -> Tensor:
        """Return log q(a | x), (M, n) nats, of what `forward` gave and (M, n, A) actions."""
        if self.discrete:
            return (q * action).sum(dim=-1)
        log_var = self.log_var
        square = (action - q).square() @ torch.exp(-log_var)
        return -0.5 * (square + (log_var + math.log(2 * math.pi)).sum())

    def club(
        self, q: Tensor, action: Tensor, negatives: Negatives = "histories", weight: Tensor | None = None
    ) -> Tensor:
        """Return the per-sample CLUB estimate, (M, n) nats, of what `forward` gave and (M, n, A) actions.

        `weight` (M, n) says which samples of a discrete q count, see `choosing`.
        """
        if self.discrete:
            return club_categorical(q, action, negatives, weight)
        return club_gaussian(q, self.log_var, action, negatives)


def exact_gaussian(mean: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Estimate the true I(h^i; a^i) of a known policy N(mean(h), std^2), without any bound.

    I = E_h E_{a ~ pi(.|h)} [log pi(a | h) - log mean_h' pi(a | h')], with one drawn action per history. The mixture is
    over the M histories given, so the value cannot exceed log M.

    Args:
        mean: (M, n, A), the policy's means at M histories.
        std: standard deviation of its noise.
        generator: draws the actions.

    Returns:
        (n,) nats.
    """
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
    action = (mean + std * noise).transpose(0, 1)  # (n, M, A)
    square = torch.cdist(action, mean.transpose(0, 1).contiguous()).square() / std**2  # (n, M, M)
    own = noise.square().sum(dim=-1).transpose(0, 1)  # (n, M)
    mixture = torch.logsumexp(-0.5 * square, dim=-1) - math.log(mean.shape[0])
    return (-0.5 * own - mixture).mean(dim=-1)


def exact_categorical(log_probs: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the exact I(h^i; a^i) = E_h KL(pi(.|h) || mean_h pi(.|h)) of a known policy.

    Args:
        log_probs: (M, n, A), log pi(. | h) at M histories; -inf is allowed for impossible actions.
        weight: (M, n) of zeros and ones, which histories count, see `choosing`; None for all.

    Returns:
        (n,) nats, a mean over all M histories, in which those that do not count add nothing.
    """
    probs = log_probs.exp()
    marginal = _mean(probs, weight).clamp_min(1e-38).log()
    information = (probs * (log_probs.clamp_min(-1e9) - marginal)).sum(dim=-1)
    return (information if weight is None else weight * information).mean(dim=0)
