import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tada_jax.model import unet


def tiny(**options):
    options = {
        "out_channels": 3,
        "channels": 8,
        "channel_mult": (1, 2),
        "attention_resolutions": (),
        "head_channels": 8,
        "norm_groups": 4,
    } | options
    return unet.UNet(**options)


def random_params(network, *args):
    """Parameters without the zeros of the initialisation, which hide most of the network."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), *args)
    leaves, treedef = jax.tree.flatten(shapes)
    rng = np.random.default_rng(1)
    normal = [0.2 * rng.standard_normal(leaf.shape, np.float32) for leaf in leaves]
    return jax.tree.unflatten(treedef, normal)


def test_the_parameters_of_guided_diffusion_whose_first_level_is_wide():
    """The paper's networks: tests/setup/test_configs.py."""
    network = unet.UNet(
        out_channels=6,
        channels=32,
        channel_mult=(2, 2, 4),
        attention_resolutions=(16, 8),
        head_channels=32,
    )
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(network.init, jax.random.key(0), image, jax.ShapeDtypeStruct((1,), int))
    assert unet.count_parameters(params) == 3_565_190


@pytest.mark.parametrize("shape", [(2, 6, 10, 1), (1, 4, 4, 3)])
@pytest.mark.parametrize("resblock_updown", [True, False])
def test_shapes_that_the_levels_divide(shape, resblock_updown):
    network = tiny(out_channels=2 * shape[-1], resblock_updown=resblock_updown)
    z, t = jnp.ones(shape), jnp.arange(shape[0])
    out = jax.eval_shape(network.init_with_output, jax.random.key(0), z, t)[0]
    assert out.shape == (*shape[:3], 2 * shape[-1])
    assert out.dtype == jnp.float32


def test_the_stem_is_as_wide_as_the_first_level():
    for mult, stem in (((0.5, 1), 16), ((1, 2), 32), ((2, 2), 64)):
        network = tiny(channels=32, channel_mult=mult)
        params = jax.eval_shape(
            network.init, jax.random.key(0), jnp.zeros((1, 4, 4, 3)), jnp.zeros(1, int)
        )["params"]
        assert params["conv_in"]["kernel"].shape == (3, 3, 3, stem)
        assert params["down0_res0"]["conv_in"]["kernel"].shape[2:] == (stem, stem)
        assert "skip" not in params["down0_res0"]
        assert params["time_in"]["kernel"].shape == (32, 128)  # of the embedding: as ever


def test_starts_at_zero_and_every_image_is_processed_alone():
    network = tiny(attention_resolutions=(4, 2))
    apply = jax.jit(network.apply)
    z, t = jax.random.normal(jax.random.key(0), (3, 4, 2, 3)), jnp.array([0, 7, 900])
    params = jax.jit(network.init)(jax.random.key(0), z, t)
    assert not apply(params, z, t).any()
    params = random_params(network, z, t)
    out = apply(params, z, t)
    np.testing.assert_allclose(apply(params, z[1:2], t[1:2]), out[1:2], rtol=1e-4, atol=1e-4)
    assert np.abs(apply(params, z, t + 1) - out).max() > 1e-3  # t matters


def test_attention_against_a_plain_computation():
    """Two heads in the legacy order, against loops in float64."""
    c, head = 8, 4
    layer = unet.Attention(head_channels=head, groups=2, order="legacy", dtype=jnp.float32)
    x = jax.random.normal(jax.random.key(0), (1, 3, 2, c))
    params = random_params(layer, x)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["params"])
    pixels = np.asarray(x, np.float64).reshape(6, c)
    grouped = pixels.reshape(6, 2, c // 2)
    mean, var = grouped.mean((0, 2), keepdims=True), grouped.var((0, 2), keepdims=True)
    norm = ((grouped - mean) / np.sqrt(var + 1e-5)).reshape(6, c)
    norm = norm * p["norm"]["scale"] + p["norm"]["bias"]
    qkv = norm @ p["qkv"]["kernel"] + p["qkv"]["bias"]
    heads = []
    for i in range(c // head):
        q, k, v = (
            qkv[:, 3 * head * i + head * j : 3 * head * i + head * (j + 1)] for j in range(3)
        )
        weights = np.exp(q @ k.T / np.sqrt(head))
        heads.append(weights / weights.sum(1, keepdims=True) @ v)
    expected = pixels + np.concatenate(heads, 1) @ p["proj"]["kernel"] + p["proj"]["bias"]
    np.testing.assert_allclose(layer.apply(params, x).reshape(6, c), expected, atol=2e-5)


def test_attention_orders_differ_by_a_permutation_of_the_qkv_channels():
    x = jax.random.normal(jax.random.key(0), (1, 3, 2, 8))
    legacy = unet.Attention(head_channels=4, groups=2, order="legacy", dtype=jnp.float32)
    new = unet.Attention(head_channels=4, groups=2, order="new", dtype=jnp.float32)
    params = random_params(legacy, x)
    permuted = jax.tree.map(lambda a: a, params)
    permuted["params"]["qkv"] = jax.tree.map(
        lambda a: a.reshape(*a.shape[:-1], 2, 3, 4).swapaxes(-3, -2).reshape(a.shape),
        params["params"]["qkv"],
    )
    np.testing.assert_allclose(new.apply(permuted, x), legacy.apply(params, x), atol=1e-5)


def test_classes_and_remat_and_dropout():
    z, t, y = jnp.ones((2, 4, 4, 3)), jnp.array([3, 3]), jnp.array([0, 4])
    network = tiny(num_classes=5, dropout=0.5)
    params = random_params(network, z, t, y)
    out = jax.jit(network.apply)(params, z, t, y)
    assert np.abs(out[0] - out[1]).max() > 1e-3  # the class matters

    def loss(net):
        return jax.jit(jax.grad(lambda p: (net.apply(p, z, t, y) ** 2).sum()))(params)

    plain, remat = loss(network), loss(tiny(num_classes=5, dropout=0.5, remat=True))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(remat)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)
    dropping = functools.partial(network.apply, deterministic=False)
    dropped = jax.jit(dropping)(params, z, t, y, rngs={"dropout": jax.random.key(0)})
    assert np.abs(dropped - out).max() > 1e-3
    with pytest.raises(ValueError, match="labels"):
        jax.eval_shape(network.apply, params, z, t)


def test_bfloat16_computes_near_float32_with_float32_parameters():
    z, t = jax.random.normal(jax.random.key(0), (2, 4, 4, 3)), jnp.array([3, 500])
    params = random_params(tiny(attention_resolutions=(4,)), z, t)
    exact = jax.jit(tiny(attention_resolutions=(4,)).apply)(params, z, t)
    short = jax.jit(tiny(attention_resolutions=(4,), dtype="bfloat16").apply)(params, z, t)
    assert short.dtype == jnp.float32
    assert (short != short.astype(jnp.bfloat16)).any()  # not rounded to 8 bits at the end
    error = np.abs(short - exact).max() / np.abs(exact).max()
    assert 1e-5 < error < 0.05


def test_embedding_is_cosine_first():
    e = unet.timestep_embedding(jnp.array([0, 1]), 8)
    np.testing.assert_allclose(e[0], [1, 1, 1, 1, 0, 0, 0, 0])
    frequencies = 1e4 ** (-np.arange(4) / 4)
    np.testing.assert_allclose(e[1], np.r_[np.cos(frequencies), np.sin(frequencies)], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "size", "message"),
    [
        ({}, (5, 4), "multiples of 2"),
        ({"channel_mult": (1, 1, 1)}, (8, 6), "multiples of 4"),
        ({"norm_groups": 3}, (4, 4), "norm_groups=3"),
        ({"head_channels": 5}, (4, 4), "head_channels=5"),
        ({"channel_mult": (0.3, 1)}, (4, 4), "whole widths"),
        (  # all at once, and what would do
            {"channels": 12, "norm_groups": 8, "head_channels": 5},
            (4, 4),
            "^levels of 12 .*norm_groups=8 and .*head_channels=5; change channels=12, or set "
            "norm_groups=6 and head_channels=4$",
        ),
        (  # quickly, and without what no one wants
            {"channels": 60, "head_channels": 7, "norm_groups": 10**12},
            (4, 4),
            "head_channels=7; change channels=60, or set norm_groups=60 and head_channels=6$",
        ),
        (
            {"channels": 67, "norm_groups": 32},
            (4, 4),
            "head_channels=8; change channels=67$",
        ),
    ],
)
def test_refuses_what_it_cannot_process(options, size, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options).check(size)
