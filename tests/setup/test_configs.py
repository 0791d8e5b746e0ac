"""Every configuration file: it builds, and its figures are those of the paper."""

import functools
import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base, ffhq64_tada
from tada_jax.model import continuous, schedule, unet
from tada_jax.setup import build
from tada_jax.study import comparison
from tada_jax.system import backend
from tada_jax.training import device_memory
from tada_jax.training.step import init_state
from tests import tiny

pytestmark = pytest.mark.usefixtures("whole_networks")

NAMES = sorted(p.stem for p in (tiny.ROOT / "configs").glob("*_*.py"))


def get_config(name, *variant):
    return importlib.import_module(f"configs.{name}").get_config(*variant)


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_builds(name):
    config = get_config(name)
    side = config.data.resolution or {"cifar10": 32, "digits": 8}.get(config.data.name, 64)
    channels = 1 if config.data.name == "digits" else 3
    parts = build.parts(config, (side, side, channels), 10)
    assert parts.policy.p == 0.8
    assert set(config.to_dict()) == set(base.get_config().to_dict())  # nothing invented


@pytest.mark.parametrize("name", NAMES)
def test_every_grid_that_is_shipped_can_be(name, tmp_path):
    """Also of the words that its own docstring names."""
    module = importlib.import_module(f"configs.{name}")
    words = re.findall(rf"configs/{name}\.py:(\S+) --mode=compare", module.__doc__)
    for word in ("", *words):
        config = module.get_config(word) if word else module.get_config()
        assert len(comparison.grid(config, tmp_path)) > 1


@functools.cache
def count(network, side):
    """Parameters of a network for images of `side` pixels, all of which are float32."""
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    params = jax.eval_shape(network.init, jax.random.key(0), image, jax.ShapeDtypeStruct((1,), int))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    return unet.count_parameters(params)


OF_256 = {"channels": 128, "channel_mult": (1, 1, 2, 2, 4, 4)}


@pytest.mark.parametrize(
    ("name", "variant", "side", "options", "wanted"),
    [
        ("ffhq64_tada", "17m", 64, {"channels": 64, "num_res_blocks": 1}, 17_060_934),
        ("ffhq64_tada", "", 64, {"channels": 128, "num_res_blocks": 1}, 68_159_622),
        ("ffhq64_tada", "1k-95m-hflip", 64, {"channels": 128, "num_res_blocks": 2}, 95_091_078),
        ("ffhq256_tada", "tada", 256, OF_256, 93_563_910),
        ("afhq256_finetune", "tada", 256, OF_256, 93_563_910),
    ],
)
def test_the_papers_networks(name, variant, side, options, wanted):
    network = build.parts(get_config(name, variant), (side, side, 3)).network
    assert network == unet.UNet(out_channels=6, **options)
    assert count(network, side) == wanted


@pytest.mark.parametrize("name", [name for name in NAMES if "tada" in name])
@pytest.mark.parametrize("formulation", base.FORMULATIONS)
def test_every_formulation_is_one_word(name, formulation):
    config = get_config(name, f"ar+tada-{formulation}")
    parts = build.parts(config, (64, 64, 3), 10)
    assert parts.method.condition_size == parts.policy.label_size
    kinds = {"iddpm": schedule.Schedule, "edm": continuous.Edm, "flow": continuous.Flow}
    assert type(parts.schedule) is kinds[formulation]


def test_variants_combine_in_any_order():
    config = ffhq64_tada.get_config("hflip-30k")
    assert (config.method, config.data.train_size, config.model.channels) == ("hflip", 30_000, 128)
    assert ffhq64_tada.get_config().data.train_size == 5000
    for wrong in ("3k", "1k-2k", "tada-none", "1k-17m-tada-x"):
        with pytest.raises(ValueError, match="unknown, choose of|one too many of"):
            ffhq64_tada.get_config(wrong)


def test_the_band_of_256_pixels():
    strength = build.parts(get_config("ffhq256_tada"), (256, 256, 3)).strength
    r = np.array([-5.7726, -4.2726, -2.7726], np.float32)  # thresholds and middle, - 2 ln 4
    np.testing.assert_allclose(strength(r), [0.1, 0.0, 0.1], atol=1e-4)


def test_the_memory_estimate_counts_what_it_says():
    config = get_config("digits_tada")
    parts = build.parts(config, (8, 8, 1), 10)
    found = device_memory.estimate(parts, config, 1, 1000)
    state = jax.eval_shape(lambda: init_state(parts, 0))
    assert found.state == backend.size_bytes(state)
    assert found.gradients == 2 * backend.size_bytes(state.params)
    assert found.images == 1000 and found.total == found.state + found.gradients + 1000 + (
        found.activations
    )
    halves = device_memory.estimate(parts, config, 2, 1000)
    assert halves.activations == pytest.approx(found.activations / 2, rel=0.1)
    config.model.remat = True
    less = device_memory.estimate(build.parts(config, (8, 8, 1), 10), config, 1, 1000)
    assert less.activations < 0.8 * found.activations
