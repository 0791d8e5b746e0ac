"""Denoisers that need no training: E[x0 | z] of a finite set of images, z = x0 + s n, r = ln 1/s^2.

    exact   softmax over whole images; the optimum of the training objective, which memorises
    local   the same over patches around each pixel (Kamb & Ganguli 2024, arXiv 2412.20292), each
            widened to a Gaussian, as a network that has not memorised them does not know them apart
    wiener  that of a Gaussian with the mean and covariance of the images

The first two are `Evidence`: sums over points, streamed in chunks, so that memory does not grow
with the number of images, and evidence of two sets merges into that of their mixture. One set of
inner products serves all noise levels.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Evidence(NamedTuple):
    """What a set of points says of noisy queries.

    R noise levels, L places (1 for whole images), Q queries, V values at a place.
    """

    log_z: jax.Array  # [R,L,Q], log of the sum of prior x likelihood, up to a query's constant
    mean: jax.Array  # [R,L,Q,V], posterior mean of the values
    peak: jax.Array  # [R,L,Q], the largest term of that sum, log


@jax.jit
def of_points(queries, noise, points, values, log_prior, excluded, logsnr, width):
    """The `Evidence` of one chunk of points, as the centres of Gaussians of variance width s^2.

    Args:
      queries, noise: clean features and standard normal noise, [L,Q,D].
      points: [L,P,D].
      values: what the posterior mean is taken of, [L,P,V].
      log_prior: [P]; -inf leaves a point out.
      excluded: bool [Q,P], pairs to be left out, as a query and its own image.
      logsnr: [R], nats.
      width: [R], of the Gaussians, in units of the noise's variance; 0 for the points themselves.

    Returns:
      `Evidence`.
    """
    with jax.default_matmul_precision("highest"):
        inner = jnp.einsum("lqd,lpd->lqp", queries, points)
        inner -= 0.5 * jnp.sum(points**2, -1)[:, None, :]
        drift = jnp.einsum("lqd,lpd->lqp", noise, points)
        prior = jnp.where(excluded, -jnp.inf, log_prior)

        def level(at):
            r, width = at
            logits = prior + (jnp.exp(r) * inner + jnp.exp(0.5 * r) * drift) / (1.0 + width)
            peak = logits.max(-1)
            shift = jnp.where(jnp.isfinite(peak), peak, 0.0)  # nothing but excluded points
            weights = jnp.exp(logits - shift[..., None])
            total = weights.sum(-1)
            mean = (
                jnp.einsum("lqp,lpv->lqv", weights, values) / jnp.maximum(total, 1e-30)[..., None]
            )
            return Evidence(shift + jnp.log(total), mean, peak)

        return jax.lax.map(level, (logsnr, width))


@jax.jit
def merge(a, b):
    """The `Evidence` of two sets of points together."""
    log_z = jnp.logaddexp(a.log_z, b.log_z)
    share = jnp.exp(b.log_z - log_z)[..., None]
    return Evidence(log_z, a.mean + share * (b.mean - a.mean), jnp.maximum(a.peak, b.peak))


@functools.partial(jax.jit, static_argnames="size")
def patches(images, places, size):
    """Square patches around pixels; what lies outside an image is 0.

    Args:
      images: [N,H,W,C].
      places: int [L,2], rows and columns.
      size: side in pixels, odd.

    Returns:
      [L,N,size*size*C].
    """
    half, (n, _, _, c) = size // 2, images.shape
    padded = jnp.pad(images, ((0, 0), (half, half), (half, half), (0, 0)))

    def cut(place):
        return jax.lax.dynamic_slice(
            padded, (0, place[0], place[1], 0), (n, size, size, c)
        ).reshape(n, -1)

    return jax.lax.map(cut, places)


class Sketch(NamedTuple):
    """A random linear map to few numbers that keeps squared lengths in the mean."""

    order: np.ndarray  # int [m,k], components that are added up to each of m numbers
    signs: np.ndarray  # float32 [m,k], +1 or -1, or 0 where m k is more than there are

    def __call__(self, x):
        """[..., D] -> [..., m]; squared lengths deviate by a share of sqrt(2 / m) at most."""
        return jnp.sum(x[..., self.order] * self.signs, -1)


def sketch(dimension, size, *, seed=0):
    """A `Sketch` of vectors of a dimension (Charikar et al. 2002); None if they are short enough.

    Every component goes, with a random sign, into one of `size` sums.
    """
    if dimension <= size:
        return None
    rng, each = np.random.default_rng(seed), -(-dimension // size)
    order = np.zeros(size * each, np.int32)
    signs = np.zeros(size * each, np.float32)
    order[:dimension] = rng.permutation(dimension)
    signs[:dimension] = rng.choice((-1.0, 1.0), dimension)
    return Sketch(order.reshape(each, size).T, signs.reshape(each, size).T)


def wiener_gap(base, other, logsnr):
    """E ||D_base(z) - D_other(z)||^2 of two Gaussians' posterior means, z drawn from the first.

    Args:
      base, other: (mean [D], covariance [D,D]) each, float64.
      logsnr: [R], nats.

    Returns:
      float64 [R], summed over the components.
    """
    (mean, cov), (other_mean, other_cov) = base, other
    # Each gain is diagonal in the eigenvectors of its covariance: two decompositions serve all
    # levels, and with C = (shares)^2 of one basis in the other, whose rows add up to 1,
    # E ||(G - G')(z - mean)||^2 = sum_ij C_ij (l_i + s^2) (g_i - g'_j)^2, without cancellation.
    (size, axes), (other_size, other_axes) = (np.linalg.eigh(c) for c in (cov, other_cov))
    size, other_size = np.maximum(size, 0.0), np.maximum(other_size, 0.0)
    shares = (axes.T @ other_axes) ** 2
    shift, gaps = (other_axes.T @ (other_mean - mean)) ** 2, []
    for variance in np.exp(-np.asarray(logsnr, np.float64)):
        gain, other_gain = size / (size + variance), other_size / (other_size + variance)
        apart = (gain[:, None] - other_gain) ** 2
        noise = np.sum(shares * apart * (size + variance)[:, None])
        gaps.append(noise + np.sum(((1.0 - other_gain) ** 2) * shift))
    return np.array(gaps)
