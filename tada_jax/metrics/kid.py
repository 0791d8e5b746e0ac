"""Kernel distance (KID) of samples to a reference, in any features: [N,D] against [M,D]."""

import numpy as np

from tada_jax.metrics.neighbours import rows


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
