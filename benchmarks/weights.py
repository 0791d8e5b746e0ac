"""Compares our network with those of others, by the same weights in both directions.

    PEERS/bin/python -m benchmarks.weights [--rounds=1]

It needs PyTorch, diffusers and safetensors beside what this project needs. Each line is a network:
diffusers writes it with random numbers and it is read here; it is written here and diffusers reads
it; printed are the largest differences as shares of the largest output, and whether what was read
and written again has the same bits.
"""

import argparse
import pathlib
import tempfile

import jax
import numpy as np
import torch
from diffusers import UNet2DModel

from tada_jax.model import schedule, unet
from tada_jax.weights import load, names, read, write

SIDE = 32
ADM = {"channels": 32, "head_channels": 32, "norm_groups": 32}
NETWORKS = {
    "ADM": {},
    "ADM, two blocks": {"num_res_blocks": 2, "channel_mult": (1, 2)},
    "ADM, plain resampling": {"resblock_updown": False},
    "ADM, new order of qkv": {"attention_order": "new"},
    "ADM, classes": {"num_classes": 7},
    "ADM, learned variance": {"out_channels": 6},
    "ADM, grey": {"in_channels": 1, "out_channels": 1},
    "ADM, attention at every level": {"attention_resolutions": (32, 16, 8)},
    "ADM, one level": {"channel_mult": (1,), "attention_resolutions": ()},
    "ADM, half a width": {"channel_mult": (1, 1.5), "norm_groups": 16, "head_channels": 16},
    "improved-diffusion, added": {"resblock_updown": False, "scale_shift": False},
    "DDPM": {
        "resblock_updown": False,
        "scale_shift": False,
        "num_heads": 1,
        "norm_epsilon": 1e-6,
        "time_embedding": "sin_cos",
        "time_shift": 1,
        "downsample_padding": "end",
        "attention_order": "new",
        "num_res_blocks": 2,
    },
    "DDPM, padded on both sides": {
        "resblock_updown": False,
        "scale_shift": False,
        "num_heads": 1,
        "time_embedding": "sin_cos",
        "time_shift": 1,
    },
    "not square": {"shape": (32, 16)},
}


def network_of(options):
    """(UNet, (H, W, C)) of an entry of `NETWORKS`."""
    options = {"out_channels": 3, "channel_mult": (1, 2, 2), **ADM, **options}
    channels = options.pop("in_channels", 3)
    shape = options.pop("shape", (SIDE, SIDE))
    options.setdefault("attention_resolutions", (16,))
    return unet.UNet(**options), (*shape, channels)


def random_params(network, shape, seed=0):
    """Parameters of which none is zero, of outputs of about 1."""
    labels = np.zeros(1, np.int32) if network.num_classes else None
    like = jax.eval_shape(
        lambda: network.init(jax.random.key(0), np.zeros((1, *shape)), np.zeros(1), labels)
    )
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "scale":
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        fan_in = max(1, int(np.prod(leaf.shape[:-1])))
        return (rng.normal(size=leaf.shape) / np.sqrt(fan_in)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, like)


def outputs(network, params, peer, shape, seed=0):
    """(ours, theirs) on random input, [2,H,W,C] each."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(2, *shape)).astype(np.float32)
    t = np.array([3, 700], np.int32)
    labels = np.array([1, 4], np.int32) if network.num_classes else None
    ours = np.asarray(network.apply(params, z, t, labels))
    with torch.no_grad():
        told = None if labels is None else torch.from_numpy(labels).long()
        images = torch.from_numpy(z.transpose(0, 3, 1, 2).copy())
        theirs = peer(images, torch.from_numpy(t), class_labels=told).sample
    return ours, theirs.numpy().transpose(0, 2, 3, 1)


def compare(options, folder):
    """(difference out, difference in, whether the bits are the same) of a network."""
    network, shape = network_of(options)
    params = random_params(network, shape)
    config = write.unet_config(network, shape)
    has = write.attends(network, max(shape[:2]))
    tensors = names.to_theirs(names.of_diffusers(network, has), params)
    scheduler = write.scheduler_config(
        schedule.linear(), scheduler="ddim", parameterisation="eps", variance="", clip=True
    )
    write.write_pipeline(folder / "ours", config, scheduler, tensors)
    peer = UNet2DModel.from_pretrained(folder / "ours" / "unet", low_cpu_mem_usage=False).eval()
    ours, theirs = outputs(network, params, peer, shape)
    out = np.abs(ours - theirs).max() / np.abs(ours).max()

    torch.manual_seed(1)
    made = UNet2DModel.from_config(UNet2DModel.load_config(folder / "ours" / "unet")).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 1
            spread = torch.randn_like(parameter) / fan_in**0.5
            parameter.copy_(spread if parameter.ndim > 1 else parameter + 0.3 * spread)
    made.save_pretrained(folder / "theirs")
    loaded = load.load(folder / "theirs", network, shape, params).params
    ours, theirs = outputs(network, loaded, made, shape)
    into = np.abs(ours - theirs).max() / np.abs(ours).max()
    again = names.to_theirs(names.of_diffusers(network, has), loaded)
    before = read.read(folder / "theirs").tensors
    same = set(again) == set(before) and all(np.array_equal(again[k], before[k]) for k in again)
    return out, into, same


def main():
    """Prints the table."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    print(f"{'network':34} {'written here':>13} {'read here':>10}  same bits again")
    with tempfile.TemporaryDirectory() as temporary:
        for i, (title, options) in enumerate(NETWORKS.items()):
            out, into, same = compare(options, pathlib.Path(temporary, str(i)))
            print(f"{title:34} {out:13.1e} {into:10.1e}  {same}", flush=True)


if __name__ == "__main__":
    main()
