"""Two trained networks: on what noise levels they disagree, and what comes of it (paper, Fig. 1).

One was trained on the images, the other on augmented ones. `gap` is the paper's first experiment:
both denoise the same noised images at every level. `exchange` is its second: a sample is drawn by
one of them, but inside an interval of noise levels by the other.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tada_jax.band.profile import ALL, Curve, Profile
from tada_jax.model import diffusion, unet
from tada_jax.model.sampler import make_sampler
from tada_jax.system.errors import UserError
from tada_jax.system.pixels import to_float, to_uint8
from tada_jax.training.run import Run


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two `run.Run`s with the same network and the same noise schedule.

    Raises:
      UserError: if they differ in anything but their parameters.
    """

    base: Run
    augmented: Run

    def __post_init__(self):
        here, there = self.base, self.augmented
        for section in ("schedule", "diffusion", "model", "augment"):
            if here.config[section].to_dict() != there.config[section].to_dict():
                raise UserError(
                    f"{here.workdir} and {there.workdir} differ in config.{section}: two networks "
                    "can be compared only if they were trained alike but for config.method"
                )
        if here.parts.image_shape != there.parts.image_shape:
            raise UserError(f"{here.workdir} and {there.workdir} draw images of different shapes")
        if here.meta.get("image_digest") != there.meta.get("image_digest"):
            raise UserError(
                f"{here.workdir} and {there.workdir} were trained on different images: two "
                "networks can be compared only if they were trained alike but for config.method"
            )

    @property
    def parts(self):
        """Of both, as far as samples go: nobody is told of an augmentation."""
        network = self.base.parts.network.clone(condition_size=0)
        return dataclasses.replace(self.base.parts, network=network)

    @property
    def params(self):
        """(base, augmented): those that are sampled."""
        both = self.base.sampled_params, self.augmented.sampled_params
        return tuple(unet.with_condition(params, None) for params in both)


# The paper's first experiment


@dataclasses.dataclass(frozen=True, eq=False)
class Gap:
    """What two networks make of the same noised images; [R] each.

    Attributes:
      logsnr: native log SNR, ascending, nats.
      base, augmented: {distance: mean distance of x0_hat from x0}.
      curve: K and V of the difference of their x0_hat.
      images: how many.
    """

    logsnr: np.ndarray
    base: dict[str, np.ndarray]
    augmented: dict[str, np.ndarray]
    curve: Curve
    images: int

    def profile(self):
        """The same as a `profile.Profile`, for its band."""
        about = {"images": self.images, "queries": self.images, "copies": 0, "seconds": 0.0}
        return Profile(self.logsnr, (1.0,), {(ALL, 1.0): self.curve}, "trained", about=about)


def pixel_distance(a, b):
    """Root mean square difference of float images [N,H,W,C], [N]."""
    return np.sqrt(np.square(a - b).mean((1, 2, 3)))


def feature_distance(extractor, mesh):
    """Euclidean distance of the features of a `metrics.features.Extractor`, as `pixel_distance`."""

    def features(x):
        return extractor(to_uint8(x), mesh)

    return lambda a, b: np.linalg.norm(features(a) - features(b), axis=-1)


def denoiser(parts, batch=64):
    """`x0_hat(params, images, noise, labels, t)`: float [N,H,W,C] on the host, of the timestep t.

    Clipped to [-1, 1], as the samplers do.
    """
    options = parts.loss_options

    @jax.jit
    def some(params, images, noise, labels, t):
        t = jnp.full(len(images), t)
        alpha, sigma = parts.schedule.alpha(t), parts.schedule.sigma(t)
        z = diffusion.diffuse(images, noise, alpha, sigma)
        output = parts.apply(params, z, t, labels)
        prediction, _ = diffusion.split_output(output, options["variance"])
        x0 = diffusion.predicted_x0(
            options["parameterisation"],
            prediction,
            z,
            alpha,
            sigma,
            sigma_data=options["sigma_data"],
        )
        return jnp.clip(x0, -1.0, 1.0)

    def x0_hat(params, images, noise, labels, t):
        found, size = [], min(batch, len(images))
        for start in range(0, len(images), size):
            chosen = np.minimum(np.arange(start, start + size), len(images) - 1)
            own = None if labels is None else labels[chosen]
            found.append(np.asarray(some(params, images[chosen], noise[chosen], own, t)))
        return np.concatenate(found)[: len(images)]

    return x0_hat


def gap(pair, images, labels, logsnr, variance, *, distances=None, seed=0):
    """How far the two networks' denoised images lie from the clean ones, and from each other.

    Args:
      pair: a `Pair`.
      images: uint8 [N,H,W,C].
      labels: int [N] for conditional networks, else None.
      logsnr: levels [R]; the nearest timesteps are taken, and levels beyond the schedule left out.
      variance: total variance of the images, for V.
      distances: {name: (float images, float images) -> [N]}; by default "pixel".
      seed: of the noise.

    Returns:
      A `Gap`.
    """
    distances = distances or {"pixel": pixel_distance}
    steps, levels = pair.parts.schedule.nearest(logsnr)
    x, x0_hat = to_float(np.asarray(images)), denoiser(pair.parts)
    noise = np.asarray(jax.random.normal(jax.random.key(seed), x.shape))
    labels = labels if pair.parts.network.num_classes else None
    apart, far = [], {name: ([], []) for name in distances}
    for t in steps:
        hats = [x0_hat(params, x, noise, labels, t) for params in pair.params]
        apart.append(np.square(hats[0] - hats[1]).sum((1, 2, 3), dtype=np.float64))
        for name, distance in distances.items():
            for found, hat in zip(far[name], hats):
                found.append(distance(hat, x).mean())
    mean, error = np.mean(apart, 1), np.std(apart, 1, ddof=1) / np.sqrt(len(x))
    half_snr = 0.5 * np.exp(levels)
    curve = Curve(half_snr * mean, half_snr * error, mean / variance, error / variance)
    base, augmented = ({name: np.array(far[name][i]) for name in far} for i in (0, 1))
    return Gap(levels, base, augmented, curve, len(x))


# The paper's second experiment


@dataclasses.dataclass(frozen=True)
class Exchange:
    """Samples of one network, of which the other drew an interval of noise levels.

    Attributes:
      outside: "base" or "augmented", the network that drew the rest.
      low, high: the interval [low, high) in native log SNR.
      leak: `metrics.leakage.Leak` of the samples, or None.
      fd: their Frechet distance to held-out images.
      moved: root mean square difference from the samples of `outside` alone, in [-1, 1].
    """

    outside: str
    low: float
    high: float
    leak: Any
    fd: float
    moved: float


def make_exchange(pair, mesh, *, batch_size):
    """`draw(outside, low, high, count, seed)` -> uint8 images; compiled once for all intervals.

    Args of draw: `outside`, "base" or "augmented", draws every step but those with
    low <= log SNR < high, which the other network draws; count and seed of the samples.
    """
    schedule = pair.parts.schedule

    def apply(state, z, t, labels):
        (outside, inside), low, high = state
        r = schedule.logsnr(t[0])
        params = jax.lax.cond((low <= r) & (r < high), lambda: inside, lambda: outside)
        return pair.parts.apply(params, z, t, labels)

    sampler = make_sampler(pair.parts, mesh, batch_size=batch_size, apply=apply)
    params = dict(zip(("base", "augmented"), pair.params))
    other = {"base": "augmented", "augmented": "base"}

    def draw(outside, low, high, count, seed):
        both = params[outside], params[other[outside]]
        state = (both, np.float32(low), np.float32(high))
        return sampler(state, range(count), seed=seed)

    return draw


def exchange(draw, judge, intervals, count, seed, say=None):
    """Exchanges the networks inside each interval, in both directions, and measures the samples.

    Args:
      draw: of `make_exchange`.
      judge: a `judge.Judge`.
      intervals: (low, high) each; an empty one (low = high) leaves the outside network alone.
      count: samples of each.
      seed: of the samples, the same for all.
      say: called with a line of text about each.

    Returns:
      ([Exchange], {(outside, low, high): the first 16 samples, uint8}).
    """
    found, pictures = [], {}
    for outside in ("base", "augmented"):
        alone = draw(outside, 0.0, 0.0, count, seed)
        for low, high in intervals:
            images = alone if low == high else draw(outside, low, high, count, seed)
            moved = np.sqrt(np.square((images.astype(np.float32) - alone) / 127.5).mean())
            seen = judge.glance(images)
            found.append(Exchange(outside, low, high, judge.leak(images), seen["fd"], float(moved)))
            pictures[outside, low, high] = images[:16]
            if say:
                leak = "" if found[-1].leak is None else f", leak [%] {found[-1].leak.text}"
                say(f"{outside} but for [{low:g}, {high:g}): moved by {moved:.3f}{leak}")
    return found, pictures
