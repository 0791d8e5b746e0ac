"""Sampling: images/s of a configuration's sampler; and peers' loops beside it.

python -m benchmarks.sample --config=configs/digits_tada.py
python -m benchmarks.sample --config=benchmarks/unet32.py --count=16 --config.sample.steps=50 \\
    --against=torch,diffusers

Ours is what --mode=sample calls: one compiled scan over all steps, the batch over all devices,
images as uint8 on the host. A peer draws with deterministic DDIM in a Python loop, in the same
network (torch) or the nearest one (diffusers), and leaves its images on the device. Parameters are
random: what is drawn does not matter.
"""

import jax
from absl import app, flags
from ml_collections import config_flags

from benchmarks import timing
from tada_jax.model import unet
from tada_jax.model.sampler import make_sampler
from tada_jax.setup import build
from tada_jax.system import backend

CONFIG = config_flags.DEFINE_config_file("config", "benchmarks/unet32.py")
SIDE = flags.DEFINE_integer("side", None, "Of the images, pixels; None: by the configuration.")
CHANNELS = flags.DEFINE_integer("channels", None, "Of the images; None: by the configuration.")
COUNT = flags.DEFINE_integer("count", None, "Images; None: sample.batch_size.")
REPETITIONS = flags.DEFINE_integer("repetitions", 5, "Of each contestant.")
AGAINST = flags.DEFINE_list("against", [], "torch (our network in PyTorch), diffusers.")


def main(_):
    """Times the samplers and prints."""
    config = CONFIG.value
    count = COUNT.value or config.sample.batch_size
    backend.enable_compilation_cache()
    shape = timing.image_shape(config, SIDE.value, CHANNELS.value)
    backend.use_cpu_well(count, pixels=shape[0] * shape[1], channels=config.model.channels)
    mesh = backend.data_mesh(count)
    parts = build.parts(config, shape)
    params = jax.jit(parts.init_params, out_shardings=backend.replicated(mesh))(jax.random.key(0))
    draw = make_sampler(parts, mesh, batch_size=count)
    actions = {"tada_jax": lambda: draw(params, range(count), seed=0)}
    sizes = {"tada_jax": unet.count_parameters(params)}
    if AGAINST.value:
        import torch

        from benchmarks import torch_peers

        device = "cpu" if jax.default_backend() == "cpu" else "cuda"
        for name in AGAINST.value:
            actions[name], sizes[name] = torch_peers.sampler(
                name, parts, config, steps=config.sample.steps, count=count, device=device
            )
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    seconds = timing.interleaved(actions, REPETITIONS.value)
    print(timing.machine())
    about = {"shape": shape, "steps": config.sample.steps, "dtype": config.model.dtype}
    for name, of in seconds.items():
        about["sampler"] = config.sample.sampler if name == "tada_jax" else "ddim"
        about["parameters"] = sizes[name]
        figures = timing.figures("sample", name, of, count, **about)
        low, high = figures["quartiles_s"]
        text = (
            f"{name}: {figures['median_s']:.2f} s for {count} images of {shape} by "
            f"{about['sampler']}, {config.sample.steps} steps ({low:.2f} to {high:.2f}), "
            f"{figures['images_per_s']:.1f} images/s, {sizes[name]:,} parameters"
        )
        if name != "tada_jax":
            figures["times_ours"] = timing.ratio(seconds, "tada_jax", name)
            text += f", {figures['times_ours']:.2f} times our time"
        timing.show(text, **figures)


if __name__ == "__main__":
    app.run(main)
