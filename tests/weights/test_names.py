"""Tables of names: every parameter once, out and in again the same bits, ADM's numbering."""

import functools

import jax
import numpy as np
import pytest

from tada_jax.model import unet
from tada_jax.weights import inference, names, write

PLAIN = {"resblock_updown": False}
DDPM = {
    **PLAIN,
    "scale_shift": False,
    "num_heads": 1,
    "time_embedding": "sin_cos",
    "time_shift": 1,
    "norm_epsilon": 1e-6,
    "downsample_padding": "end",
}
NETWORKS = {
    "ADM": {},
    "two blocks": {"num_res_blocks": 2},
    "plain": PLAIN,
    "averages": {**PLAIN, "conv_resample": False},
    "new order": {"attention_order": "new"},
    "classes and variance": {"num_classes": 5, "out_channels": 6},
    "grey": {"out_channels": 1},
    "attention everywhere": {"attention_resolutions": (16, 8, 4)},
    "no attention": {"attention_resolutions": ()},
    "one level": {"channel_mult": (1,), "attention_resolutions": ()},
    "one level, classes": {
        "channel_mult": (1,),
        "attention_resolutions": (),
        "num_classes": 5,
        "out_channels": 6,
    },
    "halves": {"channel_mult": (1, 1.5), "norm_groups": 4},
    "added": {**PLAIN, "scale_shift": False},
    "heads": {"num_heads": 2},
    "DDPM": DDPM,
}


@functools.cache
def network(title):
    """(UNet, (H, W, C), parameters) of an entry of `NETWORKS`; the numbers are all different."""
    base = {"out_channels": 3, "channels": 8, "channel_mult": (1, 2, 2), "head_channels": 4}
    base |= {"attention_resolutions": (8,), "norm_groups": 4}
    made = unet.UNet(**base | NETWORKS[title])
    shape = (16, 16, 1 if title == "grey" else 3)
    labels = np.zeros(1, np.int32) if made.num_classes else None
    like = jax.eval_shape(
        lambda: made.init(jax.random.key(0), np.zeros((1, *shape)), np.zeros(1), labels)
    )
    leaves, tree = jax.tree.flatten(like)
    rng = np.random.default_rng(0)
    params = [rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    return made, shape, jax.tree.unflatten(tree, params)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("table", ["of_adm", "of_diffusers"])
@pytest.mark.parametrize("title", NETWORKS)
def test_out_and_in_again_every_bit_is_the_same(title, table):
    made, shape, params = network(title)
    has = write.attends(made, shape[0])
    entries = getattr(names, table)(made, has)
    shapes = names.shapes(made, has, shape[-1])
    leaves = jax.tree_util.tree_leaves_with_path(params["params"])
    assert shapes == {tuple(key.key for key in path): leaf.shape for path, leaf in leaves}
    paths = [entry.path for entry in entries]
    assert len(set(paths)) == len(paths) == len(jax.tree.leaves(params))
    theirs = names.to_theirs(entries, params)
    assert len(theirs) == sum(len(entry.names) for entry in entries)
    assert all(array.flags.c_contiguous for array in theirs.values())
    assert_same(names.to_ours(entries, theirs), params)


@pytest.mark.parametrize("title", [title for title in NETWORKS if title != "DDPM"])
def test_the_network_follows_from_its_tensors(title):
    """Whatever they tell is found again; what they do not tell is left to the family."""
    made, shape, params = network(title)
    has = write.attends(made, shape[0])
    tensors = names.to_theirs(names.of_adm(made, has), params)
    found = inference.infer({name: array.shape for name, array in tensors.items()})
    told = {"norm_groups": 4, "head_channels": made.head_channels, "num_heads": made.num_heads}
    again = found.unet(shape[0], attention_order=made.attention_order, **told)
    assert again == made.clone(channel_mult=tuple(made.channel_mult))
    assert found.in_channels == shape[-1] and found.attends == has
    assert_same(names.to_ours(found.table(again), tensors), params)


@pytest.mark.parametrize("title", [t for t in NETWORKS if t not in ("averages", "heads")])
def test_the_network_follows_from_the_config_of_diffusers(title):
    made, shape, params = network(title)
    tensors = names.to_theirs(names.of_diffusers(made, write.attends(made, shape[0])), params)
    config = write.unet_config(made, shape)
    shapes = {name: array.shape for name, array in tensors.items()}
    found = inference.infer(shapes, config)
    width = {} if made.num_heads else {"head_channels": made.head_channels}
    again = found.unet(shape[0], attention_order=made.attention_order, **width)
    wanted = made if again.num_heads else made.clone(head_channels=again.head_channels)
    wanted = wanted.clone(head_channels=again.head_channels)
    assert again == wanted.clone(channel_mult=tuple(made.channel_mult))
    assert_same(names.to_ours(found.table(again), tensors), params)


def test_names_are_those_of_guided_diffusion():
    """Of a network small enough to count by hand: two levels, attention at the second."""
    made = unet.UNet(3, channels=8, channel_mult=(1, 2), head_channels=8, norm_groups=4)
    entries = names.of_adm(made.clone(attention_resolutions=(8,)), (False, True))
    ours = {name: "/".join(entry.path) for entry in entries for name in entry.names}
    assert ours["input_blocks.0.0.weight"] == "conv_in/kernel"
    assert ours["input_blocks.1.0.in_layers.2.weight"] == "down0_res0/conv_in/kernel"
    assert ours["input_blocks.2.0.out_layers.3.bias"] == "down0_down/conv_out/bias"
    assert ours["input_blocks.3.0.skip_connection.weight"] == "down1_res0/skip/kernel"
    assert ours["input_blocks.3.1.qkv.weight"] == "down1_attn0/qkv/kernel"
    assert ours["middle_block.1.proj_out.bias"] == "mid_attn/proj/bias"
    assert ours["output_blocks.0.1.norm.weight"] == "up1_attn0/norm/scale"
    assert ours["output_blocks.1.2.in_layers.0.weight"] == "up1_up/norm_in/scale"
    assert ours["output_blocks.2.0.emb_layers.1.weight"] == "up0_res0/emb/kernel"
    assert ours["out.2.weight"] == "conv_out/kernel"
    plain = names.of_adm(made.clone(resblock_updown=False), (False, False))
    there = {name for entry in plain for name in entry.names}
    assert {"input_blocks.2.0.op.weight", "output_blocks.1.1.conv.weight"} <= there


def test_the_three_parts_of_a_projection_are_heads_by_turns_in_legacy_order():
    made = unet.UNet(3, channels=8, channel_mult=(1,), head_channels=4, norm_groups=4)
    for order, shape in (("legacy", (2, 3, 4)), ("new", (3, 2, 4))):
        entries = names.of_diffusers(made.clone(attention_order=order), (False,))
        bias = next(e for e in entries if e.path == ("mid_attn", "qkv", "bias"))
        parts = [np.arange(8) + 100 * i for i in range(3)]  # q, k, v of two heads of four channels
        whole = bias.to_ours(parts).reshape(shape)
        axis = 1 if order == "legacy" else 0
        np.testing.assert_array_equal(
            np.take(whole, 2, axis), [[200, 201, 202, 203], [204, 205, 206, 207]]
        )


def test_older_names_of_attention_are_known():
    made, shape, params = network("DDPM")
    has = write.attends(made, shape[0])
    tensors = names.to_theirs(names.of_diffusers(made, has, old_attention=True), params)
    assert "mid_block.attentions.0.query.weight" in tensors
    found = inference.infer(
        {n: a.shape for n, a in tensors.items()}, write.unet_config(made, shape)
    )
    assert_same(names.to_ours(found.table(made), tensors), params)
