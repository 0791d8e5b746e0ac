"""Augmentation: images/s, its share of the training step, and kornia beside it.

python -m benchmarks.augment --config=configs/digits_tada.py
python -m benchmarks.augment --config=benchmarks/unet32.py --share=false --batch=128 --side=64 \\
    --against=kornia

Ours, at w = 1, over all devices: what the configuration has ("policy"), and all twelve operations
firing on every image ("all"). The peer does less: one bilinear affine map (rotation, scale, shift;
nothing against aliases), then brightness, contrast and saturation, with and without hue.

The share of the training step is what the step takes longer than with `method=none`, of its own
time; both are repeated by turns.
"""

import functools
import statistics

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from benchmarks import ours, timing
from tada_jax.augment import OPERATIONS, Policy, augment_batch
from tada_jax.setup import build
from tada_jax.system import backend

CONFIG = config_flags.DEFINE_config_file("config", "configs/digits_tada.py")
SIDE = flags.DEFINE_integer("side", None, "Of the images, pixels; None: by the configuration.")
CHANNELS = flags.DEFINE_integer("channels", None, "Of the images; None: by the configuration.")
BATCH = flags.DEFINE_integer("batch", None, "Images; None: by the configuration.")
REPETITIONS = flags.DEFINE_integer("repetitions", 25, "Of each contestant.")
SHARE = flags.DEFINE_bool("share", True, "Whether training steps are timed too.")
CALLS = flags.DEFINE_integer("calls", 5, "Of the training step in one repetition.")
AGAINST = flags.DEFINE_list("against", [], "kornia.")


def augmentations(config, images):
    """{name: act()} of our augmentation of images [B,H,W,C] in [-1, 1]."""
    spread = backend.over_batch(backend.data_mesh(len(images)))
    x = jax.device_put(images, spread)
    w = jax.device_put(np.ones(len(images), np.float32), spread)
    policies = {
        "policy": build.augmentation(config),
        "all": Policy(tuple(OPERATIONS), p=1.0, max_ops=None),
    }
    run, key = jax.jit(augment_batch, out_shardings=spread), jax.random.key(0)
    return {
        name: functools.partial(lambda p: run(key, x, w, p).block_until_ready(), policy)
        for name, policy in policies.items()
    }


def of_kornia(images):
    """{name: act()} of kornia's affine map and colour jitter, each on every image."""
    import kornia.augmentation as K
    import torch

    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy() / 2 + 0.5).to(device)
    moved = dict(degrees=180.0, translate=(0.125, 0.125), scale=(0.8, 1.25), p=1.0)

    def act(hue):
        jitter = K.ColorJitter(0.2, 0.2, 0.2, hue, p=1.0)
        pipeline = torch.nn.Sequential(K.RandomAffine(**moved, resample="bilinear"), jitter)

        @torch.inference_mode()
        def call():
            pipeline(x)
            if device != "cpu":
                torch.cuda.synchronize()

        return call

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    return {"kornia": act(0.5), "kornia, no hue": act(0.0)}


def show_augmentations(config, shape, batch):
    """Times augmentation alone and prints."""
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (batch, *shape)).astype(np.float32)
    actions = augmentations(config, images)
    if AGAINST.value:
        if AGAINST.value != ["kornia"] or shape[-1] != 3:
            raise SystemExit("error: --against takes kornia, and only for colour images")
        actions |= of_kornia(images)
    seconds = timing.interleaved(actions, REPETITIONS.value, warm_up=3)
    for name, of in seconds.items():
        figures = timing.figures("augment", name, of, batch, shape=shape)
        low, high = figures["quartiles_s"]
        text = (
            f"{name}: {figures['median_s'] * 1e3:.2f} ms for {batch} images of {shape} "
            f"({low * 1e3:.2f} to {high * 1e3:.2f}), {figures['images_per_s']:,.0f} images/s"
        )
        if name not in ("policy", "all"):
            figures["times_all"] = timing.ratio(seconds, "all", name)
            text += f", {figures['times_all']:.2f} times our time for all"
        timing.show(text, **figures)


def show_share(config, shape):
    """Times training steps with and without augmentation and prints."""
    plain = config.copy_and_resolve_references()
    plain.method = "none"
    made = {name: ours.train_step(c, shape) for name, c in (("with", config), ("without", plain))}
    calls = {
        name: functools.partial(lambda call: [call() for _ in range(CALLS.value)], step.call)
        for name, step in made.items()
    }
    seconds = timing.interleaved(calls, REPETITIONS.value, warm_up=2)
    steps = CALLS.value * made["with"].steps
    seconds = {name: [s / steps for s in of] for name, of in seconds.items()}
    shares = [1 - b / a for a, b in zip(seconds["with"], seconds["without"])]
    median, low, high = timing.quartiles(shares)
    both = {name: statistics.median(of) for name, of in seconds.items()}
    timing.show(
        f"share of the training step of {config.train.batch_size} images: {median:.1%} "
        f"({low:.1%} to {high:.1%}), {both['with'] * 1e3:,.1f} ms with augmentation and "
        f"{both['without'] * 1e3:,.1f} without",
        benchmark="augment_share",
        shape=shape,
        batch=config.train.batch_size,
        share=median,
        quartiles=[low, high],
        repetitions=len(shares),
        seconds=both,
        machine=timing.machine(),
    )


def main(_):
    """Times and prints."""
    config = CONFIG.value
    backend.enable_compilation_cache()
    shape = timing.image_shape(config, SIDE.value, CHANNELS.value)
    batch = BATCH.value or config.train.batch_size
    backend.use_cpu_well(batch, pixels=shape[0] * shape[1], channels=config.model.channels)
    print(timing.machine())
    show_augmentations(config, shape, batch)
    if SHARE.value:
        show_share(config, shape)


if __name__ == "__main__":
    app.run(main)
