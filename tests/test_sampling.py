import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tada_jax import sampling, schedule

MEAN, STD = 0.3, 0.2  # of the pixels of the data
SHAPE = (4, 3, 1)


def oracle(full, parameterisation="eps"):
    """The ideal network for data N(MEAN, STD^2): its posterior mean is known in closed form."""

    def predict(z, t):
        alpha, sigma = (a[:, None, None, None] for a in (full.alpha(t), full.sigma(t)))
        eps = sigma * (z - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
        x0 = (z - sigma * eps) / alpha
        return {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}[parameterisation]

    return predict


def draw(sampler, steps=None, count=400, parameterisation="eps", total=200, **options):
    full = schedule.make("cosine", total)
    short = schedule.respace(full, steps) if steps else full
    keys = sampling.sample_keys(0, 0, count)
    predict = oracle(full, parameterisation)
    run = lambda keys: sampler(  # noqa: E731
        predict,
        keys,
        schedule=short,
        shape=SHAPE,
        parameterisation=parameterisation,
        **{"clip_x0": False} | options,
    )
    return jax.jit(run)(keys)


@pytest.mark.parametrize("parameterisation", ["eps", "x0", "v"])
@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        (sampling.ddpm, {"variance": "fixed_small"}),
        (sampling.ddpm, {"variance": "fixed_large"}),
        (sampling.ddim, {}),
        (sampling.ddim, {"eta": 0.5}),
        (sampling.ddim, {"steps": 40}),
    ],
)
def test_recovers_a_gaussian_whose_score_is_known(sampler, options, parameterisation):
    x = np.asarray(draw(sampler, parameterisation=parameterisation, **options))
    n = x.size
    assert x.mean() == pytest.approx(MEAN, abs=4 * STD / np.sqrt(n) + 0.005)
    # A shorter DDIM walk contracts or spreads a little; the ancestral ones are exact at T = 200.
    assert x.std() == pytest.approx(STD, rel=4 / np.sqrt(2 * n) + 0.05)


def test_ddim_with_eta_1_on_the_full_grid_is_ancestral_with_the_small_variance():
    for clip_x0 in (False, True):
        ddim = draw(sampling.ddim, eta=1.0, clip_x0=clip_x0)
        ddpm = draw(sampling.ddpm, variance="fixed_small", clip_x0=clip_x0)
        np.testing.assert_allclose(ddim, ddpm, atol=2e-5)


def test_ddim_converges_to_the_exact_flow_at_first_order():
    """For Gaussian data the flow is affine: x0 = MEAN + STD (z_T - alpha_T MEAN) / std(z_T)."""

    def largest_error(total):
        full = schedule.make("cosine", total)
        z = sampling._noise(sampling.sample_keys(0, 0, 8), 0, SHAPE)
        a, s = float(full.alpha(total - 1)), float(full.sigma(total - 1))
        exact = MEAN + STD * (z - a * MEAN) / np.sqrt(a**2 * STD**2 + s**2)
        return np.abs(draw(sampling.ddim, total=total, count=8) - exact).max()

    coarse, fine = largest_error(250), largest_error(1000)
    assert fine < 3e-3
    assert 3 < coarse / fine < 5


def test_a_sample_depends_on_its_own_key_only():
    many = draw(sampling.ddpm, variance="fixed_large", count=12)
    few = draw(sampling.ddpm, variance="fixed_large", count=5)
    np.testing.assert_allclose(few, many[:5], atol=1e-6)
    np.testing.assert_array_equal(
        jax.random.key_data(sampling.sample_keys(3, 7, 2)),
        jax.random.key_data(sampling.sample_keys(3, 0, 9))[7:],
    )
    assert len(np.unique(np.asarray(many).round(4), axis=0)) == 12


def test_samplers_start_from_the_same_noise_whatever_their_steps():
    """So that grids by different samplers show the same pictures, where they agree."""
    long, short = draw(sampling.ddim, count=8), draw(sampling.ddim, steps=50, count=8)
    assert np.corrcoef(np.ravel(long), np.ravel(short))[0, 1] > 0.99


def test_clipping_keeps_x0_in_range_at_the_last_step():
    x = draw(
        lambda predict, keys, **kw: sampling.ddim(lambda z, t: -9 * z, keys, **kw), clip_x0=True
    )
    assert float(jnp.abs(x).max()) <= 1


def test_uint8_rounds_and_clips():
    x = jnp.array([-3.0, -1.0, 0.0, 1.0, 3.0, 17 / 127.5 - 1])
    np.testing.assert_array_equal(sampling.to_uint8(x), [0, 0, 128, 255, 255, 17])
