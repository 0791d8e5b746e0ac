"""The objective on images that were not augmented, of both splits: what curves and gaps show."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tada_jax.data.base import spread
from tada_jax.model import diffusion
from tada_jax.system import backend
from tada_jax.system.memo import Memo
from tada_jax.system.pixels import to_float
from tada_jax.training.step import EVALUATION, stream


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Squared errors of the target, a pixel, on images that were not augmented.

    Attributes:
      mse: float32 [n], of each noised image.
      logsnr: float64 [n], of its noise level, in nats.
      image: int [n], which image it was: there may be far fewer than n.
    """

    mse: np.ndarray
    logsnr: np.ndarray
    image: np.ndarray

    @property
    def mean(self):
        """Over the whole schedule."""
        return float(self.mse.mean())

    def by_image(self, where=slice(None)):
        """Mean loss of each image over its noisings, float64 [images]; `where` selects those."""
        _, image = np.unique(self.image[where], return_inverse=True)
        return np.bincount(image, self.mse[where].astype(np.float64)) / np.bincount(image)

    def by_logsnr(self, width=2.0, fewest=8):
        """Means over bins of log SNR: {centre of the bin: mean}, from noise to image.

        Bins are `width` nats wide, and one of them starts at 0; those with fewer examples than
        `fewest` are left out.
        """
        bins, counts = np.unique(np.floor(self.logsnr / width), return_counts=True)
        of = {b: self.mse[np.floor(self.logsnr / width) == b] for b in bins[counts >= fewest]}
        return {float((b + 0.5) * width): float(values.mean()) for b, values in of.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluate:
    """`evaluate(params, images, labels, count=None) -> Evaluation`.

    Attributes:
      program: (params, seed, images, labels, count) -> float32 [n], compiled.
      logsnr: float64 [n].
      seed: of the noise.
    """

    program: Callable[..., jax.Array]
    logsnr: np.ndarray
    seed: int

    @property
    def examples(self):
        """How many noised images are looked at; no image beyond it is needed."""
        return len(self.logsnr)

    def __call__(self, params, images, labels, count=None):
        """The `Evaluation` of uint8 images [N,H,W,C] and labels int32 [N] or None, on devices.

        Only the first `count` are looked at, if it is given: splits that are filled up to the same
        N share a program.
        """
        count = len(images) if count is None else count
        mse = self.program(params, np.uint32(self.seed), images, labels, np.int32(count))
        return Evaluation(jax.device_get(mse), self.logsnr, np.arange(self.examples) % count)


EXAMPLES = 1024  # that a run looks at in each split


def make_evaluation(parts, config, mesh, examples=None):
    """The `Evaluate` of a run, over all devices.

    The same noise, and timesteps spread evenly over the schedule, at every call, so that values at
    different steps compare. Images are used as often as it takes to see `examples` of them (None:
    `EXAMPLES`), rounded up to whole batches.
    """
    size, examples = config.train.batch_size, examples or EXAMPLES
    program, logsnr = _PROGRAMS.get(
        (parts, mesh, size, examples), lambda: _program(parts, mesh, size, examples)
    )
    return Evaluate(program, logsnr, config.seed)


def put_splits(dataset, examples, mesh, *, labelled):
    """The arguments after the parameters of an `Evaluate`, for each split that has images.

    Whole on every device, and of equal length, so that the splits share a program.

    Args:
      dataset: a `Dataset`.
      examples: how many noised images are looked at; no split needs more.
      mesh: of the devices.
      labelled: whether the network is told the classes.

    Returns:
      {"train", "test"} -> (images, labels or None, how many of them there are).
    """
    splits = {"train": dataset.train, "test": dataset.test}
    chosen = {
        name: spread(len(split.images), examples)
        for name, split in splits.items()
        if len(split.images)
    }
    longest = max(map(len, chosen.values()))
    put = {}
    for name, rows in chosen.items():
        split, filled = splits[name], np.resize(rows, longest)
        images = backend.put_whole(split.images[filled], mesh)
        labels = backend.put_whole(split.labels[filled] if labelled else None, mesh)
        put[name] = images, labels, len(rows)
    return put


_PROGRAMS = Memo()


def _program(parts, mesh, size, examples):
    """(program, log SNR of each example) of an `Evaluate` in batches of `size`."""
    batches = -(-examples // size)
    stride = next(s for s in itertools.count(61) if math.gcd(s, size * batches) == 1)
    schedule = parts.schedule
    # A stride coprime to the count visits every level once, unrelated to the image's number.
    levels = (np.arange(size * batches) * stride + 0.5) % (size * batches) / (size * batches)
    timesteps = np.asarray(schedule.quantile(levels)).reshape(batches, size)
    logsnr = np.asarray(schedule.logsnr(timesteps.reshape(-1)), np.float64)

    # Filled up so that it divides over any devices: what is seen does not depend on them.
    filled = np.arange(-(-size // mesh.size) * mesh.size) % size

    def batch_mse(params, seed, images, labels, count, i):
        number = i * size + jnp.asarray(filled)
        number = jax.lax.with_sharding_constraint(number, backend.over_batch(mesh))
        x0 = to_float(images[number % count])
        y = None if labels is None else labels[number % count]
        t = jnp.asarray(timesteps)[i][filled]
        rng = jax.random.fold_in(stream(seed, EVALUATION), i)
        eps = diffusion.normal(rng, (size, *x0.shape[1:]))
        eps = eps if len(filled) == size else eps[filled]
        z = diffusion.diffuse(x0, eps, schedule.alpha(t), schedule.sigma(t))
        output = parts.apply(params, z, t, y)
        terms = diffusion.training_losses(schedule, output, x0, eps, z, t, **parts.loss_options)
        return terms["mse"][:size]

    @functools.partial(jax.jit, out_shardings=backend.replicated(mesh))
    def all_batches(params, seed, images, labels, count):
        def one(i):
            return batch_mse(params, seed, images, labels, count, i)

        with backend.traced_for(mesh):
            return jax.lax.map(one, jnp.arange(batches)).reshape(-1)

    return all_batches, logsnr
