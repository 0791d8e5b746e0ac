"""How close samples are to a reference, in any features: float [N,D] against float [M,D]."""

import dataclasses
import functools

import numpy as np

from tada_jax.metrics.neighbours import distance_blocks, nearest, rows


@dataclasses.dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean float64 [D] and covariance float64 [D,D] (ddof 1) of features, and their number."""

    mean: np.ndarray
    covariance: np.ndarray
    count: int

    @functools.cached_property
    def root(self):
        """L, float64 [D,D], with L L^T = covariance, which may be singular."""
        values, vectors = np.linalg.eigh(self.covariance)
        return vectors * np.sqrt(np.maximum(values, 0.0))


def gaussian(features):
    """The `Gaussian` of features [N,D].

    Raises:
      ValueError: with fewer than two of them, or numbers that are not finite.
    """
    features = rows(features)
    if len(features) < 2:
        raise ValueError(f"a covariance needs at least 2 examples, not {len(features)}")
    if not np.isfinite(features).all():
        raise ValueError("the features are not finite")
    mean = features.mean(0)
    centred = features - mean
    return Gaussian(mean, centred.T @ centred / (len(features) - 1), len(features))


def frechet_distance(a, b):
    """The Frechet distance of two Gaussians (Dowson & Landau 1982; FID: Heusel et al. 2017).

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)). The last trace is the sum of the singular values
    of L1^T L2 with S = L L^T, so that neither a matrix square root nor a regular covariance is
    needed. Biased upwards with few examples: compare only at equal numbers.

    Args:
      a, b: `Gaussian`s of equal dimension.

    Returns:
      A float, at least 0.
    """
    cross = np.linalg.svd(a.root.T @ b.root, compute_uv=False).sum()
    spread = np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * cross
    return max(0.0, float(((a.mean - b.mean) ** 2).sum() + spread))


def kernel_distance(features, reference, *, subsets=100, subset_size=1000, seed=0):
    """KID (Binkowski et al. 2018): unbiased squared MMD under the kernel (x.y/D + 1)^3.

    Args:
      features: [N,D].
      reference: [M,D].
      subsets: how many random subsets are averaged.
      subset_size: of each, at most N and M.
      seed: of the subsets.

    Returns:
      (mean, standard deviation) over the subsets; usually printed times 1000. The deviation is NaN
      where every subset is everything there is.

    Raises:
      ValueError: with fewer than two of either.
    """
    features, reference = rows(features), rows(reference)
    size = min(subset_size, len(features), len(reference))
    if size < 2:
        raise ValueError("KID needs at least 2 examples on either side")
    rng = np.random.default_rng(seed)
    everything = size == len(features) == len(reference)
    values = []
    for _ in range(1 if everything else subsets):
        x = features[rng.choice(len(features), size, replace=False)]
        y = reference[rng.choice(len(reference), size, replace=False)]
        values.append(_squared_mmd(x, y))
    return float(np.mean(values)), float("nan") if everything else float(np.std(values))


def _squared_mmd(x, y):
    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1.0) ** 3

    n = len(x)
    within = sum(k.sum() - np.trace(k) for k in (kernel(x, x), kernel(y, y)))
    return within / (n * (n - 1)) - 2.0 * kernel(x, y).mean()


def manifold(features, reference, *, k=3, k_density=5):
    """Precision, recall, density and coverage.

    A set's manifold is the union of the balls around its members that reach their k-th nearest
    other member. Precision: share of samples in the reference's; recall: share of the reference in
    the samples' (Kynkaanniemi et al. 2019, k = 3). Density: balls of the reference around a sample,
    over k; coverage: share of the reference's balls that hold a sample (Naeem et al. 2020, k = 5).

    A ball holds what lies on its surface (<=), for all four: so Kynkaanniemi et al. define it, eq.
    1, while the program of Naeem et al. leaves the surface out (<) and their text both open. It
    matters for equal distances only, as of duplicates and of features of whole numbers: with <, a
    reference image that has k duplicates has an empty ball, and even the reference itself would
    not cover it.

    Args:
      features: of the samples, [N,D].
      reference: [M,D].
      k: of precision and recall.
      k_density: of density and coverage.

    Returns:
      {"precision", "recall", "density", "coverage"}.

    Raises:
      ValueError: if either set has no k (or the reference no k_density) neighbours.
    """
    own, _ = nearest(features, features, k, among_themselves=True)
    others, _ = nearest(reference, reference, max(k, k_density), among_themselves=True)
    radius, radius_real, radius_density = own[:, -1], others[:, k - 1], others[:, k_density - 1]
    precise = dense = 0
    recalled, covered = np.zeros(len(reference), bool), np.zeros(len(reference), bool)
    for part, distance in distance_blocks(features, reference):
        precise += (distance <= radius_real).any(1).sum()
        inside = distance <= radius_density
        dense += inside.sum()
        covered |= inside.any(0)
        recalled |= (distance <= radius[part, None]).any(0)
    return {
        "precision": float(precise / len(features)),
        "recall": float(recalled.mean()),
        "density": float(dense / (k_density * len(features))),
        "coverage": float(covered.mean()),
    }
