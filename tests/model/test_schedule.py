import jax.numpy as jnp
import numpy as np
import pytest

from tada_jax.model import schedule

NAMES = ("linear", "cosine")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("total", [50, 1000])
def test_tables(name, total):
    s = schedule.make(name, total)
    assert len(s) == s.total_timesteps == total
    assert s.alpha_bar.dtype == np.float64
    assert (np.diff(s.log_snr_table) < 0).all()
    t = jnp.arange(total)
    np.testing.assert_allclose(s.alpha(t) ** 2 + s.sigma(t) ** 2, 1, atol=1e-6)
    np.testing.assert_allclose(
        s.logsnr(t), 2 * (np.log(s.alpha(t)) - np.log(s.sigma(t))), rtol=2e-3, atol=2e-3
    )


def test_definitions_of_the_two_schedules():
    linear = schedule.make("linear", 200)
    np.testing.assert_allclose(linear.betas, np.linspace(5e-4, 0.1, 200), rtol=1e-9)
    cosine = schedule.make("cosine", 100)
    s = np.arange(1, 100) / 100
    start = np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    ideal = np.cos((s + 0.008) / 1.008 * np.pi / 2) ** 2 / start
    np.testing.assert_allclose(cosine.alpha_bar[:99], ideal, rtol=1e-9)
    assert cosine.betas[-1] == pytest.approx(0.999)


@pytest.mark.parametrize("name", NAMES)
def test_time_inverts_log_snr(name):
    s = schedule.make(name, 1000)
    t = jnp.arange(1000)
    np.testing.assert_allclose(s.time(s.logsnr(t)), t, atol=0.02)
    between = (s.logsnr(jnp.array([400])) + s.logsnr(jnp.array([401]))) / 2
    np.testing.assert_allclose(s.time(between), 400.5, atol=0.01)
    np.testing.assert_array_equal(s.time(jnp.array([1e3, -1e3])), [0, 999])


@pytest.mark.parametrize("name", NAMES)
def test_posterior_is_that_of_a_gaussian_chain(name):
    """Bayes' rule for z_{t-1} given z_t and x_0, from precisions instead of DDPM's formulas."""
    s = schedule.make(name, 100)
    step_alpha, beta = np.sqrt(1 - s.betas[1:]), s.betas[1:]
    prior_mean, prior_var = np.sqrt(s.alpha_bar[:-1]), 1 - s.alpha_bar[:-1]  # of z_{t-1} | x_0
    precision = 1 / prior_var + step_alpha**2 / beta
    np.testing.assert_allclose(s.posterior_variance[1:], 1 / precision, rtol=1e-8)
    np.testing.assert_allclose(
        s.posterior_mean_x0[1:], prior_mean / prior_var / precision, rtol=1e-8
    )
    np.testing.assert_allclose(s.posterior_mean_z[1:], step_alpha / beta / precision, rtol=1e-8)


def test_respacing_keeps_ends_noise_levels_and_original_indices():
    full = schedule.make("linear", 1000)
    short = schedule.respace(full, 7)
    np.testing.assert_array_equal(short.timesteps, [0, 166, 333, 500, 666, 832, 999])
    np.testing.assert_array_equal(short.alpha_bar, full.alpha_bar[short.timesteps])
    np.testing.assert_allclose(np.cumprod(1 - short.betas), short.alpha_bar, rtol=1e-9)
    assert short.total_timesteps == 1000
    strided = schedule.respace(full, 50, stride="ddim")
    np.testing.assert_array_equal(strided.timesteps, np.arange(0, 1000, 20))
    np.testing.assert_allclose(schedule.respace(full, 1000).betas, full.betas, rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("total", [50, 1000, 4000])
@pytest.mark.parametrize("stride", [{"stride": "logsnr"}, {"stride": "tapered", "side": 64}])
def test_strides_keep_exactly_so_many_timesteps_and_both_ends(name, total, stride):
    full = schedule.make(name, total)
    for steps in (2, 3, 7, 20, total // 3, total - 1, total):
        short = schedule.respace(full, steps, **stride)
        assert len(short) == steps
        assert short.timesteps[0] == 0 and short.timesteps[-1] == total - 1
        assert (np.diff(short.timesteps) > 0).all()
        np.testing.assert_array_equal(short.alpha_bar, full.alpha_bar[short.timesteps])
        again = schedule.respace(full, steps, **stride)
        np.testing.assert_array_equal(again.timesteps, short.timesteps)


def test_logsnr_stride_keeps_timesteps_apart_at_ties():
    """Points of the grid fall in the middle of two wide gaps, both as near to index 2."""
    kept = schedule._even_in(np.array([5.0, 4.0, 0.0, -4.0, -5.0]), 4)
    assert len(set(kept.tolist())) == 4 and kept[0] == 0 and kept[-1] == 4


def test_logsnr_stride_is_even_in_log_snr():
    fine = schedule.respace(schedule.make("linear", 20_000), 12, stride="logsnr")
    lengths = -np.diff(fine.log_snr_table)
    np.testing.assert_allclose(lengths, lengths.mean(), rtol=0.1)
    # The cosine schedule ends in leaps of 6.9, 1.4, ..: one step each, and the rest is even.
    full = schedule.make("cosine", 1000)
    lengths = -np.diff(schedule.respace(full, 20, stride="logsnr").log_snr_table)
    leap = -np.diff(full.log_snr_table)[-1]
    assert leap > 6 and lengths[-1] == leap
    even = (full.log_snr_table[0] - full.log_snr_table[-2]) / 18
    np.testing.assert_allclose(lengths[:-1], even, rtol=0.25)


@pytest.mark.parametrize("side", [8, 64])
def test_tapered_stride_is_even_between_the_largest_structure_and_the_finest_detail(side):
    """And its steps grow with the third root of the SNR's distance beyond either."""
    r = np.linspace(-30, 30, 6001)
    density = np.gradient(schedule.tapered(r, side), r)
    middle = (r > 2 - 2 * np.log(side)) & (r < 6)
    assert density[middle].min() > 0.9 and density[middle].max() < 1
    low, high = (np.abs(r - at).argmin() for at in (-2 * np.log(side) - 9, 17))
    np.testing.assert_allclose(density[low], np.exp(-9 / 3), rtol=2e-3)
    np.testing.assert_allclose(density[high], np.exp(-9 / 3), rtol=2e-3)
    fine = schedule.respace(schedule.make("linear", 20_000), 12, stride="tapered", side=side)
    lengths = -np.diff(schedule.tapered(fine.log_snr_table, side))
    np.testing.assert_allclose(lengths, lengths.mean(), rtol=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedule.make("sigmoid"), "sigmoid"),
        (lambda: schedule.make("cosine", 1), "at least 2"),
        (lambda: schedule.make("linear", 20), "T > 20"),
        (lambda: schedule.respace(schedule.make("cosine", 10), 11), "11 of 10"),
        (lambda: schedule.respace(schedule.make("cosine", 10), 7, stride="ddim"), "stride"),
        (lambda: schedule.respace(schedule.make("cosine", 10), 5, stride="odd"), "odd"),
        (lambda: schedule.respace(schedule.make("cosine", 10), 5, stride="tapered"), "side"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
