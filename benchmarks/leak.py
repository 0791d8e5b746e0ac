"""Does the leak find how many samples are augmented? On mixtures whose shares are known.

    python -m benchmarks.leak
    python -m benchmarks.leak --path=emoji.zip --resolution=32

The judge is fitted to held-out images; the mixtures are made of training images, which it has not
seen: real ones, T(x, 1), and bad ones. Those are made as the judge's own third class is, or by
ways that it does not know: patches in another order, an image in blocks of 2x2 pixels with noise,
or draws of a Gaussian with the data's mean and covariance.
"""

import argparse

import jax
import numpy as np

from benchmarks.timing import machine
from configs import digits_compare, folder_tada
from tada_jax.metrics import judge as judges
from tada_jax.metrics.views import augmented_images, images_of_kind
from tada_jax.setup.plan import plan
from tada_jax.system import backend

SHARES = (  # of real, augmented and bad ones
    (1.0, 0.0, 0.0),
    (0.7, 0.3, 0.0),
    (0.0, 1.0, 0.0),
    (0.7, 0.0, 0.3),
    (0.5, 0.2, 0.3),
    (0.2, 0.5, 0.3),
    (0.5, 0.0, 0.5),
    (0.25, 0.25, 0.5),
    (0.0, 0.0, 1.0),
)


def as_in_fit(images, rng, made):
    """Bad images as the judge's third class."""
    return images_of_kind(images, made.happens, 2, seed=int(rng.integers(2**31)))


def in_pieces(images, rng, made):
    """Quarters of every image in another order."""
    h, w = (side // 2 for side in images.shape[1:3])
    quarters = [images[:, i * h : (i + 1) * h, j * w : (j + 1) * w] for i in (0, 1) for j in (0, 1)]
    a, b, c, d = (quarters[i] for i in (2, 0, 3, 1))
    return np.concatenate([np.concatenate([a, b], 2), np.concatenate([c, d], 2)], 1)


def in_blocks(images, rng, made):
    """Means over 2x2 pixels, and noise of an eighth of the range."""
    n, h, w, c = images.shape
    means = images.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4)).repeat(2, 1).repeat(2, 2)
    return np.clip(np.round(means + rng.normal(0, 32, means.shape)), 0, 255).astype(np.uint8)


def gaussian(images, rng, made):
    """Draws of the Gaussian with the mean and covariance of the images."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    mixed = rng.normal(size=(len(images), len(images))) @ (flat - flat.mean(0))
    drawn = flat.mean(0) + mixed / np.sqrt(len(images))
    return np.clip(np.round(drawn), 0, 255).astype(np.uint8).reshape(images.shape)


BAD = (as_in_fit, in_pieces, in_blocks, gaussian)


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", help="of images; digits without it")
    parser.add_argument("--resolution", type=int, default=None)
    parser.add_argument("--count", type=int, default=500, help="images in a mixture")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    backend.enable_compilation_cache()
    config = digits_compare.get_config()
    if args.path:
        config = folder_tada.get_config()
        config.data.path, config.data.resolution = args.path, args.resolution
        config.data.test_fraction = 0.4
    config.evaluate.extractor = "pixels"
    config.seed = args.seed
    planned = plan(config)
    made, train = judges.of_plan(planned), np.asarray(planned.dataset.train.images)
    rng = np.random.default_rng(args.seed)
    print(
        f"{planned.dataset.source}; {machine()}; seed {args.seed}, {args.count} images a mixture\n"
    )
    print(
        "| real, augmented, bad [%] | augmented of the good [%] | "
        + " | ".join(f.__name__.replace("_", " ") for f in BAD)
        + " |"
    )
    print("|---" * (2 + len(BAD)) + "|")
    for shares in SHARES:
        cells = []
        for bad in BAD:
            counts = np.round(np.array(shares) * args.count).astype(int)
            chosen = train[rng.choice(len(train), counts.sum(), replace=counts.sum() > len(train))]
            real, moved, rest = np.split(chosen, np.cumsum(counts)[:-1])
            seed = int(rng.integers(2**31))
            parts = [real]
            if len(moved):
                parts.append(augmented_images(moved, made.happens, seed=seed))
            if len(rest):
                parts.append(bad(rest, rng, made))
            found = made.leak(np.concatenate(parts))
            cells.append(f"{found.text}; bad {100 * found.neither:.0f}")
        good = shares[0] + shares[1]
        truth = f"{100 * shares[1] / good:.0f}" if good else "n/a"
        mixture = ", ".join(f"{100 * s:.0f}" for s in shares)
        print(f"| {mixture} | {truth} | {' | '.join(cells)} |", flush=True)
    jax.clear_caches()


if __name__ == "__main__":
    main()
