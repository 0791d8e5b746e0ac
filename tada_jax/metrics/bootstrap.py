"""Bootstrap intervals (Efron 1979; the percentile method)."""

import numpy as np


def interval(statistic, *groups, resamples=1000, level=0.95, seed=0):
    """A percentile interval of `statistic(*groups)`, each group resampled on its own.

    Args:
      statistic: arrays [n_i, ...] -> a number.
      *groups: independent samples; those of length 0 stay as they are.
      resamples: how often.
      level: probability mass inside.
      seed: of the resampling.

    Returns:
      (low, high).
    """
    rng = np.random.default_rng(seed)
    groups = [np.asarray(group) for group in groups]
    draw = lambda group: group[rng.integers(len(group), size=len(group))]  # noqa: E731
    values = [
        statistic(*(draw(group) if len(group) else group for group in groups))
        for _ in range(resamples)
    ]
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)
