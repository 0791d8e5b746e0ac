"""Copies, margins, authenticity, C_T and denoising gaps."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.stats

from tada_jax.data import inspection
from tada_jax.metrics import (
    memorisation,
    neighbours,
)
from tada_jax.training.heldout import Evaluation
from tests.metrics.plainly import distances_one_by_one, normal

# Memorisation


def test_all_copies_are_found_and_held_out_images_are_none(digits):
    train, held_out = digits
    images = memorisation.gallery(train)
    assert memorisation.copies(train[:100], images).all()
    noisy = np.clip(train[:100] + 8.0 * normal(0, 100, 8, 8, 1), 0, 255)
    assert memorisation.copies(noisy, images).mean() > 0.8
    assert memorisation.copies(held_out, images).mean() < 0.01
    mirrored = train[:100, :, ::-1]
    assert memorisation.copies(mirrored, images).mean() < 0.3
    assert memorisation.copies(mirrored, memorisation.gallery(train, mirrored=True)).all()


@pytest.fixture(scope="module")
def symmetric():
    """60 images that are nearly their own mirror images, float [60,12,12,1], and noisy copies."""
    half = 255 * np.random.default_rng(0).random((60, 12, 6, 1))
    images = np.concatenate([half, half[:, :, ::-1]], 2) + 4 * normal(1, 60, 12, 12, 1)
    return images, images + 4 * normal(2, 60, 12, 12, 1)


def test_an_image_and_its_mirror_image_are_one(symmetric):
    images, copied = symmetric
    flipped = memorisation.gallery(images, mirrored=True)
    assert len(flipped) == len(flipped.points) == 60  # mirror images take no memory
    twice = memorisation.gallery(
        np.concatenate([images, images[:, :, ::-1]]), alike=[(i, 60 + i) for i in range(60)]
    )
    for queries in (
        copied,
        copied[:, :, ::-1],
        255 * np.random.default_rng(1).random((9, 12, 12, 1)),
    ):
        for k in (1, 2):
            np.testing.assert_allclose(
                flipped.nearest(queries, k)[0], twice.nearest(queries, k)[0], rtol=1e-6
            )
        index = flipped.nearest(queries, 2)[1]
        near = flipped.shown(queries, index) - queries[:, None]
        np.testing.assert_allclose(
            np.sqrt(np.square(near).sum((2, 3, 4))), flipped.nearest(queries, 2)[0], rtol=1e-6
        )
    versions = flipped.versions(1000)
    assert len(versions) == 120 and len(flipped.versions(50)) == 50
    np.testing.assert_array_equal(versions[60:], versions[:60, :, ::-1])
    assert memorisation.copies(copied, flipped).all()
    assert memorisation.copies(copied[:, :, ::-1], flipped).all()
    assert not memorisation.authenticity(copied, flipped).any()
    # Counted as two, each would hide that the other was copied.
    apart = memorisation.gallery(np.concatenate([images, images[:, :, ::-1]]))
    assert memorisation.copies(copied, apart).mean() < 0.6


def test_twins_do_not_hide_that_one_of_them_was_copied():
    images = 255 * np.random.default_rng(0).random((40, 12, 12, 1))
    twins = np.clip(images[:10] + 3 * normal(1, 10, 12, 12, 1), 0, 255)
    both = np.round(np.concatenate([images, twins])).astype(np.uint8)
    pairs = inspection.alike(both)
    assert {tuple(sorted(pair)) for pair in pairs.tolist()} == {(i, 40 + i) for i in range(10)}
    known = memorisation.gallery(both.astype(np.float32), alike=pairs)
    assert len(known) == 40 and len(known.points) == 50
    copied = images[:10] + 6 * normal(2, 10, 12, 12, 1)
    assert memorisation.copies(copied, known).all()
    assert not memorisation.copies(copied, memorisation.gallery(both.astype(np.float32))).any()
    assert not memorisation.authenticity(copied, known).any()


def test_equal_images_are_one(digits):
    train, _ = digits
    twice = memorisation.gallery(np.concatenate([train[:50], train[:50]]))
    assert len(twice) == len(twice.points) == 50
    np.testing.assert_array_equal(twice.points, train[:50])
    assert memorisation.copies(train[:50], twice).all()


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_nearest_sets_by_their_definition(k):
    queries, points, starts = normal(0, 20, 3), normal(1, 12, 3), np.array([0, 1, 4, 6, 9])
    distance, index = neighbours.nearest_sets(queries, points, starts, k)
    every = distances_one_by_one(queries, points)
    for row, near, which in zip(every, distance, index):
        of_sets = sorted(
            (part.min(), row.tolist().index(part.min())) for part in np.split(row, starts[1:])
        )
        np.testing.assert_allclose(near, [d for d, _ in of_sets[:k]], rtol=1e-6)
        assert which.tolist() == [i for _, i in of_sets[:k]]


def test_copy_margin_is_1_for_new_images_and_0_for_copies(digits):
    train, held_out = digits

    def margin(samples, train, test):
        return memorisation.copy_margin(samples, *map(memorisation.gallery, (train, test)))

    assert margin(held_out[:300], train[:200], held_out[300:]) == pytest.approx(1, abs=0.05)
    assert margin(train[:200], train[:200], held_out) == 0
    assert margin(held_out[:99], train, held_out[:99]) == np.inf
    equal = margin(held_out[500:], train[:90], held_out[:90])

    def near(points):
        return distances_one_by_one(*map(neighbours.rows, (held_out[500:], points))).min(1)

    assert equal == pytest.approx(near(train[:90]).mean() / near(held_out[:90]).mean())


@pytest.mark.parametrize("held_out", [20, 100])
def test_the_margin_is_as_wide_where_few_images_are_held_out(digits, held_out):
    """Every training image may have been copied, and many lie nearer than few do."""
    train, others = digits
    few = memorisation.gallery(others[:held_out])
    known, new = memorisation.gallery(train), others[held_out:]
    assert memorisation.copy_margin(train[::5], known, few) == 0
    assert memorisation.copy_margin(new, known, few) == pytest.approx(1, abs=0.07)
    half = np.concatenate([train[: len(new)], new])
    assert memorisation.copy_margin(half, known, few) == pytest.approx(0.5, abs=0.07)
    strange = np.random.default_rng(0).integers(0, 17, new[:200].shape)
    assert memorisation.copy_margin(strange, known, few) == pytest.approx(1, abs=0.07)


def test_the_margin_of_a_model_with_flips_is_1_though_the_images_all_look_one_way(digits):
    train, held_out = digits  # no digit is its own mirror image
    drawn = held_out[300:].copy()
    drawn[::2] = drawn[::2, :, ::-1]  # new ones, half of them mirrored
    both = [memorisation.gallery(x, mirrored=True) for x in (train[:300], held_out[:300])]
    assert memorisation.copy_margin(drawn, *both) == pytest.approx(1, abs=0.04)
    one_sided = memorisation.copy_margin(drawn, both[0], memorisation.gallery(held_out[:300]))
    assert one_sided < 0.9


def test_authenticity_by_its_definition():
    samples, train = normal(0, 20, 2), normal(1, 15, 2)
    expected = []
    for g in samples:
        d = [np.linalg.norm(g - x) for x in train]
        star = int(np.argmin(d))
        others = [np.linalg.norm(train[star] - x) for i, x in enumerate(train) if i != star]
        expected.append(min(d) > min(others))
    images = memorisation.gallery(train)
    np.testing.assert_array_equal(memorisation.authenticity(samples, images), expected)
    assert not memorisation.authenticity(train, images).any()


def test_data_copying_is_negative_for_copies_and_near_0_for_the_same_distribution(digits):
    train, held_out = digits
    copied = memorisation.data_copying(train[:400], train, held_out)
    fresh = memorisation.data_copying(held_out[:350], train, held_out[350:])
    far = memorisation.data_copying(255 - held_out[:300], train, held_out)
    assert copied < -8 and abs(fresh) < 3 and far > 8
    assert math.isnan(memorisation.data_copying(train[:5], train, held_out))


def test_the_rank_test_is_that_of_mann_and_whitney():
    a, b = np.array([1.0, 2, 2, 5, 7]), np.array([2.0, 3, 4])
    u = scipy.stats.mannwhitneyu(a, b).statistic
    expected = (u - 7.5) / math.sqrt(5 * 3 * 9 / 12)
    assert memorisation._rank_z(a, b) == pytest.approx(expected)


def test_the_denoising_gap_by_noise_level():
    logsnr = np.array([-3.0, -3, -2.5, 0.5, 1.0])
    train = Evaluation(np.array([1.0, 2, 3, 5, 7]), logsnr, np.arange(5))
    test = Evaluation(np.array([2.0, 2, 5, 5, 8]), logsnr, np.arange(5))
    gaps = memorisation.denoising_gap(train, test, fewest=2)
    assert gaps.keys() == {-3.0, 1.0}
    gap, interval, images = gaps[-3.0]
    assert gap == pytest.approx(1.0) and images == 3
    assert sum(interval) / 2 == pytest.approx(1.0)
    assert gaps[1.0][0] == pytest.approx(0.5)
    assert memorisation.denoising_gap(train, test) == {}


def test_an_image_noised_a_hundred_times_is_one_image():
    rng = np.random.default_rng(0)
    inside, naive, trials = 0, 0, 200
    for _ in range(trials):
        losses = []
        for _ in range(2):  # equal means: the true gap is 0
            of_images = 1.0 + 0.2 * rng.normal(size=12)
            image = np.arange(1200) % 12
            mse = of_images[image] + 0.02 * rng.normal(size=1200)
            losses.append(Evaluation(mse, np.zeros(1200), image))
        train, test = losses
        gap, (low, high), images = memorisation.denoising_gap(train, test)[1.0]
        inside += low < 0 < high
        naive += abs(gap) < 1.96 * math.sqrt((train.mse.var() + test.mse.var()) / 1200)
        assert images == 12
    assert 0.9 < inside / trials < 0.99
    assert naive / trials < 0.5  # what counting noisings as images would say
