"""Pixels of files and of networks."""

import jax.numpy as jnp
import numpy as np
import pytest

from tada_jax.system import pixels


@pytest.mark.parametrize("xp", [np, jnp])
def test_uint8_rounds_and_clips(xp):
    x = xp.array([-3.0, -1.0, 0.0, 1.0, 3.0, 17 / 127.5 - 1])
    np.testing.assert_array_equal(pixels.to_uint8(x), [0, 0, 128, 255, 255, 17])


@pytest.mark.parametrize("xp", [np, jnp])
def test_every_value_comes_back(xp):
    values = xp.arange(256).astype(xp.uint8)
    x = pixels.to_float(values)
    assert x.dtype == np.float32 and isinstance(x, type(values))
    assert float(x.min()) == -1.0 and float(x.max()) == 1.0
    np.testing.assert_array_equal(pixels.to_uint8(x), values)
