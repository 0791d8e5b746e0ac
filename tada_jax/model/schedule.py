"""Noise schedules: tables over the discrete timesteps t = 0 .. T-1, and log SNR to time and back.

z_t = alpha_t x_0 + sigma_t eps with alpha^2 + sigma^2 = 1. Tables are made in float64 with numpy,
once; what a jitted function looks up is their float32 copy. t = 0 is the least noisy step.

What training and sampling ask of a schedule is also answered by those of `continuous.py`:
`draw`, `quantile`, `logsnr`, `alpha`, `sigma`, `time`, `network_time`, `input_scale`, `walk`,
`nearest` and `ends`.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """A discrete noise schedule.

    Attributes:
      alpha_bar: float64 [T], the signal power alpha_t^2, strictly decreasing in t.
      timesteps: [T], the t that the network is asked at in each step: 0 .. T-1 for a full schedule,
        a subset of the original indices for a respaced one; float32 for one of continuous time.
      total_timesteps: T of the schedule that the network was trained with.
      rescaled: whether the network is told t as if there were 1,000 timesteps.
    """

    alpha_bar: np.ndarray
    timesteps: np.ndarray
    total_timesteps: int
    rescaled: bool = False

    def __len__(self):
        return len(self.alpha_bar)

    # Float64 tables [T].

    @functools.cached_property
    def alpha_bar_prev(self):
        """Signal power of the next cleaner step; 1 before t = 0."""
        return np.append(1.0, self.alpha_bar[:-1])

    @functools.cached_property
    def betas(self):
        """Variance that the step t-1 -> t adds, 1 - alpha_bar / alpha_bar_prev."""
        return 1.0 - self.alpha_bar / self.alpha_bar_prev

    @functools.cached_property
    def log_snr_table(self):
        """ln(alpha^2 / sigma^2)."""
        return np.log(self.alpha_bar) - np.log1p(-self.alpha_bar)

    @functools.cached_property
    def posterior_variance(self):
        """Variance of q(z_{t-1} | z_t, x_0) (DDPM, eq. 7); 0 at t = 0."""
        return self.betas * (1.0 - self.alpha_bar_prev) / (1.0 - self.alpha_bar)

    @functools.cached_property
    def posterior_log_variance(self):
        """Its log, with the infinite first element replaced by the second (Improved DDPM)."""
        return np.log(np.append(self.posterior_variance[1], self.posterior_variance[1:]))

    @functools.cached_property
    def posterior_mean_x0(self):
        """Coefficient of x_0 in the mean of q(z_{t-1} | z_t, x_0)."""
        return self.betas * np.sqrt(self.alpha_bar_prev) / (1.0 - self.alpha_bar)

    @functools.cached_property
    def posterior_mean_z(self):
        """Coefficient of z_t in the mean of q(z_{t-1} | z_t, x_0)."""
        return (1.0 - self.alpha_bar_prev) * np.sqrt(1.0 - self.betas) / (1.0 - self.alpha_bar)

    @functools.cached_property
    def fixed_large_log_variance(self):
        """log beta_t, with element 0 taken from the posterior so that the likelihood is finite."""
        return np.log(np.append(self.posterior_variance[1], self.betas[1:]))

    # Training: which timesteps, and what the network is told of them.

    def draw(self, rng, count):
        """Timesteps of training examples: uniform, int32 [count]."""
        return jax.random.randint(rng, (count,), 0, len(self))

    def quantile(self, u):
        """The timesteps below which a share u of the drawn ones lies, [n] -> int32 [n]."""
        u = u if isinstance(u, jax.Array) else np.asarray(u)
        return (u * len(self)).astype(np.int32)

    def network_time(self, t):
        """What the network is told: t itself, or t 1000 / T, float32."""
        return jnp.float32(1000.0 / self.total_timesteps) * t if self.rescaled else t

    def input_scale(self, t):
        """By which z_t is multiplied before the network sees it: 1, float32 [B]."""
        return jnp.ones(t.shape)

    # Sampling: which timesteps.

    def walk(self, steps, *, stride="even", side=None):
        """The shorter schedule of a sampler, see `respace`."""
        return respace(self, steps, stride=stride, side=side)

    def nearest(self, logsnr):
        """The timesteps nearest to some levels [R]; those beyond the ends are left out.

        Returns:
          (t int32 [n], their log SNR float64 [n]), in the order of ascending log SNR, each once.
        """
        low, high = self.ends
        inside = [r for r in logsnr if low <= r <= high]
        t = np.unique([np.abs(self.log_snr_table - r).argmin() for r in inside])[::-1]
        return t.astype(np.int32), self.log_snr_table[t.astype(int)]

    @property
    def ends(self):
        """The lowest and the highest log SNR."""
        return float(self.log_snr_table[-1]), float(self.log_snr_table[0])

    # Look-ups that may be traced: t int [B] -> float32 [B].

    def logsnr(self, t):
        """ln(alpha_t^2 / sigma_t^2)."""
        return lookup(self.log_snr_table, t)

    def alpha(self, t):
        """Signal amplitude alpha_t."""
        return lookup(np.sqrt(self.alpha_bar), t)

    def sigma(self, t):
        """Noise amplitude sigma_t, a standard deviation."""
        return lookup(np.sqrt(1.0 - self.alpha_bar), t)

    def time(self, logsnr):
        """The fractional t at which `logsnr` is reached, linear between the steps.

        The inverse of `logsnr(t)`; log SNRs beyond either end give 0 or T-1.
        """
        steps = np.arange(len(self), dtype=np.float64)
        decreasing = self.log_snr_table
        return jnp.interp(
            jnp.asarray(logsnr, jnp.float32),
            jnp.asarray(decreasing[::-1], jnp.float32),
            jnp.asarray(steps[::-1], jnp.float32),
        )


def lookup(table, t):
    """float32 copy of a float64 table [T], read at integer t of any shape (may be traced)."""
    return jnp.asarray(table, jnp.float32)[t]


def linear(total_timesteps=1000):
    """The linear schedule of DDPM, rescaled so that any T ends at the same noise."""
    scale = 1000.0 / total_timesteps
    betas = np.linspace(scale * 1e-4, scale * 0.02, total_timesteps, dtype=np.float64)
    if betas[-1] >= 1.0:
        raise ValueError(f"the linear schedule needs T > 20, got {total_timesteps}")
    return from_betas(betas)


def cosine(total_timesteps=1000):
    """The cosine schedule (Nichol & Dhariwal 2021, eq. 17), with betas of at most 0.999."""

    def alpha_bar(s):
        return math.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2

    n = total_timesteps
    betas = [min(1.0 - alpha_bar((i + 1) / n) / alpha_bar(i / n), 0.999) for i in range(n)]
    return from_betas(np.asarray(betas, np.float64))


def from_betas(betas):
    """A full schedule from float64 betas [T] in (0, 1)."""
    alpha_bar = np.cumprod(1.0 - np.asarray(betas, np.float64))
    return Schedule(alpha_bar, np.arange(len(betas), dtype=np.int32), len(betas))


SCHEDULES = {"linear": linear, "cosine": cosine}


def make(name, total_timesteps=1000, *, rescaled=False):
    """The schedule called `name` ("linear" or "cosine") with T = `total_timesteps` steps.

    Args:
      name: of `SCHEDULES`.
      total_timesteps: T.
      rescaled: as of `Schedule`.

    Raises:
      ValueError: for an unknown name or a T that the schedule cannot have.
    """
    if name not in SCHEDULES:
        raise ValueError(f"schedule must be one of {sorted(SCHEDULES)}, got {name!r}")
    if total_timesteps < 2:
        raise ValueError(f"a schedule needs at least 2 timesteps, got {total_timesteps}")
    return dataclasses.replace(SCHEDULES[name](total_timesteps), rescaled=rescaled)


STRIDES = ("even", "logsnr", "tapered", "ddim")
FINEST = 8.0  # log SNR at which details of two grey levels drown: -2 ln(2 / 127.5), rounded


def respace(schedule, steps, *, stride="even", side=None):
    """A shorter schedule over a subset of the timesteps, for sampling (Improved DDPM, section 4).

    The network still sees the original indices.

    Args:
      schedule: the full schedule.
      steps: how many timesteps to keep, 2 .. T.
      stride: "even" spreads round(i (T-1)/(steps-1)) over the whole range; "logsnr" takes the
        timesteps nearest to an even grid in log SNR, both ends included; "tapered" likewise, with
        steps that widen towards both ends (see `tapered`); "ddim" takes the integer stride that
        gives exactly `steps` indices from 0 (DDIM's choice).
      side: of the images in pixels, for "tapered".

    Raises:
      ValueError: if no such subset exists.
    """
    total = len(schedule)
    if not 2 <= steps <= total:
        raise ValueError(f"cannot keep {steps} of {total} timesteps, only 2 .. {total}")
    if stride == "even":
        kept = [round(i * (total - 1) / (steps - 1)) for i in range(steps)]
    elif stride == "logsnr":
        kept = _even_in(schedule.log_snr_table, steps)
    elif stride == "tapered":
        kept = _even_in(tapered(schedule.log_snr_table, side), steps)
    elif stride == "ddim":
        fits = (range(0, total, s) for s in range(1, total) if len(range(0, total, s)) == steps)
        kept = next(fits, None)
        if kept is None:
            raise ValueError(f"no integer stride over {total} timesteps gives {steps} of them")
    else:
        raise ValueError(f"stride must be one of {', '.join(STRIDES)}, got {stride!r}")
    kept = np.asarray(kept, np.int32)
    return dataclasses.replace(
        schedule, alpha_bar=schedule.alpha_bar[kept], timesteps=schedule.timesteps[kept]
    )


def tapered(logsnr, side):
    """The scale on which the steps of stride "tapered" are even; increases with the log SNR.

    The error that one step h of a second-order solver leaves in the image is about h^3 times the
    bend of x0_hat over log SNR times the share of a change of z that lasts until the end. For
    Gaussian data both factors are level while structures emerge, and their product falls like the
    SNR below the noise in which the largest structure drowns, and like 1 / SNR above that of the
    finest detail: steps of equal error grow there with its third root. The largest structure fills
    the image; its amplitude, summed over side^2 pixels, drowns in noise of sigma / alpha = side.

    Args:
      logsnr: float64, any shape.
      side: of the images in pixels, or the root of their number of pixels.

    Returns:
      Float64 of the same shape: lengths in log SNR, less where steps are wider.

    Raises:
      ValueError: without a side.
    """
    if side is None:
        raise ValueError('stride "tapered" needs the side of the images')
    r = np.linspace(-60.0, 60.0, 24_001)
    coarsest = -2.0 * np.log(side)
    density = ((1.0 + np.exp(coarsest - r)) * (1.0 + np.exp(r - FINEST))) ** (-1.0 / 3.0)
    length = np.append(0.0, np.cumsum((density[1:] + density[:-1]) / 2.0 * np.diff(r)))
    return np.interp(logsnr, r, length)


def _even_in(table, steps):
    """`steps` distinct indices of a decreasing table, about evenly spaced in it, ends included.

    Where neighbours are farther apart than the grid's spacing, as at a schedule's ends, several
    points of the grid would find the same timestep. Such a gap counts as one step, and the points
    that this saves make the rest of the grid finer.
    """
    gaps = -np.diff(table)
    widest = np.sort(gaps)[::-1]
    rest = np.cumsum(widest[::-1])[::-1]  # [k]: the range without its k widest gaps
    spacings = rest[: steps - 1] / np.arange(steps - 1, 0, -1)  # if these are single steps
    spacing = spacings[np.argmax(widest[: steps - 1] <= spacings)]
    position = np.append(0.0, np.cumsum(np.minimum(gaps, spacing)))
    grid = np.linspace(0.0, position[-1], steps)
    kept = np.rint(np.interp(grid, position, np.arange(len(position)))).astype(np.int64)
    # Ties of the rounding could still share a timestep: the later one takes the next.
    i = np.arange(steps)
    return np.minimum(np.maximum.accumulate(kept - i) + i, len(position) - steps + i)
