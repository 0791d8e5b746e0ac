"""What each metric costs, and the table of leakage on mixtures.

    python -m benchmarks.metrics           # seconds, for 1,000 and 10,000 samples
    python -m benchmarks.metrics leakage   # every measure of it, on mixtures of real and T(x, 1)

Digits stand in for samples, with noise where more are wanted than there are. The network of FID is
timed with random weights: its speed does not depend on them.
"""

import platform
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from configs import digits_compare
from tada_jax.metrics import (
    inception,
    kid,
    leakage,
    memorisation,
    precision_recall,
    scores,
    wasserstein,
)
from tada_jax.metrics import judge as judges
from tada_jax.metrics.features import Extractor, pixels
from tada_jax.metrics.views import augmented_images
from tada_jax.setup.plan import plan
from tada_jax.system import backend


def seconds(function):
    """Of one call."""
    mark = time.monotonic()
    function()
    return time.monotonic() - mark


def more(images, count, seed=0):
    """So many images, repeated under a little noise."""
    rng = np.random.default_rng(seed)
    repeated = np.resize(images, (count, *images.shape[1:]))
    return np.clip(repeated + rng.normal(0, 4, repeated.shape), 0, 255).astype(np.uint8)


def costs(judge, n, inception_seconds):
    """Seconds of every metric, {name: seconds}, for n samples; Inception's is given for one."""
    train, held_out = judge.images["train"], judge.images["held_out"]
    samples, reference = more(train, n), more(held_out, n, seed=1)
    f, g = judge.extractor(samples), judge.extractor(reference)
    wide = np.random.default_rng(0).standard_normal((2, n, 2048))
    p, known = pixels(64)(samples), pixels(64)(more(train, 1000, seed=2))
    q = memorisation.gallery(known)

    def frechet(a, b):
        return frechet.frechet_distance(frechet.gaussian(a), frechet.gaussian(b))

    found = {
        "features, small network": seconds(lambda: judge.extractor(samples)),
        "features, Inception": n * inception_seconds,
        "Frechet distance, 128 features": seconds(lambda: frechet(f, g)),
        "Frechet distance, 2,048 features": seconds(lambda: frechet(*wide)),
        "KID, 100 subsets, 128 features": seconds(lambda: kid.kernel_distance(f, g)),
        "KID, 100 subsets, 2,048 features": seconds(lambda: kid.kernel_distance(*wide)),
        "precision, recall, density, coverage": seconds(lambda: precision_recall.manifold(f, g)),
        "sliced Wasserstein": seconds(lambda: wasserstein.sliced_wasserstein(samples, reference)),
        "copies": seconds(lambda: memorisation.copies(p, q)),
        "copy margin": seconds(lambda: memorisation.copy_margin(p, q, q)),
        "AuthPct": seconds(lambda: memorisation.authenticity(p, q)),
        "C_T": seconds(lambda: memorisation.data_copying(p, known, p)),
        "classifier leak, with its interval": seconds(lambda: judge.leak(samples)),
        "moments of one operation": seconds(
            lambda: leakage.moment_shift("scale", samples, reference, reference)
        ),
    }
    return found


def print_costs(judge):
    """A table for 1,000 and 10,000 samples."""
    shape = (1, inception.SIDE, inception.SIDE, 3)
    weights = jax.jit(inception.Inception().init)(jax.random.key(0), jnp.zeros(shape))
    fid = Extractor(
        "", None, inception.features, weights, lambda x: inception.prepare(x, "clean-fid"), 32
    )
    images = judge.images["held_out"][:128]
    fid(images[:32])  # compiles
    each = seconds(lambda: fid(images)) / len(images)
    few, many = (costs(judge, n, each) for n in (1000, 10_000))
    print("| seconds for so many samples | 1,000 | 10,000 |\n|---|---|---|")
    for name in few:
        print(f"| {name} | {few[name]:.2f} | {many[name]:.2f} |")


def print_mixtures(judge):
    """A table of every measure of leakage where its answer is known."""
    fresh = judge.images["all"][:1000]  # digits that no leak classifier was fitted to
    moved = augmented_images(fresh, judge.happens, seed=1)
    order = np.random.default_rng(0).permutation(1000)
    ops = judge.policy.ops
    print(
        "| share augmented | leak [%] | 95% interval | Frechet leak | "
        + " | ".join(f"moments, {op} [%]" for op in ops)
        + " |"
    )
    print("|---" * (4 + len(ops)) + "|")
    for percent in (0, 10, 25, 50, 75, 90, 100):
        k = 10 * percent
        mixture = np.concatenate([moved[order[:k]], fresh[order[k:]]])
        found = scores.leakage_scores(judge, mixture)
        low, high = found["leak"].interval
        moments = " | ".join(f"{100 * found[f'moment/{op}'].value:.0f}" for op in ops)
        print(
            f"| {percent}% | {100 * found['leak'].value:.1f} | {100 * low:.1f} .. {100 * high:.1f} "
            f"| {found['fd_leak'].value:.1f} | {moments} |"
        )


def main():
    """Prints what the command line asks for."""
    backend.enable_compilation_cache()
    config = digits_compare.get_config()
    config.data.train_size = 50  # the others are fresh digits
    judge = judges.of_plan(plan(config), say=lambda text: print(text, file=sys.stderr))
    print(
        f"{platform.processor() or platform.machine()}, {jax.device_count()} x {jax.devices()[0]}"
    )
    (print_mixtures if sys.argv[1:] == ["leakage"] else print_costs)(judge)


if __name__ == "__main__":
    main()
