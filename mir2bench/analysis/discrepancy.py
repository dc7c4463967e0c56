"""How far apart two collections of episodes lie, in numbers that need no picture.

Points of one episode resemble each other: they are one draw, not many. So an episode is the unit of everything here:
averages run over pairs of different episodes, the test exchanges whole episodes, the bootstrap resamples them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_PERMUTATIONS = 1_000
_RESAMPLES = 1_000  # of the MMD: a product with a small matrix each
_RESAMPLES_FRECHET = 200  # an eigenvalue problem each
_TAIL = 2.5  # percent on each side of a 95% interval


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """What separates two collections of E episodes.

    Attributes:
        mmd2: unbiased squared maximum mean discrepancy; of mean 0 for equal distributions, so it may be negative.
        mmd2_ci: 95% percentile interval of a bootstrap over episodes.
        p_value: of the hypothesis that the two are exchangeable within each pair of episodes.
        bandwidth: of the Gaussian kernel.
        frechet: squared Frechet distance in units of the first collection's total variance, the bias that a bootstrap
            over episodes finds taken off; near 0 for equal distributions, so it may be negative.
        frechet_ci: its 95% percentile interval, moved by twice that bias.
    """

    mmd2: float
    mmd2_ci: tuple[float, float]
    p_value: float
    bandwidth: float
    frechet: float
    frechet_ci: tuple[float, float]


def compare(x: np.ndarray, y: np.ndarray, *, seed: int) -> Discrepancy:
    """Measure how far the points of two collections of episodes lie apart.

    Args:
        x, y: (E, M, D), M points of D numbers from each of E >= 2 episodes; episode e of one may have the same start as
            episode e of the other.
        seed: determines permutations and resamples.
    """
    rng = np.random.default_rng(seed)
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    bandwidth = median_distance(np.concatenate([x, y]).reshape(-1, x.shape[-1]))
    pairs = pair_matrix(x, y, bandwidth)
    mmd2 = weighted_mmd2(pairs, np.ones((1, len(x))))[0]
    signs = rng.choice([-1.0, 1.0], size=(_PERMUTATIONS, len(x)))
    null = weighted_mmd2(pairs, signs)
    distance = FrechetDistance(x, y)
    resampled = np.array([distance(w) for w in _resamples(rng, _RESAMPLES_FRECHET, len(x))])
    plain = distance(np.ones(len(x)))
    # Means of few episodes scatter, which adds to a squared distance; resampling adds as much once more.
    bias = resampled.mean() - plain
    return Discrepancy(
        mmd2=float(mmd2),
        mmd2_ci=_interval(weighted_mmd2(pairs, _resamples(rng, _RESAMPLES, len(x)))),
        p_value=float((1 + np.sum(null >= mmd2)) / (1 + _PERMUTATIONS)),
        bandwidth=bandwidth,
        frechet=float(plain - bias),
        frechet_ci=_interval(resampled - 2 * bias),
    )


def _resamples(rng: np.random.Generator, count: int, episodes: int) -> np.ndarray:
    """Return how often each episode was drawn, (count, E)."""
    return rng.multinomial(episodes, np.full(episodes, 1 / episodes), size=count).astype(np.float64)


def _interval(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return float("nan"), float("nan")
    return float(np.percentile(finite, _TAIL)), float(np.percentile(finite, 100 - _TAIL))


# --- maximum mean discrepancy ---


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the squared Euclidean distances of points (P, D) and (Q, D), (P, Q)."""
    squares = (x * x).sum(axis=1)[:, None] + (y * y).sum(axis=1) - 2 * x @ y.T
    return np.maximum(squares, 0.0)


def median_distance(points: np.ndarray) -> float:
    """Return the median Euclidean distance of two different points (P, D): the usual bandwidth of a Gaussian kernel.

    Where most points coincide, the mean distance takes its place, and 1 where all do.
    """
    squares = squared_distances(points, points)[np.triu_indices(len(points), k=1)]
    distances = np.sqrt(squares)
    return float(np.median(distances)) or float(distances.mean()) or 1.0


def pair_matrix(x: np.ndarray, y: np.ndarray, bandwidth: float) -> np.ndarray:
    """Return h (E, E), whose mean over pairs of different episodes is the unbiased MMD^2.

    h_ef = k(x_e, x_f) + k(y_e, y_f) - k(x_e, y_f) - k(y_e, x_f), where k is the mean over the points of two episodes of
    the Gaussian kernel exp(-|u - v|^2 / (2 bandwidth^2)). Pairs e = f are left out between the collections too, because
    x_e and y_e may share a start; that keeps the mean unbiased. Exchanging x_e and y_e turns the sign of row and column
    e, which makes the permutation test cheap.

    Source: Gretton et al. 2012, "A kernel two-sample test", equation 4, with an episode as one observation.
    """
    episodes, points, dim = x.shape
    both = np.concatenate([x, y]).reshape(-1, dim)
    kernel = np.exp(squared_distances(both, both) / (-2 * bandwidth**2))
    means = kernel.reshape(2 * episodes, points, 2 * episodes, points).mean(axis=(1, 3))
    xx, yy = means[:episodes, :episodes], means[episodes:, episodes:]
    xy = means[:episodes, episodes:]
    return xx + yy - xy - xy.T


def weighted_mmd2(pairs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return MMD^2 under each row of weights: the weighted mean of h over pairs of different episodes, (W,).

    An episode that a bootstrap drew twice is not paired with itself either: h_ee is no unbiased part of the mean.

    Args:
        pairs: (E, E) from `pair_matrix`.
        weights: (W, E), how often each episode counts; -1 for an episode whose two sides are exchanged.
    """
    off = pairs - np.diag(np.diag(pairs))
    sums = np.einsum("we,ef,wf->w", weights, off, weights, optimize=True)
    counts = np.abs(weights).sum(axis=1) ** 2 - (weights**2).sum(axis=1)
    # A resample that drew a single episode has no pairs.
    return np.divide(sums, counts, out=np.full(len(weights), np.nan), where=counts > 0)


# --- Frechet distance ---


class FrechetDistance:
    """The squared Frechet distance of two Gaussians with the means and covariances of x and y, over x's total variance.

    |m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)), divided by tr S_x. Without unit and the same for features of any
    scale: 1 means that y lies as far from x as x spreads.

    Source: Dowson and Landau 1982, "The Frechet distance between multivariate normal distributions".

    Args:
        x, y: (E, M, D).
    """

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self._moments = [(z.mean(axis=1), np.einsum("emi,emj->eij", z, z, optimize=True) / z.shape[1]) for z in (x, y)]

    def __call__(self, weights: np.ndarray) -> float:
        """Return the distance when episode e counts weights[e] times; NaN where x does not vary."""
        shares = weights / weights.sum()
        (mean_x, cov_x), (mean_y, cov_y) = ((shares @ m, np.tensordot(shares, s, axes=1)) for m, s in self._moments)
        cov_x, cov_y = cov_x - np.outer(mean_x, mean_x), cov_y - np.outer(mean_y, mean_y)
        variance = float(np.trace(cov_x))
        if variance <= 1e-12:
            return float("nan")
        values, vectors = np.linalg.eigh(cov_x)
        root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
        # (S_x S_y)^(1/2) has the trace of the root of this symmetric matrix.
        overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_y @ root), 0.0)).sum()
        squared = ((mean_x - mean_y) ** 2).sum() + variance + np.trace(cov_y) - 2 * overlap
        return max(float(squared) / variance, 0.0)
