"""Reverse processes, each one `lax.scan` over the timesteps.

A sample depends on its own key only: its noise is drawn from that key and the step, never from the
batch, so batch size and device count do not matter. A shorter schedule (`schedule.respace`) makes
a shorter sampler. `docs/sampling.md` says which to choose.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tada_jax.model import diffusion
from tada_jax.model import schedule as schedules
from tada_jax.model.diffusion import expand

STREAM = 3  # of a seed: training has its own ones (`train.py`)


def sample_keys(seed, numbers):
    """Keys of the samples of a seed with the given numbers, int32 [n]; both may be traced."""
    root = jax.random.fold_in(jax.random.key(seed), STREAM)
    return jax.vmap(lambda i: jax.random.fold_in(root, i))(numbers)


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


def guided(predict, guidance, variance):
    """Classifier-free guidance (Ho & Salimans 2022) of a conditional network.

    The prediction is free + guidance (conditional - free): 1 is the conditional one, 0 that without
    a class. It is the same in every parameterisation; a learned variance is the conditional one's,
    without guidance that of whoever predicts.

    Args:
      predict: (z [B,H,W,C], t [B], labels int [B]) -> network output.
      guidance: a number.
      variance: as of `diffusion.split_output`.

    Returns:
      A function like `predict`.
    """

    def apply(z, t, labels):
        def twice(a):
            return jnp.concatenate([a, a])

        output = predict(twice(z), twice(t), jnp.concatenate([labels, jnp.full_like(labels, -1)]))
        conditional, free = jnp.split(output, 2)
        prediction, variance_part = diffusion.split_output(conditional, variance)
        free, _ = diffusion.split_output(free, variance)
        mixed = free + guidance * (prediction - free)
        return mixed if variance_part is None else jnp.concatenate([mixed, variance_part], -1)

    if guidance == 0:
        return lambda z, t, labels: predict(z, t, jnp.full_like(labels, -1))
    return predict if guidance == 1 else apply


class Reading(NamedTuple):
    """What a network's output means.

    Attributes:
      parameterisation, variance: see `diffusion.PARAMETERISATIONS` and `diffusion.VARIANCES`.
      sigma_data: of the parameterisation "edm".
      clip_x0: clip x0_hat to [-1, 1].
    """

    parameterisation: str = "eps"
    variance: str = "fixed_large"
    sigma_data: float = 0.5
    clip_x0: bool = True


def _predict_x0(predict, schedule, z, t, reading):
    """x0_hat and the variance part of the output at step t of a (respaced) schedule."""
    output = predict(z, jnp.asarray(schedule.timesteps)[t])
    prediction, variance_output = diffusion.split_output(output, reading.variance)
    x0 = diffusion.predicted_x0(
        reading.parameterisation,
        prediction,
        z,
        schedule.alpha(t),
        schedule.sigma(t),
        sigma_data=reading.sigma_data,
    )
    return jnp.clip(x0, -1.0, 1.0) if reading.clip_x0 else x0, variance_output


def ddpm(predict, keys, *, schedule, shape, **reading):
    """Ancestral sampling (DDPM, algorithm 2), with any of the model's variances.

    Args:
      predict: (z [B,H,W,C], t [B]) -> network output; t are the schedule's `timesteps`.
      keys: typed keys [B], one a sample.
      schedule: the `Schedule` to walk down, respaced or not.
      shape: (H, W, C).
      **reading: fields of `Reading`, what `predict` returns.

    Returns:
      Samples [B,H,W,C], float32.
    """
    reading = Reading(**reading)

    def reverse_step(z, t, noise):
        x0, variance_output = _predict_x0(predict, schedule, z, t, reading)
        mean = diffusion.posterior_mean(schedule, x0, z, t)
        log_variance = diffusion.model_log_variance(
            schedule, reading.variance, variance_output, z, t
        )
        return mean + expand((t > 0).astype(z.dtype), z) * jnp.exp(0.5 * log_variance) * noise

    return _scan(reverse_step, schedule, keys, shape)


def ddim(predict, keys, *, schedule, shape, eta=0.0, **reading):
    """DDIM (Song et al. 2021, eq. 12); eta = 0 is deterministic given z_T.

    eta = 1 on the full schedule is ancestral sampling with the small variance; eta = 0 down the
    times of rectified flow is Euler's method for it. Arguments as `ddpm`; a learned variance is
    ignored.
    """
    reading = Reading(**reading)

    def reverse_step(z, t, noise):
        x0, _ = _predict_x0(predict, schedule, z, t, reading)

        def at(table):
            return expand(schedules.lookup(table, t), z)

        alpha, sigma, beta = schedule.alpha(t), schedule.sigma(t), at(schedule.betas)
        eps = diffusion.predicted_eps("x0", x0, z, alpha, sigma)  # that of the clipped x0_hat
        alpha_prev = at(np.sqrt(schedule.alpha_bar_prev))
        sigma_prev = at(np.sqrt(1.0 - schedule.alpha_bar_prev))
        share = eta**2 * beta / expand(sigma, z) ** 2  # of sigma_prev^2 that is fresh noise
        towards = sigma_prev * jnp.sqrt(jnp.maximum(1.0 - share, 0.0))
        return alpha_prev * x0 + towards * eps + sigma_prev * jnp.sqrt(share) * noise

    return _scan(reverse_step, schedule, keys, shape)


# Second-order solvers of the probability-flow ODE, which in lambda = ln(alpha / sigma) reads
# d(z / alpha)/d lambda = x0_hat - z / alpha. Its linear part is solved exactly, so that they
# are walks, one row a network evaluation,
#   z <- keep z + new x0_hat(z, t) + last (the x0_hat of the row before),
# with coefficients of the order of 1 even where alpha is tiny.


class _Rows(NamedTuple):
    """What each evaluation does, in order; arrays [evaluations], coefficients float64."""

    t: np.ndarray  # step of the (respaced) schedule at which the network is asked
    keep: np.ndarray
    new: np.ndarray
    last: np.ndarray


def _walk(predict, keys, rows, *, schedule, shape, start=1.0, **reading):
    """Runs z_T -> z_0 through the rows, from noise times `start`; float32 [B,H,W,C]."""
    reading = Reading(**reading)

    def body(carry, row):
        z, last = carry
        t = jnp.broadcast_to(row.t, keys.shape)
        x0, _ = _predict_x0(predict, schedule, z, t, reading)
        return (row.keep * z + row.new * x0 + row.last * last, x0), None

    rows = _Rows(jnp.asarray(rows.t), *(jnp.asarray(c, jnp.float32) for c in rows[1:]))
    z = _noise(keys, 0, shape) * start
    (z, _), _ = jax.lax.scan(body, (z, jnp.zeros_like(z)), rows)
    return z


def _first_order(schedule):
    """keep and new, float64 [T], of the step t -> t-1 under a constant x0_hat, which is DDIM's.

    At t = 0 they are 0 and 1: the step to sigma = 0 returns x0_hat.
    """
    keep = np.sqrt((1.0 - schedule.alpha_bar_prev) / (1.0 - schedule.alpha_bar))
    return keep, np.sqrt(schedule.alpha_bar_prev) - np.sqrt(schedule.alpha_bar) * keep


def _step_lengths(schedule):
    """Float64 [T-1]: element t is the length in lambda of the step t+1 -> t."""
    return -np.diff(schedule.log_snr_table) / 2.0


def _dpmpp_2m_rows(schedule):
    """x0_hat is extrapolated linearly to the middle, in lambda, of each step.

    Not so in the first step and in the one to sigma = 0; nor in the step to t = 0 where it is a
    leap, more than twice as long as the step before. There x0_hat settles exponentially, so that a
    line through its last change overshoots, and nothing after it makes up for that; and a single
    step of first order leaves the order of the whole as it is.
    """
    keep, new = _first_order(schedule)
    h = _step_lengths(schedule)
    ahead = np.zeros(len(schedule))
    ahead[1:-1] = h[:-1] / (2.0 * h[1:])
    if ahead[1:2] > 1.0:
        ahead[1] = 0.0
    t = np.arange(len(schedule))[::-1]
    return _Rows(t, keep[t], (new * (1.0 + ahead))[t], (-new * ahead)[t])


def dpmpp_2m(predict, keys, *, schedule, shape, **reading):
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2): one evaluation a step.

    Second order; the first step and the last, to sigma = 0, are DDIM's, and so is the one before
    where it is more than twice as long as its predecessor. Deterministic given z_T. Arguments as
    `ddpm`; a learned variance is ignored.
    """
    rows = _dpmpp_2m_rows(schedule)
    return _walk(predict, keys, rows, schedule=schedule, shape=shape, **reading)


def _exponential(h):
    """What a change of x0_hat by 1, linear in lambda over a step h, adds to z / alpha."""
    return (h + np.expm1(-h)) / h


def _trapezoidal(h):
    """The same where dy / d sigma = (y - x0_hat) / sigma, y = z / alpha, is averaged instead."""
    return np.expm1(h) / 2.0


def _heun_rows(schedule, slope):
    """A first-order step t+1 -> t and its correction at t, by turns; at last one to sigma = 0."""
    keep, new = _first_order(schedule)
    slope = np.sqrt(schedule.alpha_bar[:-1]) * slope(_step_lengths(schedule))
    t = np.arange(len(schedule))[::-1].repeat(2)[1:]
    rows = _Rows(t, *np.zeros((3, len(t))))
    rows.keep[0::2], rows.new[0::2] = keep[::-1], new[::-1]
    rows.keep[1::2], rows.new[1::2], rows.last[1::2] = 1.0, slope[::-1], -slope[::-1]
    return rows


def heun(predict, keys, *, schedule, shape, **reading):
    """Heun's method with the linear part solved exactly (ETD2RK, Cox & Matthews 2002).

    Second order, without a history: two evaluations a step, one in the last, to sigma = 0.
    Deterministic given z_T. Arguments as `ddpm`; a learned variance is ignored.
    """
    rows = _heun_rows(schedule, _exponential)
    return _walk(predict, keys, rows, schedule=schedule, shape=shape, **reading)


def edm_heun(predict, keys, *, schedule, shape, **reading):
    """EDM's Heun, without fresh noise (Karras et al. 2022, algorithm 1).

    It starts at y = sigma_max n, which is noise alone, so at z_T = sigma_T n; the other samplers
    start at the variance of z_T, 1.

    It has the variables z / alpha and sigma / alpha, where corrections grow like exp(h) with the
    step h in lambda: good down EDM's own levels, but few steps down a schedule that begins far
    above its sigma of 80 end in noise (`benchmarks/solvers.py`). Otherwise as `heun`.
    """
    rows = _heun_rows(schedule, _trapezoidal)
    start = float(np.sqrt(1.0 - schedule.alpha_bar[-1]))
    return _walk(predict, keys, rows, schedule=schedule, shape=shape, start=start, **reading)


SAMPLERS = {
    "ddpm": ddpm,
    "ddim": ddim,
    "dpmpp_2m": dpmpp_2m,
    "heun": heun,
    "edm_heun": edm_heun,
}

EVALUATIONS = {"heun": 2, "edm_heun": 2}  # of the network in a step, where it is not one


# The best stride of each sampler (`docs/sampling.md`); that of EDM's Heun is EDM's grid.
BEST_STRIDES = {
    "ddpm": "even",
    "ddim": "even",
    "dpmpp_2m": "tapered",
    "heun": "tapered",
    "edm_heun": "even",
}


def stride_for(sampler, stride):
    """The stride of a walk: "auto" stands for the sampler's best, any other for itself."""
    return BEST_STRIDES[sampler] if stride == "auto" else stride
