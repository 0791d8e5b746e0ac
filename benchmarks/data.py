"""How long it takes to read a folder of images, to read it again, and to report on it.

    python benchmarks/data.py [--count 50000] [--path pictures.zip]

Without a path, makes `count` PNGs of 64x64 pixels in a temporary folder. The cache is a temporary
one too, so that the first reading decodes.
"""

import argparse
import os
import pathlib
import platform
import sys
import tempfile
import time

import numpy as np
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tada_jax import data  # noqa: E402
from tada_jax.data import inspection  # noqa: E402


def make(folder, count):
    """Writes PNGs of smooth random colours with a little noise, 64x64."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.normal(128, 50, (8, 8, 3)).repeat(8, 0).repeat(8, 1)
        noisy = coarse + rng.normal(0, 4, (64, 64, 3))
        image = np.clip(noisy, 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{i:06d}.png")


def main():
    """Prints the times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--path")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        os.environ["TADA_JAX_CACHE"] = str(folder / "cache")
        path = arguments.path
        if path is None:
            path = folder / "images"
            path.mkdir()
            make(path, arguments.count)
        times = {}
        for name in ("first reading", "again, from the cache"):
            start = time.monotonic()
            dataset = data.load("images", path=str(path))
            times[name] = time.monotonic() - start
        start = time.monotonic()
        inspection.inspect(dataset, batch_size=64)
        times["report"] = time.monotonic() - start
    count = len(dataset.train.images) + len(dataset.test.images)
    print(f"{dataset.source} ({platform.machine()}, {os.cpu_count()} cores)")
    for name, seconds in times.items():
        print(f"{name:>22} {seconds:7.2f} s {count / seconds:10,.0f} images/s")


if __name__ == "__main__":
    main()
