"""The layers that are written for speed, against plain ones."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tada_jax.model import layers, winograd
from tada_jax.system import backend
from tests import tiny

PLATFORMS = ("cpu", "gpu", "tpu")  # whose forms are all computed on this one


def normal(seed, *shape):
    numbers = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return jnp.asarray(numbers)


def plain_norm(x, scale, shift, groups, silu):
    """flax's GroupNorm, then the affine map, then SiLU."""
    y = nn.GroupNorm(groups, epsilon=1e-5, use_bias=False, use_scale=False, use_fast_variance=False)
    y = y.apply({}, x) * scale.reshape(-1, 1, 1, x.shape[-1]) + shift.reshape(-1, 1, 1, x.shape[-1])
    return jax.nn.silu(y) if silu else y


def assert_close(found, wanted, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        scale = max(1e-6, float(np.abs(b).max()))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


def with_gradients(function, arguments, cotangent):
    """(output, gradients), by one program."""

    def both(arguments, cotangent):
        output, back = jax.vjp(function, *arguments)
        return output, back(cotangent)

    return tiny.at_once(both, arguments, cotangent)


def assert_same_with_gradients(fast, plain, arguments, tolerance=1e-5, platform="cpu"):
    """Of the form for a platform, and of the plain one."""
    cotangent = normal(9, *jax.eval_shape(plain, *arguments).shape)
    with backend.traced_for(platform):
        found = with_gradients(fast, arguments, cotangent)
    assert_close(found, with_gradients(plain, arguments, cotangent), tolerance)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_group_norm_and_its_gradients(silu, per_image, platform):
    x = 3.0 * normal(0, 4, 6, 5, 8) + 1.5
    shape = (4, 8) if per_image else (8,)
    scale, shift = 1 + normal(1, *shape), normal(2, *shape)

    def fast(*a):
        return layers.group_norm(*a, groups=4, silu=silu)

    def plain(*a):
        return plain_norm(*a, groups=4, silu=silu)

    assert_same_with_gradients(fast, plain, (x, scale, shift), platform=platform)


def test_group_norm_in_short_types_is_float32_inside():
    x = (normal(0, 2, 8, 8, 8) + 20.0).astype(jnp.bfloat16)
    scale, shift = 1 + normal(1, 8), normal(2, 8)
    found = tiny.at_once(lambda: layers.group_norm(x, scale, shift, groups=2, silu=True))
    assert found.dtype == jnp.bfloat16
    wide = np.asarray(x, np.float32)
    wanted = tiny.at_once(lambda: plain_norm(wide, scale, shift, 2, True))
    np.testing.assert_allclose(np.asarray(found, np.float32), wanted, atol=0.02, rtol=0.01)


def test_dropout_drops_as_often_as_it_should_and_keeps_the_mean():
    x = jnp.ones((64, 9, 7, 5))
    y = np.asarray(layers.dropout(jax.random.key(0), x, 0.1))
    kept = y > 0
    rate = layers.drop_level(0.1) / 256
    assert abs(rate - 0.1) <= 1 / 512
    np.testing.assert_allclose(y[kept], 1 / (1 - rate), rtol=1e-6)
    deviation = np.sqrt(rate * (1 - rate) / x.size)
    assert abs(1 - kept.mean() - rate) < 4 * deviation
    # Neither pixels nor images share their bits.
    pixels = kept.reshape(64, -1).astype(np.float64)
    noise = np.corrcoef(pixels) - np.eye(64)
    assert np.abs(noise).max() < 5 / np.sqrt(pixels.shape[1])
    quarter = pixels.shape[1] // 4
    for first, second in ((0, 1), (1, 2), (0, 3)):  # bytes of the same words
        a, b = (pixels[:, i * quarter : (i + 1) * quarter].ravel() for i in (first, second))
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(a.size)


def test_dropout_rates_at_the_ends():
    x = normal(0, 2, 3)
    assert layers.dropout(jax.random.key(0), x, 0.0) is x
    assert layers.drop_level(1e-6) == 1  # asked for is not ignored
    assert layers.drop_level(0.9999) == 255


@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (2, 7, 4), (6, 4)])
def test_linear_and_its_gradients(shape):
    x, kernel = normal(0, *shape), normal(1, shape[-1], 3)
    assert_same_with_gradients(layers.linear, jnp.matmul, (x, kernel))


def test_linear_in_bfloat16_rounds_its_results_once():
    """Also its gradients, which are sums over many pixels and images."""
    x, kernel, cotangent = (
        normal(i, *shape).astype(jnp.bfloat16)
        for i, shape in enumerate([(40, 9, 8), (8, 3), (40, 9, 3)])
    )

    @jax.jit
    def both(x, kernel, cotangent):
        result, pull = jax.vjp(layers.linear, x, kernel)
        return result, *pull(cotangent)

    exact = both(*(a.astype(jnp.float32) for a in (x, kernel, cotangent)))
    for found, wanted in zip(both(x, kernel, cotangent), exact):
        assert found.dtype == jnp.bfloat16
        np.testing.assert_allclose(found.astype(jnp.float32), wanted, rtol=2**-8, atol=1e-5)
    # As bfloat16 is multiplied: XLA for CPUs would make it float32 first, and take longer.
    made_float32 = r"f32\[(40,9,[83]|8,3|3,8)\]\S* convert\("
    text = jax.jit(layers.linear).lower(x, kernel).compile().as_text()
    assert not re.search(made_float32, text)


def direct(x, kernel, strides=1):
    """A stock convolution."""
    pad = [((len(kernel) - 1) // 2,) * 2] * 2
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (strides, strides), pad, dimension_numbers=layout
    )


@pytest.mark.parametrize("shape", [(16, 16, 32, 32), (24, 16, 33, 40)])
def test_large_convolutions_and_their_gradients(shape):
    h, w, c, d = shape
    x, kernel = normal(0, 2, h, w, c), normal(1, 3, 3, c, d)
    assert winograd.pays(x, kernel)
    assert_same_with_gradients(layers.convolution, direct, (x, kernel), 3e-5)


@pytest.mark.parametrize(
    ("shape", "kernel", "strides"),
    [
        ((8, 8, 32), (3, 3, 32, 32), 1),  # too small
        ((18, 16, 32), (3, 3, 32, 32), 1),  # no whole tiles
        ((16, 16, 3), (3, 3, 3, 32), 1),  # too few channels
        ((16, 16, 32), (3, 3, 32, 32), 2),
        ((16, 16, 32), (1, 1, 32, 8), 1),
    ],
)
def test_other_convolutions(shape, kernel, strides):
    x, kernel = normal(0, 2, *shape), normal(1, *kernel)
    stock = functools.partial(direct, strides=strides)
    ours = functools.partial(layers.convolution, strides=strides)
    assert_close(tiny.at_once(ours, x, kernel), tiny.at_once(stock, x, kernel))
    short = tiny.at_once(ours, x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    assert short.dtype == jnp.bfloat16


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("shape", [(4, 4), (1, 3)])
def test_upsampled_convolution_and_its_gradients(shape, platform):
    x, kernel = normal(0, 2, *shape, 3), normal(1, 3, 3, 3, 5)

    def plain(x, kernel):
        return direct(x.repeat(2, 1).repeat(2, 2), kernel)

    fast = layers.upsampled_convolution
    assert_same_with_gradients(fast, plain, (x, kernel), platform=platform)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_changes_of_size_and_their_gradients(platform):
    x = normal(0, 2, 6, 4, 3)

    def enlarged(x):
        return x.repeat(2, 1).repeat(2, 2)

    def averaged(x):
        return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4

    for fast, plain in ((layers.upsample, enlarged), (layers.downsample, averaged)):
        assert_same_with_gradients(fast, plain, (x,), platform=platform)

    def both(short):
        wide = averaged(short.astype(jnp.float32))
        return (layers.upsample(short), enlarged(short)), (layers.downsample(short), wide)

    with backend.traced_for(platform):
        larger, smaller = tiny.at_once(both, x.astype(jnp.bfloat16))
    np.testing.assert_array_equal(*larger)
    assert smaller[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(smaller[0], np.float32), smaller[1], rtol=2**-7)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (6, 4)])
def test_a_bias_and_its_gradients(shape, platform):
    x, bias = normal(0, *shape), normal(1, 4)
    assert_same_with_gradients(layers.add_bias, jnp.add, (x, bias), platform=platform)


def test_the_gradient_of_a_bias_is_summed_in_float32_on_tpus():
    many = jnp.ones((1, 32, 32, 4), jnp.bfloat16)
    with backend.traced_for("tpu"):
        _, back = jax.vjp(layers.add_bias, many, many[0, 0, 0])
        np.testing.assert_array_equal(back(many)[1], 1024.0)


@pytest.mark.parametrize("order", ["legacy", "new"])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_self_attention_and_its_gradients(order, platform):
    b, t, heads, d = 2, 9, 3, 4
    c = heads * d
    x, kernel, bias = normal(0, b, t, c), normal(1, c, 3 * c), normal(2, 3 * c)

    def plain(x, kernel, bias):
        qkv = x @ kernel + bias
        outputs = []
        for head in range(heads):
            if order == "legacy":
                q, k, v = (qkv[..., (3 * head + i) * d :][..., :d] for i in range(3))
            else:
                q, k, v = (qkv[..., (heads * i + head) * d :][..., :d] for i in range(3))
            weights = jax.nn.softmax(q @ k.swapaxes(1, 2) / np.sqrt(d), axis=-1)
            outputs.append(weights @ v)
        return jnp.concatenate(outputs, -1)

    def fast(*a):
        return layers.self_attention(*a, head_channels=d, order=order)

    assert_same_with_gradients(fast, plain, (x, kernel, bias), 3e-5, platform)
