"""Intervals cover as often as they say."""

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.stats
from threadpoolctl import threadpool_info, threadpool_limits

from tada_jax.metrics import (
    frechet,
    intervals,
    scores,
)
from tests.metrics.plainly import normal

# Intervals


def test_bootstrap_intervals_cover_as_often_as_they_say():
    rng, inside = np.random.default_rng(0), 0
    for trial in range(200):
        low, high = intervals.resampled(np.mean, rng.normal(3, 2, 40), resamples=200, seed=trial)
        inside += low < 3 < high
    assert 0.88 < inside / 200 < 0.98
    low, high = intervals.resampled(lambda a, b: a.mean() - b.mean(), [1.0] * 5, [0.25] * 3)
    assert low == high == 0.75
    both = intervals.resampled(lambda a: np.array([a.min(), a.max()]), np.arange(9.0))
    assert both[0].shape == (2,) and both[0][0] <= both[1][0] < both[0][1] <= both[1][1]


def test_rows_stay_whole_when_they_are_resampled():
    pairs = np.stack([np.arange(30.0), np.arange(30.0) + 0.5], 1)
    low, high = intervals.resampled(lambda p: (p[:, 1] - p[:, 0]).mean(), pairs)
    assert low == high == 0.5


def test_one_thread_of_blas_works_on_small_matrices():
    def threads(*_):
        found = {b["num_threads"] for b in threadpool_info() if b["user_api"] == "blas"}
        assert found
        return float(max(found))

    with threadpool_limits(2, "blas"):
        assert intervals.resampled(threads, np.arange(5.0), resamples=3) == (1, 1)
        assert threads() == 2  # and afterwards as many as before


def test_wilsons_interval_of_a_share():
    low, high = intervals.of_share(3, 100)
    assert low == pytest.approx(0.0103, abs=2e-4) and high == pytest.approx(0.0845, abs=2e-4)
    assert intervals.of_share(0, 50)[0] == 0


def test_the_interval_of_a_difference_is_welchs():
    a, b = normal(0, 12) + 1, 3 * normal(1, 20)
    difference, (low, high) = intervals.of_difference(a, b)
    assert difference == pytest.approx(a.mean() - b.mean()) == pytest.approx((low + high) / 2)
    v, w = a.var(ddof=1) / 12, b.var(ddof=1) / 20
    freedom = (v + w) ** 2 / (v**2 / 11 + w**2 / 19)
    assert (high - low) / 2 == pytest.approx(scipy.stats.t.ppf(0.975, freedom) * (v + w) ** 0.5)
    assert intervals.of_difference([1.0], b)[1] is None
    assert intervals.of_difference([1.0] * 3, [0.5] * 3) == (0.5, (0.5, 0.5))


def test_the_interval_of_a_frechet_distance_is_as_wide_as_other_samples_vary():
    reference = normal(0, 2000, 4)

    def value(x):
        return frechet.frechet_distance(frechet.gaussian(x), frechet.gaussian(reference))

    drawn = normal(1, 400, 4) + 0.3
    low, high = scores._frechet_interval(drawn, reference, value(drawn))
    others = np.array([value(normal(100 + i, 400, 4) + 0.3) for i in range(40)])
    assert (low + high) / 2 == pytest.approx(value(drawn))
    assert (high - low) / 3.92 == pytest.approx(others.std(), rel=0.4)
    assert scores._frechet_interval(normal(0, 9, 300), normal(1, 9, 300), 1.0) is None
