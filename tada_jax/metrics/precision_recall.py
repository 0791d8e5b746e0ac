"""Precision, recall, density and coverage, in any features: [N,D] against [M,D]."""

import numpy as np

from tada_jax.metrics.neighbours import distance_blocks, nearest


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
