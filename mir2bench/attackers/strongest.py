"""Keeping the strongest of several adversaries, on episodes that neither training nor evaluation uses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mir2bench.errors import PolicyError
from mir2bench.learning.policy import NetworkPolicy
from mir2bench.learning.rollout import rollout
from mir2bench.partition import Partition
from mir2bench.policies import Policy
from mir2bench.registration import VariantSpec

SELECTION_SEED = 2_000_000
"""First of the seeds on which an attack's candidates are compared; apart from training's and evaluation's."""
SELECTION_EPISODES = 64


class Strongest:
    """The adversaries that brought one team's return down furthest so far.

    Args:
        variant, victim, phi: whom they attack.
    """

    def __init__(self, variant: VariantSpec, victim: Policy, phi: Partition) -> None:
        self._variant, self._victim, self._phi = variant, victim, phi
        self._lowest = np.full(SELECTION_EPISODES, np.inf)
        self._best: NetworkPolicy | None = None

    def returns_under(self, policy: Policy) -> np.ndarray:
        """Return the team's returns on the selection episodes."""
        seeds = range(SELECTION_SEED, SELECTION_SEED + SELECTION_EPISODES)
        return rollout(self._variant, self._victim, self._phi, policy, seeds).returns

    def offer(self, policy: NetworkPolicy, copy: Callable[[], NetworkPolicy]) -> dict[str, float]:
        """Measure a policy in training, and keep a copy if it is clearly stronger than all before.

        Returns:
            Metrics to report: "attacked_return" under the strongest policy, "attacked_return/now" under this one.
        """
        now = self.returns_under(policy)
        if _clearly_lower(now, self._lowest):
            self._lowest, self._best = now, copy()
        return {"attacked_return": float(self._lowest.mean()), "attacked_return/now": float(now.mean())}

    def policy(self) -> NetworkPolicy:
        """Return the strongest policy.

        Raises:
            PolicyError: the team's returns were never finite.
        """
        if self._best is None:
            raise PolicyError(f"{self._variant.id}: the team's return under attack was never a finite number.")
        return self._best


def _clearly_lower(new: np.ndarray, old: np.ndarray) -> bool:
    """Whether returns on the same episodes fell by more than two standard errors of the paired difference.

    Chance alone must not replace a policy: what looks better here by luck is worse elsewhere.
    """
    if not np.isfinite(old).all():
        return bool(np.isfinite(new).all())
    gain = old - new
    return bool(gain.mean() > 2 * gain.std() / np.sqrt(len(gain)))
