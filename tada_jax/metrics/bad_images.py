"""Images that are neither real nor augmented: what bad samples of a diffusion model look like.

The leak classifier learns them as a class of their own, so that "augmented" is not its word for
whatever is not real. Each goes from an image some way towards something that is no image of the
data: by the length that the augmentation moves that very image, and up to four times that, so that
the distance alone tells nothing. Images are float32 [B,H,W,C] in [-1, 1].
"""

import jax
import jax.numpy as jnp

FARTHEST_LOG2 = 2.0  # of the length of the augmentation's own move: up to four times that
BLURS = (0.5, 4.0)  # standard deviation of the blur in pixels, log-uniform ...
BLURS_SIDE = 16  # ... for images of this side, and in proportion for others
KINDS = 8
WARPS = (0.02, 0.12)  # sides, standard deviation of the displacement, log-uniform
WARP_CELLS = 4  # random displacements along a side, smooth between them


def corrupt(rng, x, distance):
    """Corrupts a batch, each image in one of eight ways.

    Noise; blur; half denoised, that is noised and then blurred; mixed with another image of the
    batch, by at most a half; towards noise of the data's own power spectrum about their mean, the
    sample of a network that knows nothing but the covariance; and, sharp but wrong, warped by a
    smooth random displacement, as shapes are that were not learnt to the end; or a collage of four
    images about a random point, or of one image's own parts in another place.

    Args:
      rng: a typed key.
      x: images [B,H,W,C], B at least 2.
      distance: float [B], Euclidean, how far the augmentation moves each of them.

    Returns:
      [B,H,W,C], not clipped.
    """
    rng_kind, rng_noise, rng_blur, rng_far, rng_cut = jax.random.split(rng, 5)
    n = len(x)
    kind = jax.random.randint(rng_kind, (n,), 0, KINDS)
    noise = jax.random.normal(rng_noise, x.shape)
    low, high = (s * min(x.shape[1:3]) / BLURS_SIDE for s in BLURS)
    sigma = low * (high / low) ** jax.random.uniform(rng_blur, (n,))
    other = jnp.roll(x, 1, axis=0)
    ends = jnp.stack(
        [
            x + noise,
            blurred(x, sigma),
            blurred(x + noise, sigma),
            other,
            _of_spectrum(x, noise),
            _warped(rng_cut, x),
            *(_collage(rng_cut, x, apart) for apart in (1, 0)),
        ]
    )
    most = jnp.asarray([jnp.inf, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0])[kind]  # of the way
    least = (kind >= KINDS - 3).astype(jnp.float32)  # the sharp ones are no mixtures
    way = ends[kind, jnp.arange(n)] - x
    length = jnp.sqrt((way**2).sum((1, 2, 3)))
    far = distance * jnp.exp2(FARTHEST_LOG2 * jax.random.uniform(rng_far, (n,)))
    share = jnp.maximum(jnp.minimum(far / jnp.maximum(length, 1e-6), most), least)
    return x + share[:, None, None, None] * way


def blurred(x, sigma):
    """Images [B,H,W,C] under a Gaussian blur of `sigma` [B] pixels, edges mirrored."""
    for axis in (1, 2):
        place = jnp.arange(x.shape[axis])
        apart = place[:, None] - place
        mirrored = (place[:, None] + place + 1, 2 * x.shape[axis] - 1 - place[:, None] - place)
        weights = sum(
            jnp.exp(-0.5 * (d / sigma[:, None, None]) ** 2) for d in (apart, *mirrored)
        )  # [B,size,size], a row for each pixel of the result
        weights /= weights.sum(-1, keepdims=True)
        x = _along(weights, x, axis)
    return x


def _along(weights, x, axis):
    """Applies weights [B,size,size] to one axis of images [B,H,W,C]."""
    return jnp.einsum("bij,bjwc->biwc" if axis == 1 else "bij,bhjc->bhic", weights, x)


def _of_spectrum(x, noise):
    """Gaussian noise of the batch's power spectrum, in each channel, about its mean."""
    mean = x.mean(0)
    power = (jnp.abs(jnp.fft.rfft2(x - mean, axes=(1, 2))) ** 2).mean(0)
    amplitude = jnp.sqrt(power / (x.shape[1] * x.shape[2]))
    coloured = jnp.fft.irfft2(
        amplitude * jnp.fft.rfft2(noise, axes=(1, 2)), s=x.shape[1:3], axes=(1, 2)
    )
    return mean + coloured


def _warped(rng, x):
    """Images [B,H,W,C] whose pixels are moved by a smooth random field, edges mirrored."""
    n, h, w, _ = x.shape
    rng_size, rng_field = jax.random.split(rng)
    low, high = WARPS
    size = low * (high / low) ** jax.random.uniform(rng_size, (n, 1, 1))
    coarse = jax.random.normal(rng_field, (2, n, WARP_CELLS, WARP_CELLS))
    field = jax.image.resize(coarse, (2, n, h, w), "cubic")
    rows = jnp.arange(h)[:, None] + h * size * field[0]
    columns = jnp.arange(w) + w * size * field[1]

    def one(image, i, j):
        def plane(c):
            return jax.scipy.ndimage.map_coordinates(c, [i, j], order=1, mode="mirror")

        return jax.vmap(plane, in_axes=-1, out_axes=-1)(image)

    return jax.vmap(one)(x, rows, columns)


def _collage(rng, x, apart):
    """Four quadrants about a random point, each of an image moved round by a random offset.

    Args:
      rng: a typed key.
      x: [B,H,W,C].
      apart: how far apart in the batch the images of neighbouring quadrants stand; 0: one image.
    """
    n, h, w, _ = x.shape
    rng_cut, rng_move = jax.random.split(rng)
    cut = jax.random.uniform(rng_cut, (2, n), minval=0.3, maxval=0.7)
    low = jnp.arange(h) > cut[0, :, None] * h
    right = jnp.arange(w) > cut[1, :, None] * w
    quadrant = (2 * low[:, :, None] + right[:, None, :])[..., None]
    offset = jax.random.uniform(rng_move, (4, 2, n), minval=0.25, maxval=0.75)
    collage = jnp.zeros_like(x)
    for q in range(4):
        rows, columns = (
            (jnp.arange(side) + jnp.floor(part[:, None] * side).astype(int)) % side
            for side, part in zip((h, w), offset[q])
        )
        source = jnp.roll(x, apart * q, axis=0)
        moved = jax.vmap(lambda image, i, j: image[i][:, j])(source, rows, columns)
        collage = jnp.where(quadrant == q, moved, collage)
    return collage
