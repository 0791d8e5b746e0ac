"""Every metric against an independent computation, and on images whose answer is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.stats

from tada_jax import backend, judge, methods
from tada_jax.augment import Policy
from tada_jax.data import load
from tada_jax.errors import UserError
from tada_jax.metrics import (
    bootstrap,
    classifier,
    features,
    leakage,
    memorisation,
    neighbours,
    quality,
    wasserstein,
)
from tada_jax.training import Evaluation


@pytest.fixture(scope="module")
def digits():
    """(training, held-out) images of the digits, uint8 [N,8,8,1]."""
    found = load("digits", test_fraction=0.4)
    shuffle = np.random.default_rng(0).permutation  # they come in the order of their writers
    return shuffle(found.train.images), shuffle(found.test.images)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


# Distances


def distances_one_by_one(a, b):
    return np.array([[np.linalg.norm(x - y) for y in b] for x in a])


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
    a, b = quality.Gaussian(m1, s1, 9), quality.Gaussian(m2, s2, 9)
    if rank is None:
        root = scipy.linalg.sqrtm(s1 @ s2).real
    else:  # limit of regular ones
        tiny = 1e-9 * np.eye(5)
        root = scipy.linalg.sqrtm((s1 + tiny) @ (s2 + tiny)).real
    expected = ((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * root)
    assert quality.frechet_distance(a, b) == pytest.approx(expected, rel=1e-3 if rank else 1e-9)
    assert quality.frechet_distance(b, a) == pytest.approx(quality.frechet_distance(a, b))


def test_frechet_distance_of_axis_aligned_gaussians_in_closed_form():
    spread, other = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 0.0])
    a = quality.Gaussian(np.zeros(3), np.diag(spread), 5)
    b = quality.Gaussian(np.array([1.0, 2.0, 0.0]), np.diag(other), 5)
    expected = 5.0 + ((np.sqrt(spread) - np.sqrt(other)) ** 2).sum()
    assert quality.frechet_distance(a, b) == pytest.approx(expected, abs=1e-12)
    assert quality.frechet_distance(a, a) == pytest.approx(0.0, abs=1e-12)


def test_the_gaussian_of_features_is_that_of_numpy_and_refuses_nonsense():
    x = normal(0, 20, 4)
    found = quality.gaussian(x)
    np.testing.assert_allclose(found.mean, x.mean(0))
    np.testing.assert_allclose(found.covariance, np.cov(x.T, ddof=1))
    with pytest.raises(ValueError, match="at least 2"):
        quality.gaussian(x[:1])
    with pytest.raises(ValueError, match="not finite"):
        quality.gaussian(np.full((3, 2), np.nan))


def test_kid_of_everything_is_the_unbiased_estimate_by_loops():
    x, y = normal(0, 7, 3), normal(1, 7, 3) + 0.5
    kernel = lambda a, b: (a @ b / 3 + 1) ** 3  # noqa: E731
    pairs = [(i, j) for i in range(7) for j in range(7)]
    within = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs if i != j) / 42
    expected = within - 2 * sum(kernel(x[i], y[j]) for i, j in pairs) / 49
    value, deviation = quality.kernel_distance(x, y)
    assert value == pytest.approx(expected, rel=1e-12) and math.isnan(deviation)


def test_kid_of_equal_distributions_is_0_on_average():
    values = [
        quality.kernel_distance(normal(i, 60, 4), normal(1000 + i, 90, 4), subsets=3)[0]
        for i in range(200)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)
    far, deviation = quality.kernel_distance(normal(0, 60, 4) + 1, normal(1, 90, 4), subsets=5)
    assert far > 20 * np.std(values) and deviation > 0


@pytest.mark.parametrize(("n", "m"), [(23, 31), (40, 12)])
def test_precision_recall_density_coverage_by_their_definitions(n, m, monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK_BYTES", 1000)
    x, y = normal(0, n, 3) + 0.7, normal(1, m, 3)
    d = distances_one_by_one(x, y)
    radius = lambda a, k: np.sort(distances_one_by_one(a, a))[:, k]  # noqa: E731  (0 is itself)
    expected = {
        "precision": np.mean([any(d[i, j] <= radius(y, 3)[j] for j in range(m)) for i in range(n)]),
        "recall": np.mean([any(d[i, j] <= radius(x, 3)[i] for i in range(n)) for j in range(m)]),
        "density": sum(d[i, j] <= radius(y, 5)[j] for i in range(n) for j in range(m)) / (5 * n),
        "coverage": np.mean([any(d[i, j] <= radius(y, 5)[j] for i in range(n)) for j in range(m)]),
    }
    found = quality.manifold(x, y)
    assert found == pytest.approx(expected)
    assert 0 < found["precision"] < 1 and 0 < found["recall"] < 1


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
    flat = lambda v: np.broadcast_to(v[:, None, None, None], (n, 9, 9, 1))  # noqa: E731
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


# Memorisation


def test_all_copies_are_found_and_held_out_images_are_none(digits):
    train, held_out = digits
    assert memorisation.copies(train[:100], train).all()
    noisy = np.clip(train[:100] + 8.0 * normal(0, 100, 8, 8, 1), 0, 255)
    assert memorisation.copies(noisy, train).mean() > 0.8
    assert memorisation.copies(held_out, train).mean() < 0.01
    mirrored = train[:100, :, ::-1]
    assert memorisation.copies(mirrored, train).mean() < 0.3
    assert memorisation.copies(mirrored, memorisation.with_mirrors(train)).all()


def test_repetitions_do_not_hide_copies(digits):
    train, _ = digits
    twice = np.concatenate([train[:50], train[:50]])
    np.testing.assert_array_equal(memorisation.distinct(twice), train[:50])
    assert not memorisation.copies(train[:50], twice).any()  # why they must be removed
    assert memorisation.copies(train[:50], memorisation.distinct(twice)).all()


def test_copy_margin_is_1_for_new_images_and_0_for_copies(digits):
    train, held_out = digits
    assert memorisation.copy_margin(held_out[:300], train[:200], held_out[300:]) == pytest.approx(
        1, abs=0.05
    )
    assert memorisation.copy_margin(train[:200], train[:200], held_out) == 0
    assert memorisation.copy_margin(held_out[:99], train, held_out[:99]) == np.inf
    equal = memorisation.copy_margin(held_out[500:], train[:90], held_out[:90])

    def near(points):
        return distances_one_by_one(*map(neighbours.rows, (held_out[500:], points))).min(1)

    assert equal == pytest.approx(near(train[:90]).mean() / near(held_out[:90]).mean())


def test_authenticity_by_its_definition():
    samples, train = normal(0, 20, 2), normal(1, 15, 2)
    expected = []
    for g in samples:
        d = [np.linalg.norm(g - x) for x in train]
        star = int(np.argmin(d))
        others = [np.linalg.norm(train[star] - x) for i, x in enumerate(train) if i != star]
        expected.append(min(d) > min(others))
    np.testing.assert_array_equal(memorisation.authenticity(samples, train), expected)
    assert not memorisation.authenticity(train, train).any()


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
    train = Evaluation(np.array([1.0, 2, 3, 5, 7]), logsnr)
    test = Evaluation(np.array([2.0, 2, 5, 5, 8]), logsnr)
    gaps = memorisation.denoising_gap(train, test)
    assert gaps.keys() == {-3.0, 1.0}
    gap, error = gaps[-3.0]
    assert gap == pytest.approx(1.0)
    assert error == pytest.approx(math.sqrt(3.0 / 3 + 1.0 / 3))
    assert gaps[1.0][0] == pytest.approx(0.5)


# Leakage


ROTATIONS = Policy(ops=("rotate_frac", "scale", "translate_frac"), p=1.0, xflip_p=0.0, max_ops=2)


def test_leakage_is_0_on_held_out_images_1_on_augmented_ones_and_grows_between(digits):
    train, held_out = digits
    fit_on, real = held_out[:360], held_out[360:]
    network = classifier.fit(classifier.leak_task(methods.Plain(ROTATIONS)), fit_on, steps=150)
    ask = features.Extractor("", None, judge._probability(network), network.params)
    augmented = judge.augmented_images(real, methods.Plain(ROTATIONS))
    new, moved = train[:300], judge.augmented_images(train[:300], methods.Plain(ROTATIONS), seed=1)
    shares = []
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        k = round(300 * part)
        mixture = np.concatenate([moved[:k], new[k:]])
        leak = leakage.classifier_leak(*(ask(x)[:, 0] for x in (mixture, real, augmented)))
        shares.append(leak.share)
        assert leak.interval[0] < leak.share < leak.interval[1]
        assert leak.share == pytest.approx(part, abs=0.12)
        assert leak.leak == pytest.approx(leak.samples - leak.real)
    assert shares == sorted(shares) and leak.auc > 0.8


def test_auc_and_shares_by_hand():
    low, high = np.array([0.1, 0.4, 0.4]), np.array([0.4, 0.9])
    assert leakage.auc(low, high) == pytest.approx((1 + 0.5 + 0.5 + 3) / 6)
    leak = leakage.classifier_leak([0.3, 0.5], [0.1, 0.3], [0.9, 0.7])
    assert leak.share == pytest.approx(0.2 / 0.6) and leak.leak == pytest.approx(0.2)


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
        moved = judge.augmented_images(real, methods.Plain(alone))
        also = judge.augmented_images(new, methods.Plain(alone), seed=1)
        kept, shift = (leakage.moment_shift(op, s, real, moved) for s in (new, also))
        assert kept.share < 0.15, op
        assert 0.8 < shift.share < 1.2, op
        assert shift.real == pytest.approx(kept.real) and len(shift.samples) == 2
    grey = images[..., :1]
    assert math.isnan(leakage.moment_shift("hue", grey, grey, grey).share)


# Intervals


def test_bootstrap_intervals_cover_as_often_as_they_say():
    rng, inside = np.random.default_rng(0), 0
    for trial in range(200):
        low, high = bootstrap.interval(np.mean, rng.normal(3, 2, 40), resamples=200, seed=trial)
        inside += low < 3 < high
    assert 0.88 < inside / 200 < 0.98
    low, high = bootstrap.interval(lambda a, b: a.mean() - b.mean(), [1.0] * 5, [0.25] * 3)
    assert low == high == 0.75


def test_wilsons_interval_of_a_share():
    low, high = judge._share_interval(0.03, 100)
    assert low == pytest.approx(0.0103, abs=2e-4) and high == pytest.approx(0.0845, abs=2e-4)
    assert judge._share_interval(0.0, 50)[0] == 0


def test_the_interval_of_a_frechet_distance_is_as_wide_as_other_samples_vary():
    reference = normal(0, 2000, 4)
    value = lambda x: quality.frechet_distance(quality.gaussian(x), quality.gaussian(reference))  # noqa: E731
    drawn = normal(1, 400, 4) + 0.3
    low, high = judge._frechet_interval(drawn, reference, value(drawn))
    others = np.array([value(normal(100 + i, 400, 4) + 0.3) for i in range(40)])
    assert (low + high) / 2 == pytest.approx(value(drawn))
    assert (high - low) / 3.92 == pytest.approx(others.std(), rel=0.4)
    assert judge._frechet_interval(normal(0, 9, 300), normal(1, 9, 300), 1.0) is None


# Extractors


def test_features_do_not_depend_on_the_batch_or_the_device_count(digits):
    images = digits[0][:37]
    network = classifier.fit(classifier.labels_task(10), images, np.arange(37) % 10, steps=2)
    made = features.fitted(network, images)
    whole = made(images)
    assert whole.shape == (37, classifier.WIDTH)
    assert np.mean(whole.astype(float) ** 2) == pytest.approx(1, abs=1e-3)
    one = backend.data_mesh(1, jax.devices()[:1])
    np.testing.assert_allclose(made(images, one), whole, atol=1e-4)
    small = features.dataclasses.replace(made, batch_size=5)
    np.testing.assert_allclose(small(images), whole, atol=1e-4)


def test_features_are_kept_by_images_and_extractor(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path))
    pixels = features.pixels(4)
    found = pixels.cached(digits[0][:9])
    assert found.shape == (9, 16)
    np.testing.assert_allclose(found[0, 0], digits[0][0, :2, :2].mean() / 127.5 - 1, atol=1e-6)
    (kept,) = (tmp_path / "features").iterdir()
    np.testing.assert_array_equal(pixels.cached(digits[0][:9]), found)
    (kept / "features.npy").write_bytes(b"damaged")
    np.testing.assert_array_equal(pixels.cached(digits[0][:9]), found)
    pixels.cached(digits[0][:8]), features.pixels(8).cached(digits[0][:9])
    assert len(list((tmp_path / "features").iterdir())) == 3


def test_any_function_is_an_extractor(digits, tmp_path):
    made = features.of_function(lambda images: images.reshape(len(images), -1)[:, :3])
    np.testing.assert_array_equal(made(digits[0][:5]), digits[0][:5].reshape(5, -1)[:, :3])
    assert made.digest is None
    for function, message in (
        (lambda images: images[:2], "the extractor mine returns"),
        (lambda images: images.nothing, "the extractor mine fails with AttributeError"),
        (lambda images: "text", "the extractor mine fails with ValueError"),
    ):
        with pytest.raises(UserError, match=message):
            features.of_function(function, name="mine")(digits[0][:5])
    file = tmp_path / "mine.py"
    file.write_text("x = 3\n\ndef means(images):\n    return images.mean((1, 2))\n")
    np.testing.assert_allclose(
        features.of_file(f"{file}:means")(digits[0][:3]), digits[0][:3].mean((1, 2)), rtol=1e-6
    )
    for spec, message in (
        ("nowhere.py:f", "no file"),
        ("pixelz", "no file"),
        (f"{file}:nothing", "AttributeError"),
        (f"{file}:x", "x is no function"),
    ):
        with pytest.raises(UserError, match=message):
            features.of_file(spec)


def test_large_images_are_averaged_down():
    image = np.arange(6 * 4, dtype=np.uint8).reshape(1, 6, 4, 1)
    np.testing.assert_allclose(
        features.small(image, 3)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5], [18.5, 20.5]]
    )
    np.testing.assert_array_equal(features.small(image, 6), image)


def test_a_network_is_fitted_once_and_learns(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path))
    found = load("digits")
    images, labels, said = found.train.images, found.train.labels, []
    task = classifier.labels_task(10)
    network = classifier.fit(task, images, labels, steps=120, say=said.append)
    x = jnp.asarray(found.test.images, jnp.float32) / 127.5 - 1
    outputs, _ = network.apply(network.params, x)
    assert (np.argmax(outputs, 1) == found.test.labels).mean() > 0.9
    again = classifier.fit(task, images, labels, steps=120, say=said.append)
    assert len(said) == 1 and again.digest == network.digest
    jax.tree.map(np.testing.assert_array_equal, again.params, network.params)


def test_a_network_can_learn_from_the_augmentation_alone(digits):
    task = classifier.augmentation_task(ROTATIONS)
    assert task.outputs == ROTATIONS.label_size
    network = classifier.fit(task, digits[0][:50], steps=2)
    assert np.isfinite(features.fitted(network, digits[0])(digits[0][:7])).all()
    for side in (5, 40):
        image = np.zeros((3, side, side + 3, 3), np.uint8)
        assert classifier.fit(task, image, steps=1).params
