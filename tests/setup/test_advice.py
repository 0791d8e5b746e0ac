"""Advice is such that following it works."""

import re

import numpy as np
import pytest

from tada_jax import data
from tada_jax.data import inspection
from tada_jax.setup import build
from tada_jax.setup.plan import load_data
from tada_jax.system.errors import UserError
from tada_jax.training.describe import describe
from tests import tiny


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """pictures(count, height, width) writes noise as an npz file and returns its path."""
    monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path / "cache"))

    def write(count, height=8, width=8):
        path = tmp_path / f"{count}-{height}x{width}.npz"
        noise = np.random.default_rng(0).integers(0, 256, (count, height, width, 1), np.uint8)
        np.savez(path, x=noise)
        return str(path)

    return write


def advice(path, fraction):
    images = data.load("images", path=path, test_fraction=fraction)
    seen = inspection.inspect(images, batch_size=4)
    return [line for line in seen.advice if "test_fraction" in line]


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.04])
@pytest.mark.parametrize("count", [41, 60, 199, 300])
def test_a_fraction_that_is_advised_is_enough(count, fraction, pictures):
    path = pictures(count)
    (line,) = advice(path, fraction)
    advised = float(re.search(r"test_fraction=([\d.]+)", line)[1])
    assert advised > fraction and not advice(path, advised)


def test_images_that_are_too_few_are_called_so(pictures):
    path = pictures(24)
    (line,) = advice(path, 0.1)
    assert "24 images are too few to hold out 20: collect more" in line


def test_nothing_is_advised_that_measuring_refuses(pictures):
    for count in (12, 19):
        lines = inspection.inspect(data.load("images", path=pictures(count)), batch_size=4).advice
        (line,) = (line for line in lines if "collect more" in line)
        assert f"of {count} images too few can be held out" in line
        assert not any("test_fraction=" in line for line in lines)


@pytest.mark.parametrize(("height", "width"), [(180, 320), (64, 114), (30, 30), (6, 100)])
def test_a_size_that_is_advised_fits_the_network(height, width, pictures):
    settings = tiny.config(
        data__name="images",
        data__path=pictures(12, height, width),
        data__fit="keep",
        data__train_size=None,
        model__channel_mult=(1, 1, 1, 1),
    )
    images = load_data(settings)
    with pytest.raises(UserError, match="multiples of 8") as refused:
        build.parts(settings, images.train.images.shape[1:])
    smaller, larger = str(refused.value).split("; or ")
    settings.data.resolution = int(re.search(r"data\.resolution=(\d+)", smaller)[1])
    fit = re.search(r"data\.fit=(\w+)", smaller)
    settings.data.fit = fit[1] if fit else settings.data.fit
    build.parts(settings, load_data(settings).train.images.shape[1:])
    settings.data.resolution = int(re.search(r"=(\d+)", larger)[1])
    settings.data.fit = re.search(r"data\.fit=(\w+)", larger)[1]
    padded = load_data(settings).train.images[:]
    build.parts(settings, padded.shape[1:])
    top, left = (settings.data.resolution - height) // 2, (settings.data.resolution - width) // 2
    inside = padded[:, top : top + height, left : left + width]
    np.testing.assert_array_equal(inside, images.train.images[:])


@pytest.mark.usefixtures("whole_network")
def test_a_resolution_that_is_advised_for_memory_is_enough(pictures):
    settings = tiny.config(
        data__name="images",
        data__path=pictures(12, 300, 520),
        data__train_size=None,
        model__channels=64,
        model__channel_mult=(1, 1, 1),
        train__batch_size=96,
    )
    (line,) = (line for line in describe(settings) if "GiB a device, more than" in line)
    settings.data.resolution = int(re.search(r"data\.resolution=(\d+)", line)[1])
    settings.data.fit = re.search(r"data\.fit=(\w+)", line)[1]
    assert not [line for line in describe(settings) if "more than the" in line]


def test_a_run_that_ends_as_it_begins_gets_advice():
    def advised(**fields):
        return [line for line in describe(tiny.config(**fields)) if "set it to a tenth" in line]

    assert not advised()
    (line,) = advised(train__total_steps=300, optimizer__warmup_steps=200)
    assert line.startswith("advice: ") and "optimizer.warmup_steps=200 of 300 steps" in line


def test_the_mean_strength_is_said():
    def said(**fields):
        return [line for line in describe(tiny.config(**fields)) if line.startswith("strength: ")]

    table = {"tada__schedule": "table", "tada__table": ((0.0, 0.25), (1.0, 0.25))}
    assert said(**table) == ["strength: w is 0.25 on average over the noise levels (strength.png)"]
    assert said(method="constant") == []
    assert not [line for line in describe(tiny.config(**table)) if "hardly augments" in line]
    table["tada__table"] = ((0.0, 0.0), (1.0, 0.0))
    (line,) = (line for line in describe(tiny.config(**table)) if "hardly augments" in line)
    assert line.startswith("advice: TADA hardly augments at any noise level")
    auto = {"tada__band": "auto", "sensitivity__proxy": "exact", "sensitivity__queries": 16}
    (line,) = said(**auto, augment__ops=tiny.MOVES)
    assert re.match(
        r"strength: paper, sensitive band \[-?[\d.]+, -?[\d.]+\] in log SNR; w is", line
    )
