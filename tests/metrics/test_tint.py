"""Samples that are tinted are told from those that are not."""

import numpy as np
import pytest

from tada_jax.metrics import tint
from tada_jax.training.alarm import tinted

RNG = np.random.default_rng(0)


def pictures(count, shift=(0, 0, 0), between=20.0, channels=3, seed=0):
    """Noise around a tone; tones of images differ by `between`."""
    rng = np.random.default_rng(seed)
    tone = 120 + between * rng.normal(size=(count, 1, 1, 1)) + np.array(shift[:channels])
    return (tone + rng.normal(0, 5, (count, 8, 8, channels))).clip(0, 255).round().astype(np.uint8)


def test_tones_are_means_and_luma():
    image = np.zeros((1, 2, 2, 3), np.uint8)
    image[..., 0], image[..., 1], image[:, 0, 0, 2] = 100, 50, 200
    found = {name: float(values[0]) for name, values in tint.tones(image, chunk=1).items()}
    assert found == pytest.approx({"red": 100, "green": 50, "blue": 50, "luma": 29.9 + 29.35 + 5.7})
    assert list(tint.tones(image[..., :1])) == ["luma"]


def test_a_shift_of_all_samples_is_found_in_its_channel():
    real, samples = pictures(300), pictures(300, (0, 15, 0), seed=1)
    found = tint.tint(samples, real)
    assert found["green"].shift == pytest.approx(15, abs=4)
    low, high = found["green"].shift_interval
    assert 8 < low < 15 < high < 22
    assert found["red"].shift_interval[0] < 0 < found["red"].shift_interval[1]
    assert found["luma"].shift == pytest.approx(0.587 * 15, abs=4)
    assert found["green"].spread == pytest.approx(1, abs=0.15)
    assert tint.sure(samples, real) == pytest.approx(low)


def test_samples_that_are_tinted_each_on_its_own_differ_more():
    real, samples = pictures(300), pictures(300, between=40.0, seed=1)
    found = tint.tint(samples, real)["luma"]
    assert found.spread == pytest.approx(2, abs=0.3)
    assert found.spread_interval[0] > 1.5
    assert tint.sure(samples, real) < 3


def test_what_cannot_be_told_is_not():
    alike = np.full((5, 8, 8, 1), 7, np.uint8)
    found = tint.tint(pictures(5, channels=1), alike)["luma"]
    assert np.isnan(found.spread) and found.spread_interval is None
    alone = tint.tint(alike[:1], alike)["luma"]
    assert alone.shift == 0 and alone.shift_interval is None
    assert tint.sure(alike[:1], alike) == 0
    assert tint.sure(alike, alike) == 0


def test_a_spread_over_images_of_which_one_alone_differs_has_no_interval():
    real = np.full((10, 8, 8, 1), 255, np.uint8)
    real[0] = 0
    found = tint.tint(pictures(64, channels=1), real)["luma"]
    assert found.spread > 0 and found.spread_interval is None


def test_intervals_hold_what_they_promise():
    """Of samples of the same distribution, some 95% of the intervals hold 0."""
    surely = [
        tint.sure(pictures(30, channels=1, seed=seed), pictures(30, channels=1, seed=999 + seed))
        for seed in range(400)
    ]
    assert 0.91 < np.mean(np.equal(surely, 0)) < 0.99


def test_a_run_says_it_once():
    lines = [{"step": 100, "tint": 2.0}, {"step": 150, "loss": 1.0}]
    assert tinted(lines) is None and tinted([]) is None
    lines.append({"step": 200, "tint": 12.4})
    said = tinted(lines)
    assert "step 200" in said and "12 of 255" in said and "\n" not in said
    assert tinted([*lines, {"step": 250, "loss": 1.0}]) is None
    assert tinted([*lines, {"step": 300, "tint": 14.0}]) is None
    assert tinted([*lines, {"step": 300, "tint": 1.0}, {"step": 400, "tint": 9.0}])
