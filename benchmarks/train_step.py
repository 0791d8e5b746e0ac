"""Training steps: images/s, arithmetic, share of the machine's peak, memory; and peers beside them.

python -m benchmarks.train_step --config=configs/digits_tada.py
python -m benchmarks.train_step --config=benchmarks/unet32.py --against=torch,diffusers
python -m benchmarks.train_step --config=configs/ffhq64_tada.py --side=64 \\
    --config.model.dtype=bfloat16 --against=torch,diffusers --compile

Ours is the whole step of a run: batches from the set on the device, augmentation, noise, network,
gradient, clipping, AdamW, averages. A peer's step begins with the batch on its device and does not
augment. All are repeated by turns in one process, with the same memory settings.
"""

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from benchmarks import ours, timing
from tada_jax.model import unet
from tada_jax.system import backend
from tada_jax.training.device_memory import estimate

CONFIG = config_flags.DEFINE_config_file("config", "benchmarks/unet32.py")
SIDE = flags.DEFINE_integer("side", None, "Of the images, pixels; None: by the configuration.")
CHANNELS = flags.DEFINE_integer("channels", None, "Of the images; None: by the configuration.")
IMAGES = flags.DEFINE_integer("images", 1024, "In the set, random ones.")
REPETITIONS = flags.DEFINE_integer("repetitions", 9, "Of each contestant.")
CALLS = flags.DEFINE_integer("calls", 1, "Of the step in one repetition.")
AGAINST = flags.DEFINE_list("against", [], "torch (our network in PyTorch), diffusers.")
COMPILE = flags.DEFINE_bool("compile", False, "Peers by torch.compile.")


def main(_):
    """Times the steps and prints."""
    config = CONFIG.value
    backend.enable_compilation_cache()
    shape = timing.image_shape(config, SIDE.value, CHANNELS.value)
    batch = config.train.batch_size
    backend.use_cpu_well(batch, pixels=shape[0] * shape[1], channels=config.model.channels)
    own = ours.train_step(config, shape, images=IMAGES.value)
    actions = {"tada_jax": lambda: [own.call() for _ in range(CALLS.value)]}
    sizes = {"tada_jax": unet.count_parameters(own.params)}
    if AGAINST.value:
        import torch

        from benchmarks import torch_peers

        device = "cpu" if jax.default_backend() == "cpu" else "cuda"
        some = np.random.default_rng(0).integers(0, 256, (batch, *shape), np.uint8)
        for name in AGAINST.value:
            if name == "torch":
                network, _ = torch_peers.make("torch", own.parts, config, device)
                torch_peers.check(network, own.parts, own.params)
                del network
            step, sizes[name] = torch_peers.train_step(
                name, own.parts, config, some, device=device, compile_=COMPILE.value
            )
            actions[name] = lambda step=step: [step() for _ in range(CALLS.value * own.steps)]
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    seconds = timing.interleaved(actions, REPETITIONS.value, warm_up=2)
    steps = CALLS.value * own.steps
    seconds = {name: [s / steps for s in of] for name, of in seconds.items()}
    work = timing.flops(own.compiled) / batch  # a loop's body is counted once
    peak_memory = timing.device_peak()
    peak = timing.matmul_peak(dtype=config.model.dtype)
    print(timing.machine())
    for name, of in seconds.items():
        about = {"shape": shape, "dtype": config.model.dtype, "parameters": sizes[name]}
        figures = timing.figures("train_step", name, of, batch, **about)
        low, high = (s * 1e3 for s in figures["quartiles_s"])
        text = (
            f"{name}: {figures['median_s'] * 1e3:,.1f} ms a step of {batch} images "
            f"({low:,.1f} to {high:,.1f}), {figures['images_per_s']:,.1f} images/s, "
            f"{sizes[name]:,} parameters"
        )
        if name == "tada_jax":
            share = work * figures["images_per_s"] / peak
            memory = timing.program_memory(own.compiled)
            figures |= {"flop_per_image": work, "matmul_peak": peak, "share_of_peak": share}
            image_bytes = IMAGES.value * int(np.prod(shape))
            guess = estimate(own.parts, config, jax.device_count(), image_bytes).total / 2**30
            figures |= {"device_GiB": memory, "estimate_GiB": guess, "peak_GiB": peak_memory}
            text += (
                f", {work / 1e9:.3g} GFLOP an image, {share:.0%} of the {peak / 1e9:,.0f} GFLOP/s "
                f"of matrix products, {memory:.2f} GiB a device (--dry_run says {guess:.2f})"
            )
        else:
            figures["times_ours"] = timing.ratio(seconds, "tada_jax", name)
            text += f", {figures['times_ours']:.2f} times our time"
        timing.show(text, **figures)


if __name__ == "__main__":
    app.run(main)
