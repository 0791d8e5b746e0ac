"""The sensitivity profile: one operation at a time, and what it costs.

python -m benchmarks.sensitivity                      # digits
python -m benchmarks.sensitivity --path=pictures.zip  # any folder, zip or array of images
python -m benchmarks.sensitivity --limits             # 50,000 images of 32x32, 10,000 of 64x64
"""

import argparse
import platform
import resource
import time

import numpy as np

from tada_jax import backend, data, sensitivity
from tada_jax.augment import Policy
from tada_jax.profile import ALL

LEVELS = (-9, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3)


def peak():
    """GiB of the process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def tables(images, proxy, copies, queries, ops):
    """K and V of each operation alone, w = 1 and p = .8, and of all as the policy has them."""
    print(f"{len(images):,} images of {images.shape[1:]}, {proxy}, w = 1, p = .8, {copies} copies")
    print("| | r=" + " | ".join(map(str, LEVELS)) + " | integral of K | seconds |")
    print("|---" * (len(LEVELS) + 3) + "|")
    for name in (*ops, ALL):
        policy = Policy(ops=tuple(ops) if name == ALL else (name,), xflip_p=0.0)
        mark = time.monotonic()
        found = sensitivity.profile(
            images,
            policy,
            proxy=proxy,
            strengths=(1.0,),
            operations=False,
            queries=queries,
            copies=copies,
        )
        seconds, curve, check = time.monotonic() - mark, found.curves[ALL, 1.0], found.check
        values = {
            "V [%]": 100 * np.interp(LEVELS, found.logsnr, curve.visible),
            "±": 100 * np.interp(LEVELS, found.logsnr, curve.visible_error),
            "K [nats]": np.interp(LEVELS, found.logsnr, curve.detectable),
            "± ": np.interp(LEVELS, found.logsnr, curve.detectable_error),
        }
        for quantity, row in values.items():
            end = ""
            if quantity == "K [nats]":
                end = f"{check.integral:.2f} ± {check.error:.2f}, must be {check.limit:.2f}"
            cells = " | ".join(f"{value:.2f}" for value in row)
            print(f"| {name} {quantity} | {cells} | {end} | {seconds:.1f} |", flush=True)
    print(f"peak memory {peak():.1f} GiB")


def limits(proxy, queries):
    """Time and memory of the automatic band for the largest sets that it is meant for."""
    for count, side in ((50_000, 32), (10_000, 64)):
        smooth = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)
        images = smooth.repeat(side // 4, 1).repeat(side // 4, 2)
        mark = time.monotonic()
        sensitivity.profile(
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
    parser.add_argument("--proxy", default="exact", choices=sensitivity.PROXIES)
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--copies", type=int)
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
    return tables(
        loaded.train.images, args.proxy, args.copies or (4 if args.path else 8), args.queries, ops
    )


if __name__ == "__main__":
    main()
