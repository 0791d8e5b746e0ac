import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tada_jax import tada
from tada_jax.model import schedule


def curve(name, **options):
    """w over t = 0 .. 999, from the float64 log SNR table."""
    return np.asarray(tada.strength(schedule.make(name, 1000).log_snr_table, **options))


@pytest.mark.parametrize(
    ("name", "ends", "first_t", "band_share", "mean_w", "saturated_share"),
    [
        ("linear", (9.210, -10.118), (259, 547), 0.288, 0.467, 0.272),
        ("cosine", (10.095, -19.836), (496, 859), 0.363, 0.350, 0.146),
    ],
)
def test_values_of_the_paper(name, ends, first_t, band_share, mean_w, saturated_share):
    r = schedule.make(name, 1000).log_snr_table
    w = curve(name)
    assert (r[0], r[-1]) == pytest.approx(ends, abs=5e-4)
    assert (np.argmax(r <= 0), np.argmax(r <= -3)) == first_t
    assert np.mean((r > -3) & (r < 0)) == pytest.approx(band_share, abs=5e-4)
    assert w.mean() == pytest.approx(mean_w, abs=5e-4)
    assert np.mean(w == 1) == pytest.approx(saturated_share, abs=5e-4)


def test_strength_over_the_linear_schedule():
    t = [0, 50, 100, 200, 300, 400, 500, 600, 700, 800, 999]
    expected = [1, 1, 0.590, 0.205, 0.051, 0.000, 0.042, 0.204, 0.536, 1, 1]
    np.testing.assert_allclose(curve("linear")[t], expected, atol=5e-4)


def test_auto_kappa_touches_zero_at_mid_band_and_delta_at_the_thresholds():
    assert tada.auto_kappa(-3.0, 0.0, 0.1) == pytest.approx(0.0444, abs=5e-5)
    w = tada.strength(jnp.array([-3.0, -1.5, 0.0, 3.2424, 3.2435, -6.2424, -6.2435]))
    np.testing.assert_allclose(w[:3], [0.1, 0.0, 0.1], atol=1e-6)
    np.testing.assert_array_equal(np.asarray(w[3:]) == 1, [False, True, False, True])


def test_kappa_and_delta_as_numbers():
    np.testing.assert_allclose(
        tada.strength(jnp.array([1.0]), kappa=0.02, delta=0.05), 0.02 * 4 * 1 + 0.05, rtol=1e-6
    )


def test_calibration_moves_the_band_to_lower_log_snr_at_higher_resolution():
    shift = 2 * np.log(256 / 64)
    r = jnp.linspace(-12, 8, 101)
    np.testing.assert_allclose(
        tada.strength(r, resolution=256), tada.strength(r + shift), atol=1e-5
    )
    np.testing.assert_allclose(
        tada.strength(r, resolution=256, calibration="inverse"), tada.strength(r - shift), atol=1e-5
    )
    np.testing.assert_array_equal(
        tada.strength(r, resolution=256, calibration="none"), tada.strength(r)
    )
    # At 256 px the band is [-5.77, -2.77] in native log SNR: w = delta at both.
    np.testing.assert_allclose(
        tada.strength(jnp.array([-5.7726, -2.7726]), resolution=256), 0.1, atol=1e-4
    )


def test_constant_strength_ignores_the_noise_level():
    r = jnp.linspace(-20, 10, 7)
    np.testing.assert_array_equal(tada.strength(r, constant=0.3), np.full(7, np.float32(0.3)))


def test_any_shape_and_under_jit():
    r = jnp.linspace(-9, 9, 12).reshape(3, 4)
    w = jax.jit(tada.strength)(r)
    assert w.shape == (3, 4)
    np.testing.assert_allclose(w, tada.strength(r), atol=1e-6)
    assert float(w.min()) >= 0 and float(w.max()) <= 1


@pytest.mark.parametrize(
    "options",
    [
        {"r_rough": 1.0},
        {"delta": 1.5},
        {"kappa": "automatic"},
        {"resolution": 0},
        {"calibration": "up"},
        {"constant": 2.0},
    ],
)
def test_refuses_impossible_options(options):
    with pytest.raises(ValueError, match=str(next(iter(options))).split("_")[0]):
        tada.strength(jnp.zeros(1), **options)
