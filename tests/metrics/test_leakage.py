"""Leaks of three kinds, and moments of every operation."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tada_jax.augment import Policy
from tada_jax.methods.plain import Plain
from tada_jax.metrics import (
    bad_images,
    classifier,
    features,
    judge,
    leakage,
)
from tada_jax.metrics.views import augmented_images, images_of_kind
from tests.metrics.plainly import ROTATIONS, normal


@pytest.fixture(scope="module")
def asked(digits):
    """(answers of a leak classifier to uint8 images, its answers to each kind, new images)."""
    train, held_out = digits
    method = Plain(ROTATIONS)
    network = classifier.fit(classifier.leak_task(method), held_out[:360], steps=250)
    ask = features.Extractor("", None, judge.Probabilities(), network.params)
    known = [ask(images_of_kind(held_out[360:], method, kind)) for kind in range(3)]
    new = [images_of_kind(train[:300], method, kind, seed=1) for kind in range(3)]
    return ask, known, new


def of_shares(asked, shares, bad=None):
    """The `Leak` of a mixture of 300 images of the three kinds."""
    ask, known, (real, augmented, neither) = asked
    counts = np.round(300 * np.array(shares)).astype(int)
    kinds = (real, augmented, neither if bad is None else bad)
    ends = np.cumsum(counts)
    mixture = [images[end - n : end] for images, n, end in zip(kinds, counts, ends)]
    return leakage.classifier_leak(ask(np.concatenate(mixture)), *known)


def test_the_leak_is_the_share_of_augmented_images(asked):
    leaks = []
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        leak = of_shares(asked, (1 - part, part, 0.0))
        assert leak.interval[0] - 0.02 <= part <= leak.interval[1] + 0.02
        assert leak.share == pytest.approx(part, abs=0.12) and leak.neither < 0.12
        leaks.append(leak.share)
    assert leaks == sorted(leaks) and leak.auc > 0.8 and max(leaks) <= 1


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_bad_samples_are_no_leak(asked, share):
    leak = of_shares(asked, (0.6 * (1 - share), 0.6 * share, 0.4))
    assert leak.neither == pytest.approx(0.4, abs=0.12)
    assert leak.share == pytest.approx(share, abs=0.15)


def test_noise_has_no_leak_at_all(asked):
    noise = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1), np.uint8)
    leak = of_shares(asked, (0.0, 0.0, 1.0), noise)
    assert math.isnan(leak.share) and all(map(math.isnan, leak.interval)) and leak.text == "n/a"
    assert "look neither real nor augmented" in leak.reason and leak.neither > 0.8


def test_a_leak_is_bounded_and_needs_a_classifier_that_knows_something():
    sure = np.eye(3)[[0] * 20], np.eye(3)[[1] * 20], np.eye(3)[[2] * 20]
    assert leakage.classifier_leak(sure[1], *sure).share == pytest.approx(1)
    softer = [0.9 * answers + 0.1 / 3 for answers in sure]
    assert leakage.classifier_leak(sure[1], *softer).share == 1  # surer than of T(x, 1) itself
    blind = [np.full((20, 3), 1 / 3)] * 3
    assert "cannot tell" in leakage.classifier_leak(sure[1], *blind).reason
    low, high = np.array([0.1, 0.4, 0.4]), np.array([0.4, 0.9])
    assert leakage.auc(low, high) == pytest.approx((1 + 0.5 + 0.5 + 3) / 6)


def test_shares_of_a_mixture_follow_from_mean_answers():
    known = np.array([[0.7, 0.2, 0.1], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]])
    for shares in ([1, 0, 0], [0.2, 0.5, 0.3], [0, 0.5, 0.5]):
        np.testing.assert_allclose(leakage.shares(shares @ known, known), shares, atol=1e-9)


def test_images_that_are_neither_lie_as_far_away_as_the_augmentation_or_further():
    x = jax.random.uniform(jax.random.key(0), (64, 16, 16, 3), minval=-1.0)
    bad = jax.jit(bad_images.corrupt)(jax.random.key(1), x, jnp.full(64, 2.0))
    moved = np.sqrt(np.sum((bad - x) ** 2, (1, 2, 3)))
    assert np.isfinite(bad).all() and (moved > 1e-3).all()
    assert np.quantile(moved, 0.2) > 1.9  # but for blurs and mixtures that cannot go so far
    blurred = bad_images.blurred(x, jnp.linspace(0.05, 4.0, 64))
    np.testing.assert_allclose(blurred[0], x[0], atol=1e-5)
    np.testing.assert_allclose(blurred.mean((1, 2)), x.mean((1, 2)), atol=0.05)
    assert blurred[-1].std() < 0.2 * x[-1].std()


def test_frechet_leak_has_the_sign_of_what_is_nearer():
    real, augmented = normal(0, 200, 3), normal(1, 200, 3) + 2
    assert leakage.frechet_leak(normal(2, 200, 3), real, augmented) < -5
    assert leakage.frechet_leak(normal(2, 200, 3) + 2, real, augmented) > 5


def test_the_moments_of_every_operation():
    """Blobs of their own place, size, direction and colour: each operation shows in its moments."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:24, :24] - 11.5
    images = []
    for _ in range(600):
        a, b = rng.normal(0, 0.4, 2)
        blob = np.exp(-(((x - a) / 5.5) ** 2 + ((y - b) / 2.5) ** 2) * rng.uniform(0.9, 1.1) / 2)
        blob *= 1 + 0.6 * np.tanh(y / 3)
        color = np.array([1.0, 0.55, 0.2]) * rng.uniform(0.95, 1.05, 3)
        images.append(20 + 160 * blob[..., None] * color)
    images = np.array(images).clip(0, 255).astype(np.uint8)
    real, new = images[:300], images[300:]
    for op in leakage.MOMENTS:
        alone = Policy(ops=(op,), p=1.0, xflip_p=0.0)
        moved = augmented_images(real, Plain(alone))
        also = augmented_images(new, Plain(alone), seed=1)
        kept, shift = (leakage.moment_shift(op, s, real, moved) for s in (new, also))
        assert kept.share < 0.15, op
        assert 0.8 < shift.share < 1.2, op
        assert shift.real == pytest.approx(kept.real) and len(shift.samples) == 2
    grey = images[..., :1]
    assert math.isnan(leakage.moment_shift("hue", grey, grey, grey).share)
