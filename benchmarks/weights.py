"""Compares our network with those of others, by the same weights in both directions.

    PEERS/bin/python -m benchmarks.weights [--run=runs/digits_tada] [--skip_networks]

It needs PyTorch, diffusers and safetensors beside what this project needs. Each line is a network:
diffusers writes it with random numbers and it is read here; it is written here and diffusers reads
it; printed are the largest differences as shares of the largest output, and whether what was read
and written again has the same bits. Then a file as that of the 256-pixel faces of P2-weighting, of
random numbers, is read by both. With a run, it is exported, and diffusers draws images from the
same noise as our samplers: by DDIM in 50 steps, and by DDPM step by step.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile

import jax
import numpy as np
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from diffusers.schedulers import scheduling_ddpm

import tada_jax
from tada_jax.model import schedule, solvers, unet
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
    order = network.attention_order
    loaded = load.load_weights(folder / "theirs", attention_order=order).params
    ours, theirs = outputs(network, loaded, made, shape)
    into = np.abs(ours - theirs).max() / np.abs(ours).max()
    again = names.to_theirs(names.of_diffusers(network, has), loaded)
    before = read.read(folder / "theirs").tensors
    same = set(again) == set(before) and all(np.array_equal(again[k], before[k]) for k in again)
    return out, into, same


def networks():
    """Prints the table of networks."""
    print(f"{'network':34} {'written here':>13} {'read here':>10}  same bits again")
    with tempfile.TemporaryDirectory() as temporary:
        for i, (title, options) in enumerate(NETWORKS.items()):
            out, into, same = compare(options, pathlib.Path(temporary, str(i)))
            print(f"{title:34} {out:13.1e} {into:10.1e}  {same}", flush=True)


# The time and memory of reading, each in a process of its own.

_READERS = {
    "torch.load": """
import torch
tensors = torch.load(path, map_location="cpu", weights_only=True)
total = sum(float(t.sum()) for t in tensors.values())
""",
    "torch.load, mmap": """
import torch
tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
total = sum(float(t.sum()) for t in tensors.values())
""",
    "ours": """
import jax
from tada_jax.weights import load
found = load.load_weights(path)
total = sum(float(a.sum()) for a in jax.tree.leaves(found.params))
""",
}
_MEASURED = """
import sys, time
path = sys.argv[1]
import numpy, {imports}
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
before, start = peak(), time.perf_counter()
{program}
seconds = time.perf_counter() - start
print(seconds, (peak() - before) * 1024, total)
"""


def reading(rounds=3):
    """Prints how long a file of 93,563,910 parameters takes to be read, and how much memory."""
    network = unet.UNet(6, channels=128, channel_mult=(1, 1, 2, 2, 4, 4))
    shape = (256, 256, 3)
    like = jax.eval_shape(
        lambda: network.init(jax.random.key(0), np.zeros((1, *shape)), np.zeros(1), None)
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: rng.random(a.shape, np.float32), like)
    tensors = names.to_theirs(names.of_adm(network, write.attends(network, 256)), params)
    print(f"a .pt of {unet.count_parameters(params):,} parameters, read {rounds} times, in turns")
    with tempfile.TemporaryDirectory() as temporary:
        file = pathlib.Path(temporary, "ffhq.pt")
        torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, file)
        size = file.stat().st_size
        found = {name: [] for name in _READERS}
        for _ in range(rounds):
            for name, program in _READERS.items():
                imports = "jax, tada_jax.weights.load" if name == "ours" else "torch"
                code = _MEASURED.format(imports=imports, program=program)
                done = subprocess.run(
                    [sys.executable, "-c", code, file], capture_output=True, text=True, check=True
                )
                found[name].append([float(word) for word in done.stdout.split()])
    for name, values in found.items():
        seconds, peak, total = np.array(values).T
        print(
            f"{name:18} {np.median(seconds):5.2f} s ({seconds.min():.2f} .. {seconds.max():.2f}), "
            f"{np.median(peak) / size:.2f} times the file in memory, sum {total[0]:.6g}"
        )


# Samples


def samples(folder):
    """Prints how far images of diffusers are from ours, from the same noise."""
    run = tada_jax.load_run(folder)
    config, parts = run.config.copy_and_resolve_references(), run.parts
    reading_options = {
        "parameterisation": config.diffusion.parameterisation,
        "variance": config.diffusion.variance,
        "sigma_data": config.diffusion.sigma_data,
        "clip_x0": config.sample.clip_x0,
    }
    keys = solvers.sample_keys(0, np.arange(16))

    def predict(z, t):
        return parts.apply(run.sampled_params, z, t)

    with tempfile.TemporaryDirectory() as temporary:
        copy = pathlib.Path(temporary, "run")
        shutil.copytree(folder, copy)
        for kind, steps in (("ddim", 50), ("ddpm", len(parts.schedule))):
            config.export.scheduler = kind
            exported = tada_jax.export(config, copy)
            pipeline = DiffusionPipeline.from_pretrained(exported, low_cpu_mem_usage=False)
            short = parts.schedule if kind == "ddpm" else parts.schedule.walk(steps, stride="ddim")
            sampler = solvers.SAMPLERS[kind]
            options = {"schedule": short, "shape": parts.image_shape, **reading_options}
            ours = jax.jit(lambda keys: sampler(predict, keys, **options))(keys)  # noqa: B023
            theirs = drawn(pipeline, keys, short, parts.image_shape, kind)
            apart = np.abs(np.asarray(ours) - theirs).clip(0, 2) * 127.5
            print(
                f"{kind}, {steps} steps, 16 images: largest difference {apart.max():.3f}/255, mean "
                f"{apart.mean():.5f}/255"
            )


def drawn(pipeline, keys, short, shape, kind):
    """Images [B,H,W,C] of a pipeline from the noise of our samplers."""

    def noise(number):
        made = np.asarray(solvers._noise(keys, number, shape)).transpose(0, 3, 1, 2)
        return torch.from_numpy(made.copy())

    scheduler, number = pipeline.scheduler, [0]
    scheduler.set_timesteps(len(short))
    expected = np.asarray(short.timesteps)[::-1]
    np.testing.assert_array_equal(scheduler.timesteps.numpy(), expected)
    options = {"eta": 0.0, "use_clipped_model_output": True} if kind == "ddim" else {}
    scheduling_ddpm.randn_tensor = lambda *args, **kwargs: noise(number[0])
    z = noise(0)
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            number[0] = len(short) - 1 - i + 1  # of the noise of this step
            z = scheduler.step(pipeline.unet(z, t).sample, t, z, **options).prev_sample
    return z.numpy().transpose(0, 2, 3, 1)


def main():
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", help="folder of a run of timesteps, to be drawn from")
    parser.add_argument("--skip_networks", action="store_true")
    parser.add_argument("--skip_reading", action="store_true")
    parser.add_argument("--rounds", type=int, default=3, help="in which the file is read")
    arguments = parser.parse_args()
    if not arguments.skip_networks:
        networks()
    if not arguments.skip_reading:
        reading(arguments.rounds)
    if arguments.run:
        samples(arguments.run)


if __name__ == "__main__":
    main()
