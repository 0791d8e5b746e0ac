"""Sliced Wasserstein distance of Laplacian-pyramid patches (Karras et al. 2018, section 5)."""

import numpy as np

_TAPS = np.array([1.0, 4.0, 6.0, 4.0, 1.0], np.float32) / 16.0
_MAX_PATCHES = 2**18  # a level


def _blur(images, gain=1.0):
    """Binomial low-pass of 5 taps on both axes of [N,H,W,C], mirrored at the border."""
    for axis in (1, 2):
        pad = [(2, 2) if a == axis else (0, 0) for a in range(4)]
        padded = np.pad(images, pad, "reflect" if images.shape[axis] > 2 else "edge")
        length = images.shape[axis]
        images = sum(
            gain * tap * np.take(padded, np.arange(i, i + length), axis)
            for i, tap in enumerate(_TAPS)
        )
    return images


def laplacian_pyramid(images, min_side=16):
    """Float images [N,H,W,C] -> the details of each level, finest first, and the last low-pass.

    Levels are halved (rounding up) as long as no side falls below `min_side`.
    """
    levels, image = [], np.asarray(images, np.float32)
    while min(image.shape[1:3]) >= 2 * min_side:
        small = _blur(image)[:, ::2, ::2]
        spread = np.zeros_like(image)
        spread[:, ::2, ::2] = small
        levels.append(image - _blur(spread, gain=2.0))
        image = small
    return [*levels, image]


def _patches(level, count, side, rng):
    """`count` random square patches a picture, [N * count, side * side * C]."""
    n, h, w, _ = level.shape
    windows = np.lib.stride_tricks.sliding_window_view(level, (side, side), axis=(1, 2))
    y = rng.integers(h - side + 1, size=(n, count))
    x = rng.integers(w - side + 1, size=(n, count))
    return windows[np.arange(n)[:, None], y, x].reshape(n * count, -1)


def sliced_wasserstein(a, b, *, patch=7, patches=128, projections=512, min_side=16, seed=0):
    """Distances of the patches of two sets of images, level by level, finest first.

    Patches are brought to mean 0 and deviation 1 in every channel, over each set, then projected on
    random directions; a distance is the mean over the directions of the Wasserstein-1 distance of
    the projections. Usually printed times 1000. Images smaller than a patch are patches themselves.

    Args:
      a, b: uint8 images [N,H,W,C]; as many are used of both, drawn at random from the larger set.
      patch: side in pixels.
      patches: of each image, at every level; fewer where that makes more than 2^18 a level.
      projections: directions.
      min_side: of the coarsest level, pixels.
      seed: of the patches and the directions.

    Returns:
      A list of floats, one a level.
    """
    n = min(len(a), len(b))
    patches = max(1, min(patches, _MAX_PATCHES // n))
    rng = np.random.default_rng(seed)
    distances = []
    chosen = [
        np.arange(n) if len(x) == n else np.sort(rng.choice(len(x), n, replace=False))
        for x in (a, b)
    ]
    pyramids = [laplacian_pyramid(x[i], min_side) for x, i in zip((a, b), chosen)]
    for pair in zip(*pyramids):
        side = min(patch, *pair[0].shape[1:3])
        channels = pair[0].shape[3]
        places = rng.integers(2**32)  # the same patches of both sets
        normalised = []
        for level in pair:
            # sliding_window_view puts the channel before the window
            found = _patches(level, patches, side, np.random.default_rng(places))
            found = found.reshape(len(found), channels, -1)
            found = found - found.mean((0, 2), keepdims=True)
            found /= np.maximum(found.std((0, 2), keepdims=True), 1e-8)
            normalised.append(found.reshape(len(found), -1))
        directions = rng.standard_normal((normalised[0].shape[1], projections)).astype(np.float32)
        directions /= np.linalg.norm(directions, axis=0)
        total = 0.0
        for part in np.array_split(directions.T, max(1, projections // 64)):
            first, second = (np.sort(part @ x.T, axis=1) for x in normalised)
            total += np.abs(first - second).mean(1, dtype=np.float64).sum()
        distances.append(float(total / projections))
    return distances
