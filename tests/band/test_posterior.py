"""Posterior means against direct sums in float64, and against Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tada_jax.band import posterior


def _direct(z, points, prior, snr):
    """Posterior mean, log sum and largest term in float64, with |z|^2 snr / 2 added."""
    logits = np.log(prior) + snr * (z @ points.T) - 0.5 * snr * (points**2).sum(1)
    log_z = np.logaddexp.reduce(logits, axis=1)
    return np.exp(logits - log_z[:, None]) @ points, log_z, logits.max(1)


@pytest.fixture(scope="module")
def example():
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(6, 5)),
        "n": rng.normal(size=(6, 5)),
        "points": rng.normal(size=(20, 5)),
        "prior": rng.dirichlet(np.ones(20)),
        "logsnr": np.array([-6.0, -1.0, 0.5, 4.0]),
    }


def _evidence(e, rows=slice(None), excluded=None, width=0.0):
    points = e["points"][rows]
    if excluded is None:
        excluded = np.zeros((len(e["x"]), len(points)), bool)
    arrays = (e["x"][None], e["n"][None], points[None], points[None])
    x, n, points, values = (jnp.asarray(a, jnp.float32) for a in arrays)
    prior = jnp.asarray(np.log(e["prior"][rows]), jnp.float32)
    levels = jnp.asarray(e["logsnr"]), jnp.full(len(e["logsnr"]), width)
    return posterior.of_points(x, n, points, values, prior, excluded, *levels)


@pytest.mark.parametrize("width", [0.0, 2.0])
def test_evidence_is_that_of_a_direct_sum(example, width):
    found = _evidence(example, width=width)
    for i, r in enumerate(example["logsnr"]):
        z = example["x"] + np.exp(-r / 2) * example["n"]
        # Points that are Gaussians look like points under more noise.
        snr = np.exp(r) / (1 + width)
        mean, log_z, peak = _direct(z, example["points"], example["prior"], snr)
        np.testing.assert_allclose(found.mean[i, 0], mean, atol=2e-5)
        np.testing.assert_allclose(found.log_z[i, 0], log_z, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(found.peak[i, 0], peak, rtol=1e-5, atol=1e-4)


def test_chunks_merge_into_the_whole_even_where_one_is_empty(example):
    parts = [_evidence(example, slice(0, 3)), _evidence(example, slice(3, 20))]
    nothing = _evidence(example, slice(0, 3), np.ones((6, 3), bool))
    whole, merged = (
        _evidence(example),
        posterior.merge(posterior.merge(parts[0], nothing), parts[1]),
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), whole, merged)


def test_excluded_points_do_not_count(example):
    excluded = np.zeros((6, 20), bool)
    excluded[:, :7] = True
    without = example | {"points": example["points"][7:], "prior": example["prior"][7:]}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5),
        _evidence(example, excluded=excluded),
        _evidence(without),
    )


def test_patches_are_those_around_each_place_and_0_outside():
    images = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)
    places = np.array([[0, 0], [2, 3], [4, 5]])
    found = posterior.patches(images, places, 3).reshape(3, 2, 3, 3, 3)
    np.testing.assert_array_equal(found[1], images[:, 1:4, 2:5])
    np.testing.assert_array_equal(found[0][:, 1:, 1:], images[:, :2, :2])
    assert not np.any(found[0][:, 0]) and not np.any(found[2][:, :, 2])


def test_a_sketch_keeps_squared_lengths_in_the_mean_and_short_vectors_as_they_are():
    assert posterior.sketch(64, 64) is None
    x = np.random.default_rng(0).normal(size=(300, 1000)) ** 3
    ratios = [
        np.sum(np.square(posterior.sketch(1000, 64, seed=seed)(x)), -1) / np.sum(x**2, -1)
        for seed in range(20)
    ]
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.01)
    assert np.std(ratios) < 1.2 * np.sqrt(2 / 64)


def test_the_wiener_gap_is_that_of_samples():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4, 4))
    base, other = (np.zeros(4), a @ a.T), (np.array([0.5, 0, -1, 0]), b @ b.T)
    r = np.array([-2.0, 1.0])
    found = posterior.wiener_gap(base, other, r)
    x = rng.multivariate_normal(*base, 200_000)
    for gap, level in zip(found, r):
        variance = np.exp(-level)
        z = x + np.sqrt(variance) * rng.normal(size=x.shape)
        means = [
            m + (z - m) @ np.linalg.solve(c + variance * np.eye(4), c) for m, c in (base, other)
        ]
        assert gap == pytest.approx(np.square(means[0] - means[1]).sum(1).mean(), rel=0.02)
