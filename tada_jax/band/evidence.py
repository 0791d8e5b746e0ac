"""What the profile of a data set compares: noised images, and the training set they come from.

Noised images (`Queries`) ask a training set (`Source`), streamed in chunks, what they were. Both
are looked at as whole images or as patches (`View`).
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tada_jax.augment import Policy, apply, draw
from tada_jax.band import posterior
from tada_jax.band.profile import ALL
from tada_jax.system.pixels import to_float

POINTS = 1024  # in a chunk of the sums


# How images are looked at


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """Whole images (size 0), or patches of `size` pixels around `places`.

    Attributes:
      size: side of the patches.
      places: int [L,2].
      mean: image that is subtracted first, [H,W,C]; distances do not change, rounding does.
      scale: of sums over the places, to those over all pixels.
      sketch: by which whole images are compared, or None.
    """

    size: int
    places: np.ndarray
    mean: np.ndarray
    scale: float = 1.0
    sketch: posterior.Sketch | None = None

    def features(self, images):
        """What distances are measured in: [N,H,W,C] -> [L,N,D]."""
        centred = images - self.mean
        if not self.size:
            return centred.reshape(1, len(images), -1)
        return posterior.patches(centred, self.places, self.size)

    def noise(self, noise):
        """Of the same components, for noise [N,H,W,C]."""
        if not self.size:
            return noise.reshape(1, len(noise), -1)
        return posterior.patches(noise, self.places, self.size)

    def values(self, images):
        """What is denoised: [N,H,W,C] -> [L,N,V]."""
        return self.noise_values(images - self.mean)

    def noise_values(self, noise):
        """The same components of noise [N,H,W,C]."""
        if self.size:
            return jnp.moveaxis(noise[:, self.places[:, 0], self.places[:, 1]], 1, 0)
        flat = noise.reshape(1, len(noise), -1)
        return flat if self.sketch is None else _sketched(self.sketch, flat)


@jax.jit
def _sketched(sketch, flat):
    return sketch(flat)


@jax.jit
def project(flat, matrix):
    """flat @ matrix, as exactly as the device can."""
    with jax.default_matmul_precision("highest"):
        return flat @ matrix


def moments(images, chunk=1024):
    """Mean and variance of each pixel of uint8 images, [H,W,C] float64, streamed; in [-1, 1]."""
    total, squares = np.zeros(images.shape[1:]), np.zeros(images.shape[1:])
    for start in range(0, len(images), chunk):
        x = to_float(images[start : start + chunk]).astype(np.float64)
        total += x.sum(0)
        squares += (x**2).sum(0)
    mean = total / len(images)
    return mean, np.maximum(squares / len(images) - mean**2, 0.0)


# Augmented copies


@dataclasses.dataclass(frozen=True, eq=False)
class Kind:
    """An augmentation of which copies are made.

    Attributes:
      name: `ALL` or an operation.
      policy: from which draws come.
      mask: float [k], of the operations' strengths.
      p: with what probability an image is augmented by it.
    """

    name: str
    policy: Policy
    mask: np.ndarray
    p: float


def kinds(policy):
    """The whole policy and each of its operations as `Kind`s.

    An operation apart fires as often as it does in the policy.
    """
    k = len(policy.ops)
    together = dataclasses.replace(policy, p=1.0) if policy.max_ops else policy
    found = [Kind(ALL, together, np.ones(k), float(policy.p) if policy.max_ops else 1.0)]
    apart = dataclasses.replace(policy, p=1.0, max_ops=None)
    fired = float(policy.p)
    if policy.max_ops:
        fired *= (1 + min(policy.max_ops, k)) / 2 / k
    return found + [Kind(op, apart, np.eye(k)[i], fired) for i, op in enumerate(policy.ops)]


@functools.partial(jax.jit, static_argnames="copies")
def _copies(key, numbers, images, w, policy, copies):
    """Augmented copies of images [B,H,W,C], and whether each is more than a flip of its original.

    Equal numbers of the images give equal draws, at every strength.

    Returns:
      (float [B*copies,H,W,C], bool [B*copies]).
    """

    def one(number, i, image):
        draws = draw(jax.random.fold_in(jax.random.fold_in(key, number), i), w, policy)
        flipped = apply(image, {"xflip": draws["xflip"]})
        moved = apply(image, draws)
        return moved, jnp.any(moved != flipped)

    # One vmap, not two: `resample` bounds the memory of the innermost only.
    numbers, number = jnp.repeat(numbers, copies), jnp.tile(jnp.arange(copies), len(images))
    return jax.vmap(one)(numbers, number, jnp.repeat(images, copies, 0))


# The training set in chunks


@dataclasses.dataclass(frozen=True, eq=False)
class Chunk:
    """Images of the training set, or copies of them.

    Attributes:
      images: float [P,H,W,C].
      log_prior: [P]; -inf where there is nothing.
      numbers: int [P], of the images that they are, or are copies of.
    """

    images: jax.Array
    log_prior: np.ndarray
    numbers: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A training set, and what is done to it.

    Attributes:
      images: uint8 [N,H,W,C].
      flip: probability of a mirror image, which belongs to the data.
      copies: augmented ones, of each image.
      key: of their draws.
      tick: called with the number of images that were gone through.
    """

    images: np.ndarray
    flip: float
    copies: int
    key: jax.Array
    tick: Callable[[int], None]

    def _in_parts(self, size):
        """(numbers, images, weights that sum to 1) of equal length; padded ones weigh nothing."""
        total = len(self.images)
        size = min(size, total)
        for start in range(0, total, size):
            numbers = np.arange(start, start + size)
            weights = (numbers < total) / total
            numbers = np.minimum(numbers, total - 1)
            yield numbers, jnp.asarray(to_float(self.images[numbers])), weights
            self.tick(int((weights > 0).sum()))

    def base(self):
        """The images as they are, with their mirror images if training flips them."""
        for numbers, images, weights in self._in_parts(POINTS // (2 if self.flip else 1)):
            if self.flip:
                images = jnp.concatenate([images, images[:, :, ::-1]])
                weights = np.concatenate([(1 - self.flip) * weights, self.flip * weights])
                numbers = np.concatenate([numbers, numbers])
            yield Chunk(images, _log(weights), numbers)

    def augmented(self, kind, w):
        """Copies that differ from their originals; their weights sum to the share that do."""
        strengths = jnp.asarray(w * kind.mask, jnp.float32)
        for numbers, images, weights in self._in_parts(max(1, POINTS // self.copies)):
            moved, changed = _copies(self.key, numbers, images, strengths, kind.policy, self.copies)
            weights = np.repeat(weights / self.copies, self.copies) * np.asarray(changed)
            yield Chunk(moved, _log(weights), np.repeat(numbers, self.copies))


def _log(weights):
    with np.errstate(divide="ignore"):
        return np.log(weights)


@dataclasses.dataclass(frozen=True, eq=False)
class Levels:
    """Some of the noise levels of a profile, [n] each.

    Attributes:
      index: which.
      logsnr: of them.
      width: variance of the points' Gaussians in units of the noise's.
    """

    index: np.ndarray
    logsnr: np.ndarray
    width: np.ndarray

    def arrays(self):
        """What `posterior.of_points` needs, float32."""
        return jnp.asarray(self.logsnr, jnp.float32), jnp.asarray(self.width, jnp.float32)

    def take(self, index):
        """Some of them."""
        return Levels(self.index[index], self.logsnr[index], self.width[index])


def sharp(logsnr):
    """All levels, and the points as points."""
    return Levels(np.arange(len(logsnr)), logsnr, np.zeros(len(logsnr)))


@dataclasses.dataclass(frozen=True, eq=False)
class Queries:
    """Images to noise and to denoise.

    Attributes:
      images: float [Q,H,W,C].
      noise: standard normal, the same at every level.
      left_out: int [Q], number of the training image that each must not be compared with, or -1.
    """

    images: np.ndarray
    noise: jax.Array
    left_out: np.ndarray

    def ask(self, chunks, views):
        """`Evidence` for each (view, `Levels`) of views, and the sum of the weights."""
        asked = [
            (view, at.arrays(), view.features(self.images), view.noise(self.noise))
            for view, at in views
        ]
        totals, weight = [None] * len(asked), 0.0
        for chunk in chunks:
            weight += float(np.exp(chunk.log_prior).sum())
            excluded = self.left_out[:, None] == chunk.numbers
            for i, (view, at, query, noise) in enumerate(asked):
                found = posterior.of_points(
                    query,
                    noise,
                    view.features(chunk.images),
                    view.values(chunk.images),
                    jnp.asarray(chunk.log_prior, jnp.float32),
                    excluded,
                    *at,
                )
                totals[i] = found if totals[i] is None else posterior.merge(totals[i], found)
        return totals, weight


def queries_of(images, count, key, *, leave_out):
    """Every so many-th image of uint8 images, as `Queries`."""
    count = min(count, len(images))
    numbers = np.arange(count) * len(images) // count
    query = to_float(images[numbers])
    noise = jax.random.normal(key, query.shape)
    return Queries(query, noise, numbers if leave_out else np.full(count, -1))
