import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tada_jax.model import diffusion, schedule
from tests import tiny

SHAPE = (6, 5, 7, 3)


@pytest.fixture(scope="module")
def batch():
    """Images whose values are those of 8-bit pixels, noise, timesteps, and z_t."""
    s = schedule.make("cosine", 100)
    rng = np.random.default_rng(0)
    x0 = jnp.asarray(rng.integers(0, 256, SHAPE) / 127.5 - 1, jnp.float32)
    eps = jnp.asarray(rng.normal(size=SHAPE), jnp.float32)
    t = jnp.array([0, 1, 20, 50, 80, 95])
    return s, x0, eps, t, diffusion.diffuse(x0, eps, s.alpha(t), s.sigma(t))


def test_forward_process_has_the_stated_moments():
    s = schedule.make("cosine", 100)
    t = jnp.full(2000, 40)
    x0 = jnp.full((2000, 4, 4, 1), 0.5)
    z = diffusion.diffuse(
        x0, jax.random.normal(jax.random.key(0), x0.shape), s.alpha(t), s.sigma(t)
    )
    assert float(z.mean()) == pytest.approx(0.5 * float(s.alpha(40)), abs=0.02)
    assert float(z.std()) == pytest.approx(float(s.sigma(40)), abs=0.02)


@pytest.mark.parametrize("parameterisation", diffusion.PARAMETERISATIONS)
def test_every_parameterisation_gives_back_image_and_noise(batch, parameterisation):
    s, x0, eps, t, z = batch
    alpha, sigma = s.alpha(t), s.sigma(t)
    prediction = diffusion.target(parameterisation, x0, eps, alpha, sigma)
    np.testing.assert_allclose(
        diffusion.predicted_x0(parameterisation, prediction, z, alpha, sigma), x0, atol=2e-5
    )
    np.testing.assert_allclose(
        diffusion.predicted_eps(parameterisation, prediction, z, alpha, sigma), eps, atol=2e-4
    )


@pytest.mark.parametrize("weighting", ["p2", "min_snr"])
@pytest.mark.parametrize("parameterisation", ["x0", "v"])
def test_weighted_losses_are_the_same_objective_in_every_parameterisation(
    batch, weighting, parameterisation
):
    """A network with a given error has one loss, whichever target that error is expressed in."""
    s, x0, eps, t, z = batch
    alpha, sigma = s.alpha(t), s.sigma(t)
    wrong_eps = eps + 0.1 * jnp.cos(jnp.arange(x0.size)).reshape(SHAPE)
    wrong_x0 = diffusion.predicted_x0("eps", wrong_eps, z, alpha, sigma)

    def loss(name):
        output = diffusion.target(name, wrong_x0, wrong_eps, alpha, sigma)
        options = {"parameterisation": name, "variance": "fixed_small", "weighting": weighting}
        return diffusion.training_losses(s, output, x0, eps, z, t, **options)["loss"]

    np.testing.assert_allclose(loss(parameterisation), loss("eps"), rtol=2e-3)


def test_noise_is_what_jax_draws():
    """Which is drawn otherwise for TPUs; runs of earlier versions go on with the same numbers."""
    key, shape = jax.random.key(3), (5, 4, 6, 3)
    drawn = jax.jit(diffusion.normal, static_argnums=1)(key, shape)
    np.testing.assert_array_equal(drawn, jax.random.normal(key, shape))


def test_weights_are_those_of_the_papers():
    logsnr = jnp.array([-5.0, 0.0, 4.0])
    snr = np.exp(np.asarray(logsnr))
    weight = diffusion.loss_weight
    np.testing.assert_array_equal(weight("none", "v", logsnr), 1)
    np.testing.assert_allclose(
        weight("p2", "eps", logsnr, p2_gamma=0.5), (1 + snr) ** -0.5, rtol=1e-5
    )
    np.testing.assert_allclose(
        weight("min_snr", "eps", logsnr), np.minimum(snr, 5) / snr, rtol=1e-5
    )
    np.testing.assert_allclose(weight("min_snr", "x0", logsnr), np.minimum(snr, 5), rtol=1e-5)
    np.testing.assert_allclose(
        weight("min_snr", "v", logsnr), np.minimum(snr, 5) / (snr + 1), rtol=1e-5
    )


def test_bound_vanishes_for_the_true_posterior_and_is_bits_at_t0(batch):
    s, x0, eps, t, z = batch
    vlb = diffusion.vlb_term(s, "eps", "fixed_small", eps, x0, z, t)
    np.testing.assert_allclose(vlb[1:], 0, atol=1e-5)
    assert 0 < float(vlb[0]) < 8  # of an 8-bit pixel, a priori


def test_discretized_likelihood_sums_to_one_over_the_256_values():
    x = jnp.arange(256) / 127.5 - 1
    log_p = diffusion.discretized_gaussian_log_likelihood(x, 0.3, jnp.log(0.1))
    assert float(jnp.exp(log_p).sum()) == pytest.approx(1, abs=1e-4)
    assert int(jnp.argmax(log_p)) == round((0.3 + 1) * 127.5)


@pytest.mark.parametrize("log_scale", [-0.5, -1.0, -2.0, -3.0, -4.0, -5.0])
def test_discretized_likelihood_in_both_tails_is_that_of_float64(log_scale):
    """The same tanh approximation, 0.5 (1 + tanh) in float64 on the side of the smaller tail."""
    x = np.asarray(np.arange(256) / 127.5 - 1, np.float32)[:, None]
    mean = np.linspace(-1.3, 1.3, 53, dtype=np.float32)
    got = diffusion.discretized_gaussian_log_likelihood(x, mean, jnp.float32(log_scale))
    centered = x.astype(np.float64) - mean

    def tail(v):  # exp(2 u) / (1 + exp(2 u)) = 0.5 (1 + tanh(u)): has all digits for v < 0
        u = np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)
        return np.exp(2 * u - np.logaddexp(0, 2 * u))

    scale, outer = np.exp(log_scale), np.abs(x) > 0.999
    near = (-np.abs(centered) + 1 / 255) / scale
    far = (-np.abs(centered) - 1 / 255) / scale
    p = tail(near) - tail(far)
    below, above = tail((centered + 1 / 255) / scale), tail((1 / 255 - centered) / scale)
    p = np.where(outer, np.where(x > 0, above, below), p)
    error = np.abs(np.exp(np.asarray(got, np.float64)) / np.maximum(p, 1e-12) - 1)
    assert error.max() < 1e-3
    assert (p < 1e-9).any() == (log_scale < -0.5)  # tails are among them


def test_gradients_of_the_discretized_likelihood_are_finite_everywhere():
    x = (np.arange(256) / 127.5 - 1).astype(np.float32)[:, None, None]
    mean = np.array([-1e4, -3.0, -1.0, 0.0, 0.4, 1.0, 50.0], np.float32)[:, None]
    log_scale = np.linspace(-12, 40, 27, dtype=np.float32)

    def total(mean, log_scale):
        return diffusion.discretized_gaussian_log_likelihood(x, mean, log_scale).sum()

    for gradient in tiny.at_once(jax.grad(total, (0, 1)), mean, log_scale):
        assert np.isfinite(gradient).all()
    # That of -log p in the far tail is that of the Gaussian there, to the approximation's quality.
    slope = jax.grad(lambda m: diffusion.discretized_gaussian_log_likelihood(x[0, 0, 0], m, -1.0))
    assert float(tiny.at_once(slope, jnp.float32(0.2))) < -1.0


def test_kl_of_gaussians():
    kl = diffusion.gaussian_kl
    assert float(kl(0.3, 0.2, 0.3, 0.2)) == pytest.approx(0)
    small = float(kl(jnp.float32(0), jnp.float32(1e-3), jnp.float32(0), jnp.float32(0)))
    assert small == pytest.approx((np.expm1(1e-3) - 1e-3) / 2, rel=1e-3)  # .12 off without expm1
    # KL(N(1, 1) || N(0, 4)) = ln 2 + (1 + 1)/8 - 1/2
    assert float(kl(1.0, 0.0, 0.0, jnp.log(4.0))) == pytest.approx(np.log(2) + 0.25 - 0.5, abs=1e-6)


def test_learned_variance_runs_from_posterior_to_beta(batch):
    s, x0, _, t, z = batch
    log_var = diffusion.model_log_variance
    ones = jnp.ones_like(x0)
    at = t[1:]
    np.testing.assert_allclose(
        log_var(s, "learned_range", -ones, z, t)[:, 0, 0, 0],
        log_var(s, "fixed_small", None, z, t)[:, 0, 0, 0],
    )
    np.testing.assert_allclose(
        log_var(s, "learned_range", ones, z, t)[1:, 0, 0, 0], np.log(s.betas)[at], rtol=1e-5
    )
    np.testing.assert_allclose(
        log_var(s, "fixed_large", None, z, t)[1:, 0, 0, 0], np.log(s.betas)[at], rtol=1e-5
    )


def test_hybrid_loss_trains_the_mean_by_mse_alone(batch):
    s, x0, eps, t, z = batch
    output = jnp.concatenate([eps * 0.9, jnp.zeros_like(eps)], -1)

    def loss(output, vlb_weight):
        terms = diffusion.training_losses(s, output, x0, eps, z, t, vlb_weight=vlb_weight)
        return terms["loss"].sum()

    gradient = jax.jit(jax.grad(loss))
    hybrid, simple = (np.asarray(gradient(output, weight)) for weight in (0.001, 0.0))
    np.testing.assert_allclose(hybrid[..., :3], simple[..., :3], rtol=1e-6)
    assert np.abs(simple[..., 3:]).max() == 0
    assert np.abs(hybrid[..., 3:]).max() > 0
    terms = tiny.at_once(lambda: diffusion.training_losses(s, output, x0, eps, z, t))
    np.testing.assert_allclose(
        terms["loss"], terms["mse"] + 0.001 * len(s) * terms["vlb"], rtol=1e-6
    )
    assert terms["loss"].shape == (6,)
