"""Methods that treat noise levels differently and augment nothing: ambient, undertrain."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from tada_jax.methods.ambient import Ambient
from tada_jax.methods.base import Example, Level
from tada_jax.methods.undertrain import RarelyDrawn, Undertrained
from tada_jax.setup import build
from tada_jax.system import backend
from tada_jax.system.errors import UserError
from tada_jax.training import device_memory, step
from tests import tiny

SHAPE = (8, 8, 1)
FIXED = {"diffusion__variance": "fixed_small"}
PLAIN = build.parts(tiny.config("none", **FIXED), SHAPE)


def parts(method, **fields):
    return build.parts(tiny.config(method, **FIXED, **fields), SHAPE)


def noised(of, count=64, seed=0):
    x0 = jax.random.normal(jax.random.key(9), (count, *SHAPE))
    numbers = jnp.arange(count, dtype=jnp.int32)
    made = tiny.at_once(lambda: step.noised(jax.random.key(seed), x0, None, of, numbers)[0])
    return made, x0


def level(logsnr, number=None):
    logsnr = jnp.asarray(logsnr, jnp.float32)
    number = jnp.arange(len(logsnr)) if number is None else number
    return Level(logsnr, number, lambda r: (jnp.abs(r) / 4.0).clip(0, 1))


# Ambient


def observed(method, logsnr, x0, eps, number=None):
    at = level(logsnr, number)
    return method.observed(Example(x0, eps), at.strength(at.logsnr), at)


def test_ambient_without_noise_is_none():
    ambient = parts("ambient", ambient__noise="0")
    (a, _), (b, _) = noised(ambient), noised(PLAIN)
    np.testing.assert_array_equal(a.z, b.z)
    np.testing.assert_array_equal(a.eps, b.eps)
    assert a.weight is None


def test_at_cleaner_levels_an_image_is_itself():
    x0, eps = jax.random.normal(jax.random.key(0), (2, 50, *SHAPE))
    r = np.linspace(3.0, 9.0, 50)  # s_n is that of log SNR 2.4
    made = observed(Ambient(PLAIN.policy, float(np.exp(-1.2))), r, x0, eps)
    np.testing.assert_array_equal(made.x0, x0)
    np.testing.assert_array_equal(made.eps, eps)
    np.testing.assert_array_equal(made.weight, 1.0)


def test_above_it_is_one_noisy_copy():
    """Whatever is drawn, y is x_n and fresh noise; each image has an x_n of its own."""
    s_n, s = 0.5, 0.8
    ambient = Ambient(PLAIN.policy, s_n)
    r, count = np.full(4000, -2.0 * np.log(s)), 4000
    x0 = jnp.ones((count, *SHAPE))

    def y(seed, number):
        eps = jax.random.normal(jax.random.key(seed), x0.shape)
        made = observed(ambient, r, x0, eps, number)
        return np.asarray(made.x0 + s * made.eps)

    same = y(0, jnp.zeros(count, jnp.int32))
    copy_noise = same.mean(0) - 1.0  # what does not average away is s_n e
    np.testing.assert_allclose(
        same.std(0), np.sqrt(s**2 - s_n**2), rtol=0.1
    )  # fresh noise on the copy
    np.testing.assert_allclose(copy_noise.std(), s_n, rtol=0.3)
    again = y(1, jnp.zeros(count, jnp.int32)).mean(0) - 1.0
    np.testing.assert_allclose(again, copy_noise, atol=0.05)
    other = y(1, jnp.full(count, 7, jnp.int32)).mean(0) - 1.0
    assert np.abs(np.corrcoef(other.ravel(), copy_noise.ravel())[0, 1]) < 0.5
    np.testing.assert_allclose(y(2, jnp.arange(count)).std(), s, rtol=0.01)


@pytest.mark.parametrize("s", [0.51, 0.7, 3.0])
def test_the_published_loss(s):
    """For any prediction D of the clean image, up to the plain weight of its squared error."""
    s_n = 0.5
    x0, eps = jax.random.normal(jax.random.key(0), (2, 100, *SHAPE))
    made = observed(Ambient(PLAIN.policy, s_n), np.full(100, -2.0 * np.log(s)), x0, eps)
    y = np.asarray(made.x0 + s * made.eps, np.float64)
    blurred = y - np.sqrt(s**2 - s_n**2) * np.asarray(eps)  # x_n
    guess = np.asarray(jax.random.normal(jax.random.key(1), x0.shape))
    c = (s**2 - s_n**2) / s**2
    published = (c * guess + (1 - c) * y - blurred) ** 2
    mine = np.asarray(made.weight)[:, None, None, None] * (guess - np.asarray(made.x0)) ** 2
    np.testing.assert_allclose(mine, published, rtol=2e-2, atol=1e-4)
    assert np.isfinite(mine).all()


def test_a_learned_variance_is_trained_where_images_are_known():
    of = build.parts(tiny.config("ambient", ambient__noise="0.3"), SHAPE)
    made, x0 = noised(of)
    known = np.asarray(made.known)
    np.testing.assert_array_equal(known, np.asarray(of.schedule.logsnr(made.t)) >= -2 * np.log(0.3))
    assert 0 < known.sum() < len(known)
    params = tiny.params(of)
    terms = tiny.at_once(lambda: step.loss_terms(params, made, jax.random.key(0), of))
    np.testing.assert_array_equal(np.asarray(terms["vlb"]) != 0, known)


@pytest.mark.parametrize("s", [0.6, 1.0, 4.0])
def test_its_optimum_on_gaussian_images_is_that_of_clean_ones(s):
    """x0 ~ N(0, v): the best linear guess of x0 at y is v / (v + s^2) y."""
    v, s_n, count = 0.7, 0.5, 20_000
    x0 = np.sqrt(v) * jax.random.normal(jax.random.key(3), (count, 1, 1, 1))
    eps = jax.random.normal(jax.random.key(4), x0.shape)
    made = observed(Ambient(PLAIN.policy, s_n), np.full(count, -2.0 * np.log(s)), x0, eps)
    y = np.ravel(made.x0 + s * made.eps)
    slope = (y * np.ravel(made.x0)).sum() / (y**2).sum()
    np.testing.assert_allclose(slope, v / (v + s**2), atol=0.03)


def test_its_noise_is_that_of_the_cleaner_end_of_the_band():
    band = Ambient(PLAIN.policy, None, delta=0.1)
    at = level([0.0])
    found = float(band._noise(at.strength))  # w = |r| / 4 is 0.1 at r = 0.4
    np.testing.assert_allclose(found, np.exp(-0.2), rtol=0.01)
    assert np.isinf(band._noise(lambda r: jnp.ones_like(r)))  # no band: nothing is hidden
    made = parts("ambient")
    r_fine = made.method._noise(made.strength)
    np.testing.assert_allclose(r_fine, np.exp(-1.5), rtol=0.01)  # of the digits, 3.0


def test_the_same_copies_by_whichever_way_batches_come():
    """From the device, and from the host."""
    config = tiny.config("ambient", **FIXED)
    made = build.parts(config, SHAPE)
    order = build.order(config, None, 50)
    over_batch = backend.over_batch(backend.data_mesh(config.train.batch_size))
    resident = step.resident_batches(config, order, over_batch)
    fed = step.fed_batches(config, order, over_batch, made)
    images = np.arange(50, dtype=np.uint8)[:, None, None, None] * np.ones((1, *SHAPE), np.uint8)
    batch, _, numbers = jax.jit(resident)(np.uint32(0), np.int32(3), images, None)
    np.testing.assert_array_equal(np.asarray(batch)[:, 0, 0, 0], numbers)
    _, _, of_fed = jax.jit(fed)(np.uint32(0), np.int32(3), batch, None)
    np.testing.assert_array_equal(of_fed, numbers)


def test_a_dry_run_estimates_its_memory():
    made = parts("ambient")
    config = tiny.config("ambient", **FIXED)
    assert device_memory.estimate(made, config, 1, 0).total > 0


def test_what_cannot_be():
    with pytest.raises(UserError, match=r"needs a band with ends.*'freeform' has none.*0\.3"):
        parts("ambient", tada__schedule="freeform")
    for noise in ("much", "-1", "inf", "nan"):
        with pytest.raises(UserError, match=r"config\.ambient.*noise must be"):
            parts("ambient", ambient__noise=noise)
    with pytest.raises(UserError, match=r"config\.undertrain\.floor"):
        build.parts(tiny.config("undertrain", undertrain__floor=1.5), SHAPE)


# Undertrained


def test_undertrain_with_weight_1_is_none():
    all_of_it = parts("undertrain", undertrain__floor=1.0)
    (a, _), (b, _) = noised(all_of_it), noised(PLAIN)
    np.testing.assert_array_equal(a.z, b.z)
    np.testing.assert_array_equal(a.weight, 1.0)
    (c, _) = noised(parts("undertrain_draw", undertrain__floor=1.0))
    np.testing.assert_array_equal(c.z, b.z)


@pytest.mark.parametrize("method", ["undertrain", "undertrain_draw", "ambient"])
def test_strengths_by_operation_count_by_their_mean(method):
    fields = {"tada__schedule": "table", "ambient__noise": "0.3", "augment__ops": tiny.MOVES}
    several = parts(method, tada__table=((-2.0, (1.0, 0.5, 0.0)), (2.0, (0.2, 0.3, 0.4))), **fields)
    one = parts(method, tada__table=((-2.0, 0.5), (2.0, 0.3)), **fields)
    (a, _), (b, _) = noised(several), noised(one)
    assert a.w.shape == (*b.w.shape, 3)
    jax.tree.map(
        lambda mine, theirs: np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6),
        (a.x0, a.z, a.weight),
        (b.x0, b.z, b.weight),
    )


@pytest.mark.usefixtures("whole_network")
def test_the_band_counts_less():
    half = parts("undertrain", undertrain__floor=0.25)
    made, x0 = noised(half)
    np.testing.assert_array_equal(made.x0, x0)  # nothing is augmented
    np.testing.assert_allclose(made.weight, 0.25 + 0.75 * made.w, rtol=1e-6)
    assert made.weight.min() < 0.4 and made.weight.max() == 1.0
    params = tiny.params(half)
    numbers = jnp.arange(64, dtype=jnp.int32)
    ours = tiny.loss_terms(half, jax.random.key(0), x0, numbers=numbers, params=params)
    plain = tiny.loss_terms(PLAIN, jax.random.key(0), x0, params=params)
    np.testing.assert_allclose(ours["loss"], plain["loss"] * made.weight, rtol=1e-5)
    np.testing.assert_allclose(ours["mse"], plain["mse"], rtol=1e-6)


def test_a_learned_variance_is_trained_less_too():
    half, plain = (build.parts(tiny.config(name), SHAPE) for name in ("undertrain", "none"))
    made, x0 = noised(half)
    params, key = tiny.params(half), jax.random.key(0)
    ours, theirs = (tiny.loss_terms(each, key, x0, params=params) for each in (half, plain))
    np.testing.assert_allclose(ours["loss"], theirs["loss"] * made.weight, rtol=1e-4)


@pytest.mark.parametrize("formulation", ["iddpm", "edm", "flow"])
def test_the_band_is_drawn_less(formulation):
    """As often as its share says, against the schedule's own draws."""
    config = base.formulate(tiny.config("undertrain_draw"), base.FORMULATIONS[formulation])
    config.schedule.total_timesteps = 1000
    made = build.parts(config, SHAPE)
    method, schedule, count = made.method, made.schedule, 40_000
    t = jax.jit(lambda key: method.draw(key, count, schedule, made.strength))(jax.random.key(0))
    own = schedule.draw(jax.random.key(1), count)
    share = np.asarray(method.share(made.strength(schedule.logsnr(own))))
    edges = np.linspace(-8, 8, 17)
    expected, _ = np.histogram(np.asarray(schedule.logsnr(own)), edges, weights=share / share.sum())
    found, _ = np.histogram(np.asarray(schedule.logsnr(t)), edges)
    np.testing.assert_allclose(found / count, expected, atol=0.006)
    band = [
        np.mean((schedule.logsnr(each) > -3) & (schedule.logsnr(each) < 1)) for each in (t, own)
    ]
    assert band[0] < 0.7 * band[1]


def test_they_are_what_the_table_says():
    assert isinstance(parts("undertrain").method, Undertrained)
    assert isinstance(parts("undertrain_draw").method, RarelyDrawn)
    for name in ("ambient", "undertrain", "undertrain_draw"):
        x0 = jnp.ones((4, *SHAPE))
        always = parts(name).method.always()
        np.testing.assert_array_equal(always(jax.random.key(0), x0, x0, jnp.ones(4)).x0, x0)
    assert dataclasses.is_dataclass(Ambient)
