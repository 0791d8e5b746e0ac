"""Distances, neighbours and sliced Wasserstein against their definitions."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.stats

from tada_jax.metrics import (
    frechet,
    kid,
    neighbours,
    precision_recall,
    wasserstein,
)
from tests.metrics.plainly import distances_one_by_one, normal


@pytest.mark.parametrize("block", [2**27, 8 * 40, 8])
def test_neighbours_are_those_of_a_double_loop(block, monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK_BYTES", block)
    a, b = normal(0, 13, 2, 3), normal(1, 17, 2, 3)
    expected = distances_one_by_one(a, b)
    distance, index = neighbours.nearest(a, b, 3)
    np.testing.assert_allclose(distance, np.sort(expected)[:, :3], atol=1e-12)
    np.testing.assert_array_equal(index, np.argsort(expected)[:, :3])
    among, _ = neighbours.nearest(a, a, 2, among_themselves=True)
    own = distances_one_by_one(a, a) + np.diag([np.inf] * 13)
    np.testing.assert_allclose(among, np.sort(own)[:, :2], atol=1e-12)
    with pytest.raises(ValueError, match="17 points"):
        neighbours.nearest(a, b, 18)


def test_the_distance_of_a_copy_is_exactly_0(digits):
    train, _ = digits
    distance, index = neighbours.nearest(train[5:50], train)
    assert (distance == 0).all()
    np.testing.assert_array_equal(index[:, 0], np.arange(5, 50))


# Quality


def covariance(seed, d, rank=None):
    root = normal(seed, d, rank or d)
    return root @ root.T


@pytest.mark.parametrize("rank", [None, 2], ids=["regular", "singular"])
def test_frechet_distance_against_sqrtm(rank):
    s1, s2 = covariance(0, 5, rank), covariance(1, 5, rank)
    m1, m2 = normal(2, 5), normal(3, 5)
    a, b = frechet.Gaussian(m1, s1, 9), frechet.Gaussian(m2, s2, 9)
    if rank is None:
        root = scipy.linalg.sqrtm(s1 @ s2).real
    else:  # limit of regular ones
        tiny = 1e-9 * np.eye(5)
        root = scipy.linalg.sqrtm((s1 + tiny) @ (s2 + tiny)).real
    expected = ((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * root)
    assert frechet.frechet_distance(a, b) == pytest.approx(expected, rel=1e-3 if rank else 1e-9)
    assert frechet.frechet_distance(b, a) == pytest.approx(frechet.frechet_distance(a, b))


def test_frechet_distance_of_axis_aligned_gaussians_in_closed_form():
    spread, other = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 0.0])
    a = frechet.Gaussian(np.zeros(3), np.diag(spread), 5)
    b = frechet.Gaussian(np.array([1.0, 2.0, 0.0]), np.diag(other), 5)
    expected = 5.0 + ((np.sqrt(spread) - np.sqrt(other)) ** 2).sum()
    assert frechet.frechet_distance(a, b) == pytest.approx(expected, abs=1e-12)
    assert frechet.frechet_distance(a, a) == pytest.approx(0.0, abs=1e-12)


def test_the_gaussian_of_features_is_that_of_numpy_and_refuses_nonsense():
    x = normal(0, 20, 4)
    found = frechet.gaussian(x)
    np.testing.assert_allclose(found.mean, x.mean(0))
    np.testing.assert_allclose(found.covariance, np.cov(x.T, ddof=1))
    with pytest.raises(ValueError, match="at least 2"):
        frechet.gaussian(x[:1])
    with pytest.raises(ValueError, match="not finite"):
        frechet.gaussian(np.full((3, 2), np.nan))


def test_kid_of_everything_is_the_unbiased_estimate_by_loops():
    x, y = normal(0, 7, 3), normal(1, 7, 3) + 0.5

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    pairs = [(i, j) for i in range(7) for j in range(7)]
    within = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs if i != j) / 42
    expected = within - 2 * sum(kernel(x[i], y[j]) for i, j in pairs) / 49
    value, deviation = kid.kernel_distance(x, y)
    assert value == pytest.approx(expected, rel=1e-12) and math.isnan(deviation)


def test_kid_of_equal_distributions_is_0_on_average():
    values = [
        kid.kernel_distance(normal(i, 60, 4), normal(1000 + i, 90, 4), subsets=3)[0]
        for i in range(200)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)
    far, deviation = kid.kernel_distance(normal(0, 60, 4) + 1, normal(1, 90, 4), subsets=5)
    assert far > 20 * np.std(values) and deviation > 0


@pytest.mark.parametrize(("n", "m"), [(23, 31), (40, 12)])
def test_precision_recall_density_coverage_by_their_definitions(n, m, monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK_BYTES", 1000)
    x, y = normal(0, n, 3) + 0.7, normal(1, m, 3)
    d = distances_one_by_one(x, y)

    def radius(a, k):
        return np.sort(distances_one_by_one(a, a))[:, k]

    expected = {
        "precision": np.mean([any(d[i, j] <= radius(y, 3)[j] for j in range(m)) for i in range(n)]),
        "recall": np.mean([any(d[i, j] <= radius(x, 3)[i] for i in range(n)) for j in range(m)]),
        "density": sum(d[i, j] <= radius(y, 5)[j] for i in range(n) for j in range(m)) / (5 * n),
        "coverage": np.mean([any(d[i, j] <= radius(y, 5)[j] for i in range(n)) for j in range(m)]),
    }
    found = precision_recall.manifold(x, y)
    assert found == pytest.approx(expected)
    assert 0 < found["precision"] < 1 and 0 < found["recall"] < 1


def test_a_ball_of_the_manifold_holds_what_lies_on_its_surface():
    """Whole numbers on a line: distance <= radius for all four; < would give other ones."""
    reference = np.array([[0.0], [2.0], [4.0], [6.0]])
    samples = np.array([[-2.0], [8.0], [20.0], [22.0]])
    found = precision_recall.manifold(samples, reference, k=1, k_density=1)
    # Radii of the reference: 2. On their surfaces lie -2 (of 0) and 8 (of 6).
    assert found["precision"] == 2 / 4 and found["density"] == 2 / 4 and found["coverage"] == 2 / 4
    # Radii of the samples: 10, 10, 2, 2. Those of -2 and 8 hold all four.
    assert found["recall"] == 1.0
    apart = precision_recall.manifold(
        np.array([[-2.0], [-12.0]]), np.array([[8.0], [98.0]]), k=1, k_density=1
    )
    assert apart["recall"] == 1 / 2
    # Of an image with k duplicates the ball has radius 0 and holds its copies.
    twins = np.repeat(np.array([[0.0], [10.0]]), 3, axis=0)
    same = precision_recall.manifold(twins, twins, k=2, k_density=2)
    assert same == {"precision": 1.0, "recall": 1.0, "density": 1.5, "coverage": 1.0}


# Sliced Wasserstein


def test_the_pyramid_adds_up_to_the_image():
    images = normal(0, 3, 37, 50, 2).astype(np.float32)
    levels = wasserstein.laplacian_pyramid(images, min_side=8)
    assert [level.shape[1:3] for level in levels] == [(37, 50), (19, 25), (10, 13)]
    total = levels[-1]
    for level in levels[-2::-1]:
        spread = np.zeros_like(level)
        spread[:, ::2, ::2] = total
        total = level + wasserstein._blur(spread, gain=2.0)
    np.testing.assert_allclose(total, images, atol=1e-5)
    flat = np.full((2, 32, 32, 1), 7.0, np.float32)
    details, rest = wasserstein.laplacian_pyramid(flat)
    assert np.abs(details[:, 4:-4, 4:-4]).max() < 1e-5 and np.abs(rest - 7).max() < 1e-5


def test_sliced_wasserstein_distance_in_closed_form():
    """Flat images: a projection is s v, and W1(coin, normal) = E||Z| - 1|."""
    n, d = 4000, 49
    coin = np.where(np.arange(n) % 2, 150, 100)
    gauss = 125 + 25 * scipy.stats.norm.ppf((np.arange(n) + 0.5) / n)

    def flat(v):
        return np.broadcast_to(v[:, None, None, None], (n, 9, 9, 1))

    found = wasserstein.sliced_wasserstein(flat(coin), flat(gauss), patches=1, projections=512)
    z = scipy.stats.norm
    one = scipy.integrate.quad(lambda u: 2 * abs(u - 1) * z.pdf(u), 0, 12)[0]
    ratio = math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2))
    expected = one * math.sqrt(d) * ratio / math.sqrt(math.pi)
    assert len(found) == 1 and found[0] == pytest.approx(expected, rel=0.1)


def test_sliced_wasserstein_is_0_for_the_same_images_and_grows_with_noise(digits):
    train, held_out = digits
    assert wasserstein.sliced_wasserstein(train, train) == [0.0]
    distances = []
    for noise in (0, 20, 60):
        noisy = np.clip(held_out + noise * normal(0, *held_out.shape), 0, 255)
        distances += wasserstein.sliced_wasserstein(noisy, train)
    assert 0 < distances[0] < distances[1] < distances[2]
