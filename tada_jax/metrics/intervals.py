"""Intervals of 95%: scipy's, with what is independent resampled, and nothing else.

An image that was noised many times is one image: who calls gives one row for it. Functions import
scipy, which takes more than half a second, since a run begins without it.
"""

import contextlib
import warnings

import numpy as np

LEVEL = 0.95


@contextlib.contextmanager
def one_thread():
    """For many products and decompositions of small matrices, one after the other.

    BLAS shares each among all cores. Threads that wait for each other gain nothing there, and where
    something else is running they lose: a factor of 50 was seen. Of the whole process: not to be
    entered by two threads at once.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        yield


def of_share(count, n):
    """Wilson's interval of a share, `count` of `n` (Wilson 1927); (low, high)."""
    from scipy import stats

    found = stats.binomtest(int(count), int(n)).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def resampled(statistic, *groups, resamples=1000, seed=0):
    """A bootstrap interval of `statistic(*groups)` by percentiles (Efron 1979).

    Args:
      statistic: arrays [n_i, ...] -> a number, or an array [K] of them.
      *groups: independent samples, each resampled by its first axis on its own. What belongs
        together, as everything that was made of one image, is one row of one group.
      resamples: how often.
      seed: of the resampling.

    Returns:
      (low, high), each as the statistic.
    """
    from scipy import stats

    groups = [np.asarray(group) for group in groups]

    def of_rows(*chosen):
        return statistic(*(group[rows] for group, rows in zip(groups, chosen)))

    with one_thread():
        found = stats.bootstrap(
            [np.arange(len(group)) for group in groups],
            of_rows,
            n_resamples=resamples,
            vectorized=False,
            confidence_level=LEVEL,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    low, high = (np.asarray(end, np.float64) for end in found)
    return (low, high) if low.ndim else (float(low), float(high))


def of_difference(a, b):
    """Mean of `a` minus mean of `b`, and Welch's interval of it; rows are independent.

    Args:
      a, b: float [n], [m], one number for each image.

    Returns:
      (difference, (low, high)); the interval is None where either has fewer than two.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    difference = float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2:
        return difference, None
    if not a.std() and not b.std():
        return difference, (difference, difference)
    from scipy import stats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numbers that are nearly alike
        found = stats.ttest_ind(a, b, equal_var=False).confidence_interval(LEVEL)
    return difference, (float(found.low), float(found.high))
