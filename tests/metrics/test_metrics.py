"""Every metric against an independent computation, and on images whose answer is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.stats

from tada_jax.augment import Policy
from tada_jax.data import inspection, load
from tada_jax.methods.plain import Plain
from tada_jax.metrics import (
    classifier,
    features,
    intervals,
    judge,
    leakage,
    memorisation,
    neighbours,
    neither,
    quality,
    scores,
    wasserstein,
)
from tada_jax.metrics.views import augmented_images, images_of_kind
from tada_jax.system import backend
from tada_jax.system.errors import UserError
from tada_jax.training.heldout import Evaluation


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

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

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

    def radius(a, k):
        return np.sort(distances_one_by_one(a, a))[:, k]

    expected = {
        "precision": np.mean([any(d[i, j] <= radius(y, 3)[j] for j in range(m)) for i in range(n)]),
        "recall": np.mean([any(d[i, j] <= radius(x, 3)[i] for i in range(n)) for j in range(m)]),
        "density": sum(d[i, j] <= radius(y, 5)[j] for i in range(n) for j in range(m)) / (5 * n),
        "coverage": np.mean([any(d[i, j] <= radius(y, 5)[j] for i in range(n)) for j in range(m)]),
    }
    found = quality.manifold(x, y)
    assert found == pytest.approx(expected)
    assert 0 < found["precision"] < 1 and 0 < found["recall"] < 1


def test_a_ball_of_the_manifold_holds_what_lies_on_its_surface():
    """Whole numbers on a line: distance <= radius for all four; < would give other ones."""
    reference = np.array([[0.0], [2.0], [4.0], [6.0]])
    samples = np.array([[-2.0], [8.0], [20.0], [22.0]])
    found = quality.manifold(samples, reference, k=1, k_density=1)
    # Radii of the reference: 2. On their surfaces lie -2 (of 0) and 8 (of 6).
    assert found["precision"] == 2 / 4 and found["density"] == 2 / 4 and found["coverage"] == 2 / 4
    # Radii of the samples: 10, 10, 2, 2. Those of -2 and 8 hold all four.
    assert found["recall"] == 1.0
    apart = quality.manifold(
        np.array([[-2.0], [-12.0]]), np.array([[8.0], [98.0]]), k=1, k_density=1
    )
    assert apart["recall"] == 1 / 2
    # Of an image with k duplicates the ball has radius 0 and holds its copies.
    twins = np.repeat(np.array([[0.0], [10.0]]), 3, axis=0)
    same = quality.manifold(twins, twins, k=2, k_density=2)
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


# Leakage


ROTATIONS = Policy(ops=("rotate_frac", "scale", "translate_frac"), p=1.0, xflip_p=0.0, max_ops=2)


@pytest.fixture(scope="module")
def asked(digits):
    """(answers of a leak classifier to uint8 images, its answers to each kind, new images)."""
    train, held_out = digits
    method = Plain(ROTATIONS)
    network = classifier.fit(classifier.leak_task(method), held_out[:360], steps=250)
    ask = features.Extractor("", None, judge._probabilities(network), network.params)
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
    bad = jax.jit(neither.corrupt)(jax.random.key(1), x, jnp.full(64, 2.0))
    moved = np.sqrt(np.sum((bad - x) ** 2, (1, 2, 3)))
    assert np.isfinite(bad).all() and (moved > 1e-3).all()
    assert np.quantile(moved, 0.2) > 1.9  # but for blurs and mixtures that cannot go so far
    blurred = neither.blurred(x, jnp.linspace(0.05, 4.0, 64))
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
        return quality.frechet_distance(quality.gaussian(x), quality.gaussian(reference))

    drawn = normal(1, 400, 4) + 0.3
    low, high = scores._frechet_interval(drawn, reference, value(drawn))
    others = np.array([value(normal(100 + i, 400, 4) + 0.3) for i in range(40)])
    assert (low + high) / 2 == pytest.approx(value(drawn))
    assert (high - low) / 3.92 == pytest.approx(others.std(), rel=0.4)
    assert scores._frechet_interval(normal(0, 9, 300), normal(1, 9, 300), 1.0) is None


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


def test_features_of_a_file_are_kept_only_under_a_version_that_it_states(
    digits, tmp_path, monkeypatch
):
    monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path / "cache"))
    file, weights, images = tmp_path / "mine.py", tmp_path / "weights.npy", digits[0][:5]
    text = (
        f"import numpy as np\n\ndef f(images):\n    w = np.load({str(weights)!r})\n"
        "    return images.mean((1, 2)) * w\n"
    )

    def mean(text, weight):
        file.write_text(text)
        np.save(weights, weight)
        return features.of_file(f"{file}:f").cached(images).mean()

    assert mean(text, 4.0) == pytest.approx(2 * mean(text, 2.0))
    first, kept = (mean(text + "f.version = 1\n", weight) for weight in (1.0, 2.0))
    assert kept == first  # the user said that nothing changed
    for stated in ("f.version = 2\n", "version = 3\n"):
        assert mean(text + stated, 2.0) == pytest.approx(2 * first)


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
