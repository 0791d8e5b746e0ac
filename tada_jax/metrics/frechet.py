"""Frechet distance of samples to a reference, in any features [N,D]; of Inception's it is FID."""

import dataclasses
import functools

import numpy as np

from tada_jax.metrics.neighbours import rows


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
