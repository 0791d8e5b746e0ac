"""The sensitivity profile: one operation at a time, and what it costs.

python -m benchmarks.sensitivity                      # digits
python -m benchmarks.sensitivity --path=pictures.zip  # any folder, zip or array of images
python -m benchmarks.sensitivity --resampler=clamped --seeds=12 --queries=128  # with other edges
python -m benchmarks.sensitivity --limits             # 50,000 images of 32x32, 10,000 of 64x64
"""

import argparse
import contextlib
import platform
import resource
import time

import jax.numpy as jnp
import numpy as np

from benchmarks.resampling import bilinear
from tada_jax import data, resample, transforms
from tada_jax.augment import Policy
from tada_jax.band import estimate
from tada_jax.band.profile import ALL
from tada_jax.system import backend

LEVELS = (-9, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3)


def peak():
    """GiB of the process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def clamped(x, matrix):
    """The simplest resampler: bilinear, and the edge pixels go on for ever."""
    height, width, _ = x.shape
    column, row = resample.positions(matrix, height, width)
    column, row = jnp.clip(column, 0, width - 1), jnp.clip(row, 0, height - 1)
    return bilinear(x, column, row)


@contextlib.contextmanager
def resampler(name):
    """Augmentation with another resampler than the project's, to see what depends on it."""
    own = transforms.resample
    transforms.resample = {"sharp": own, "clamped": clamped}[name]
    try:
        yield
    finally:
        transforms.resample = own


def tables(images, args, ops):
    """K and V of each operation alone, w = 1 and p = .8, and of all as the policy has them.

    Errors are the spread of single seeds (new noise, new copies), or with one seed the standard
    error over the queries.
    """
    print(
        f"{len(images):,} images of {images.shape[1:]}, {args.proxy}, w = 1, p = .8, {args.copies} "
        f"copies, {args.queries} queries, {args.seeds} seed(s), resampler {args.resampler}"
    )
    print("| | r=" + " | ".join(map(str, LEVELS)) + " | integral of K | seconds |")
    print("|---" * (len(LEVELS) + 3) + "|")
    for name in (*ops, ALL):
        policy = Policy(ops=tuple(ops) if name == ALL else (name,), xflip_p=0.0)
        mark = time.monotonic()
        with resampler(args.resampler):
            found = [
                estimate.profile(
                    images,
                    policy,
                    proxy=args.proxy,
                    strengths=(1.0,),
                    operations=False,
                    queries=args.queries,
                    copies=args.copies,
                    seed=seed,
                )
                for seed in range(args.seeds)
            ]
        seconds = (time.monotonic() - mark) / args.seeds
        curves = [f.curves[ALL, 1.0] for f in found]
        values = {
            "V [%]": [100 * c.visible for c in curves],
            "±": [100 * c.visible_error for c in curves],
            "K [nats]": [c.detectable for c in curves],
            "± ": [c.detectable_error for c in curves],
        }
        if args.seeds > 1:
            values["±"], values["± "] = (
                [np.std(values[of], axis=0, ddof=1)] for of in ("V [%]", "K [nats]")
            )
        integral = np.mean([f.check.integral for f in found])
        error = np.sqrt(np.mean([f.check.error**2 for f in found]) / args.seeds)
        for quantity, rows in values.items():
            row = np.interp(LEVELS, found[0].logsnr, np.mean(rows, axis=0))
            end = ""
            if quantity == "K [nats]":
                end = f"{integral:.2f} ± {error:.2f}, must be {found[0].check.limit:.2f}"
            cells = " | ".join(f"{value:.2f}" for value in row)
            print(f"| {name} {quantity} | {cells} | {end} | {seconds:.1f} |", flush=True)
    print(f"peak memory {peak():.1f} GiB")


def limits(proxy, queries):
    """Time and memory of the automatic band for the largest sets that it is meant for."""
    for count, side in ((50_000, 32), (10_000, 64)):
        smooth = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)
        images = smooth.repeat(side // 4, 1).repeat(side // 4, 2)
        mark = time.monotonic()
        estimate.profile(
            images, Policy(), proxy=proxy, strengths=(1.0,), operations=False, queries=queries
        )
        print(
            f"{count:,} images of {side}x{side}x3, {proxy}, w = 1: "
            f"{time.monotonic() - mark:.0f} s, peak memory {peak():.1f} GiB",
            flush=True,
        )


def main():
    """Prints the tables, or time and memory for large sets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", help="folder, zip or array of images; digits by default")
    parser.add_argument("--ops", help="operations, as rotate_frac,brightness")
    parser.add_argument("--proxy", default="exact", choices=estimate.PROXIES)
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--copies", type=int)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--resampler", default="sharp", choices=("sharp", "clamped"))
    parser.add_argument("--limits", action="store_true")
    args = parser.parse_args()
    backend.enable_compilation_cache()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    if args.limits:
        return limits(args.proxy, min(args.queries, 256))
    name = "images" if args.path else "digits"
    loaded = data.load(name, path=args.path, test_fraction=0.0)
    default = "rotate_frac,brightness" if args.path else "rotate_frac,scale,translate_frac"
    ops = (args.ops or default).split(",")
    args.copies = args.copies or (4 if args.path else 8)
    return tables(loaded.train.images, args, ops)


if __name__ == "__main__":
    main()
