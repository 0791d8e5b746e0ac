"""Reverse processes, each one `lax.scan` over the timesteps.

A sample depends on its own key only: its noise is drawn from that key and the step, never from the
batch, so batch size and device count do not matter. A shorter schedule (`schedule.respace`) makes
a shorter sampler.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tada_jax import diffusion
from tada_jax import schedule as schedules
from tada_jax.diffusion import expand

STREAM = 3  # of a seed: training has its own ones (`train.py`)


def sample_keys(seed, start, count):
    """Keys of the samples start .. start+count-1 of a seed, [count]."""
    root = jax.random.fold_in(jax.random.key(seed), STREAM)
    return jax.vmap(lambda i: jax.random.fold_in(root, i))(jnp.arange(start, start + count))


def _noise(keys, number, shape):
    """Noise [B,H,W,C] of each sample: number 0 is z_T, whatever the schedule; t + 1 is step t's."""
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, number), shape))(keys)


def _scan(reverse_step, schedule, keys, shape):
    """Runs z_T -> z_0 through reverse_step(z, t, noise), t int32 []."""

    def body(z, t):
        noise = _noise(keys, t + 1, shape)
        return reverse_step(z, jnp.broadcast_to(t, keys.shape), noise), None

    z = _noise(keys, 0, shape)
    z, _ = jax.lax.scan(body, z, jnp.arange(len(schedule) - 1, -1, -1))
    return z


def _predict_x0(predict, schedule, z, t, parameterisation, variance, clip_x0):
    """x0_hat and the variance part of the output at step t of a (respaced) schedule."""
    output = predict(z, jnp.asarray(schedule.timesteps)[t])
    prediction, variance_output = diffusion.split_output(output, variance)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x0 = diffusion.predicted_x0(parameterisation, prediction, z, alpha, sigma)
    return jnp.clip(x0, -1.0, 1.0) if clip_x0 else x0, variance_output


def ddpm(
    predict, keys, *, schedule, shape, parameterisation="eps", variance="fixed_large", clip_x0=True
):
    """Ancestral sampling (DDPM, algorithm 2), with any of the model's variances.

    Args:
      predict: (z [B,H,W,C], t int32 [B]) -> network output; t are the original timesteps.
      keys: typed keys [B], one a sample.
      schedule: the `Schedule` to walk down, respaced or not.
      shape: (H, W, C).
      parameterisation, variance: what `predict` returns.
      clip_x0: clip x0_hat to [-1, 1].

    Returns:
      Samples [B,H,W,C], float32.
    """

    def reverse_step(z, t, noise):
        x0, variance_output = _predict_x0(
            predict, schedule, z, t, parameterisation, variance, clip_x0
        )
        mean = diffusion.posterior_mean(schedule, x0, z, t)
        log_variance = diffusion.model_log_variance(schedule, variance, variance_output, z, t)
        return mean + expand((t > 0).astype(z.dtype), z) * jnp.exp(0.5 * log_variance) * noise

    return _scan(reverse_step, schedule, keys, shape)


def ddim(
    predict,
    keys,
    *,
    schedule,
    shape,
    eta=0.0,
    parameterisation="eps",
    variance="fixed_large",
    clip_x0=True,
):
    """DDIM (Song et al. 2021, eq. 12); eta = 0 is deterministic given z_T.

    eta = 1 on the full schedule is ancestral sampling with the small variance. Arguments as `ddpm`;
    a learned variance is ignored.
    """

    def reverse_step(z, t, noise):
        x0, _ = _predict_x0(predict, schedule, z, t, parameterisation, variance, clip_x0)
        at = lambda table: expand(schedules.lookup(table, t), z)  # noqa: E731
        alpha, sigma, beta = schedule.alpha(t), schedule.sigma(t), at(schedule.betas)
        eps = diffusion.predicted_eps("x0", x0, z, alpha, sigma)  # that of the clipped x0_hat
        alpha_prev = at(np.sqrt(schedule.alpha_bar_prev))
        sigma_prev = at(np.sqrt(1.0 - schedule.alpha_bar_prev))
        share = eta**2 * beta / expand(sigma, z) ** 2  # of sigma_prev^2 that is fresh noise
        towards = sigma_prev * jnp.sqrt(jnp.maximum(1.0 - share, 0.0))
        return alpha_prev * x0 + towards * eps + sigma_prev * jnp.sqrt(share) * noise

    return _scan(reverse_step, schedule, keys, shape)


SAMPLERS = {"ddpm": ddpm, "ddim": ddim}


def to_uint8(x):
    """Float images in [-1, 1] -> uint8, clipped and rounded."""
    return jnp.round(jnp.clip(x * 127.5 + 127.5, 0.0, 255.0)).astype(jnp.uint8)
