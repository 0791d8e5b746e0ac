"""Input: reading a data set, reading it again, reporting on it, and batches of it.

python -m benchmarks.input                                   # PNGs of 64x64 that it draws
python -m benchmarks.input --config.data.path=pictures.zip --against=torch
python -m benchmarks.input --config=configs/digits_tada.py

The cache of decoded images is a temporary one, so that the first reading decodes. Batches are timed
both ways that training takes them: gathered on the device from a set that lies there whole, and fed
from the host by a thread, as sets are that exceed `config.data.device_gib`. The peer is PyTorch's
DataLoader with a process for each core, which decodes files in every epoch (not from a zip).
"""

import os
import pathlib
import tempfile
import time

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags
from PIL import Image

from benchmarks import timing
from tada_jax.data import inspection, order
from tada_jax.data.feed import Feed
from tada_jax.setup.plan import load_data
from tada_jax.system import backend
from tada_jax.training.step import resident_batches, step_keys

CONFIG = config_flags.DEFINE_config_file("config", "configs/folder_tada.py")
COUNT = flags.DEFINE_integer("count", 10_000, "PNGs to draw if the configuration names no path.")
BATCHES = flags.DEFINE_integer("batches", 50, "In a repetition.")
REPETITIONS = flags.DEFINE_integer("repetitions", 9, "Of each way to make batches.")
AGAINST = flags.DEFINE_list("against", [], "torch (DataLoader), for a folder of images.")


def draw(folder, count):
    """Writes PNGs of smooth random colours with a little noise, 64x64."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.normal(128, 50, (8, 8, 3)).repeat(8, 0).repeat(8, 1)
        noisy = coarse + rng.normal(0, 4, (64, 64, 3))
        image = np.clip(noisy, 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{i:06d}.png")


def timed(function):
    """(seconds, result) of a call."""
    mark = time.perf_counter()
    result = function()
    return time.perf_counter() - mark, result


def resident(config, split, mesh):
    """`act()` that gathers batches on the device."""
    images = backend.put_whole(split.images, mesh)
    made = order.shuffled(len(split.images))
    fetch = resident_batches(config, made, backend.over_batch(mesh))
    run, seed, step = jax.jit(fetch), np.uint32(config.seed), iter(range(2**31))

    def act():
        for _ in range(BATCHES.value):
            jax.block_until_ready(run(seed, np.int32(next(step)), images, None))

    return act


def fed(config, split, mesh):
    """(`act()` that takes batches from a thread, close())."""
    key, _ = step_keys(config.seed)
    made = order.shuffled(len(split.images))
    batches = order.HostBatches(key, batch_size=config.train.batch_size, order=made)
    feed = Feed(split, batches, backend.over_batch(mesh))

    def act():
        for _ in range(BATCHES.value):
            jax.block_until_ready(next(feed))

    return act, feed.close


class Files:
    """A folder as a data set of PyTorch: decoded when asked for, uint8 [H,W,3]."""

    def __init__(self, folder):
        self.files = sorted(file for file in pathlib.Path(folder).rglob("*") if file.is_file())

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return np.asarray(Image.open(self.files[index]).convert("RGB"))


def data_loader(config, folder):
    """`act()` that takes batches from a DataLoader with a process for each core."""
    import torch

    if not pathlib.Path(folder or "").is_dir():
        raise SystemExit("error: --against=torch needs a folder of images of one size")
    loader = torch.utils.data.DataLoader(
        Files(folder),
        batch_size=config.train.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=os.cpu_count(),
        persistent_workers=True,
        multiprocessing_context="spawn",  # forking a process in which JAX runs may hang
    )

    def endless():
        while True:
            yield from loader

    batches = endless()
    print(f"torch {torch.__version__}, {os.cpu_count()} worker processes")
    return lambda: [next(batches) for _ in range(BATCHES.value)]


def main(_):
    """Times and prints."""
    config = CONFIG.value
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        os.environ["TADA_JAX_CACHE"] = str(folder / "cache")
        if config.data.name == "images" and not config.data.path:
            (folder / "images").mkdir()
            draw(folder / "images", COUNT.value)
            config.data.path = str(folder / "images")
        batch = config.train.batch_size
        backend.use_cpu_well(batch, pixels=64 * 64, channels=config.model.channels)
        machine = timing.machine()
        print(machine)

        first, dataset = timed(lambda: load_data(config))
        again, dataset = timed(lambda: load_data(config))
        report, _ = timed(lambda: inspection.inspect(dataset, batch_size=batch))
        count = len(dataset.train.images) + len(dataset.test.images)
        once = {"first reading": first, "again, from the cache": again, "report": report}
        shape = dataset.train.images.shape[1:]
        for name, seconds in once.items():
            timing.show(
                f"{name}: {seconds:.2f} s for {count:,} images of {shape}, "
                f"{count / seconds:,.0f} images/s",
                **{"benchmark": "input", "name": name, "seconds": seconds, "images": count},
                **{"shape": shape, "machine": machine},
            )

        mesh = backend.data_mesh(batch)
        act, close = fed(config, dataset.train, mesh)
        actions = {"on the device": resident(config, dataset.train, mesh), "from the host": act}
        if AGAINST.value:
            actions["DataLoader"] = data_loader(config, config.data.path)
        seconds = timing.interleaved(actions, REPETITIONS.value)
        close()
        for name, of in seconds.items():
            each = [s / BATCHES.value for s in of]
            figures = timing.figures("input", f"batches {name}", each, batch, shape=shape)
            text = (
                f"batches {name}: {figures['median_s'] * 1e3:.2f} ms for {batch} images of "
                f"{shape}, {figures['images_per_s']:,.0f} images/s"
            )
            if name == "DataLoader":
                figures["times_fed"] = timing.ratio(seconds, "from the host", name)
                text += f", {figures['times_fed']:.1f} times our time from the host"
            timing.show(text, **figures)


if __name__ == "__main__":
    app.run(main)
