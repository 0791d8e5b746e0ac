"""Noise levels in continuous time: EDM's and those of rectified flow.

Both mix an image and noise in proportions of their own, EDM as y = x_0 + sigma n, rectified flow
as y = (1 - t) x_0 + t n. Divided by its standard deviation for unit images, y is the variance
preserving z = alpha x_0 + sigma_z n with the same log SNR. So a formulation is a distribution of
log SNRs, what the network is told of them, the scale of its input, and its target
(`diffusion.PARAMETERISATIONS`): everything else, TADA's strength and the samplers included, knows
the log SNR only.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from tada_jax.model.schedule import Schedule, tapered

TIMES = ("uniform", "logit_normal")
STRIDES = ("even", "logsnr", "tapered")
NEAREST = 1e-6  # to 0 and 1 that a time of `Flow` comes: single precision needs 1 - t
MOST = 30.0  # log SNR of either sign, beyond which single precision loses image or noise


def _even_in_tapered(first, last, steps, side):
    """Log SNRs, float64 [steps], from the first to the last, evenly spaced in `tapered`."""
    fine = np.linspace(last, first, 10_001)
    length = tapered(fine, side)
    between = np.interp(np.linspace(length[-1], length[0], steps)[1:-1], length, fine)
    return np.concatenate([[first], between, [last]])


class Continuous:
    """What the formulations share; t is float32, and grows with the noise."""

    def draw(self, rng, count):
        """Times of training examples, float32 [count]."""
        tiny = jnp.finfo(jnp.float32).eps
        return self.quantile(jax.random.uniform(rng, (count,), minval=tiny, maxval=1.0 - tiny))

    def alpha(self, t):
        """Signal amplitude of the variance preserving z, float32 [B]."""
        return jnp.sqrt(jax.nn.sigmoid(self.logsnr(t)))

    def sigma(self, t):
        """Its noise amplitude, a standard deviation."""
        return jnp.sqrt(jax.nn.sigmoid(-self.logsnr(t)))

    def walk(self, steps, *, stride="even", side=None):
        """The discrete schedule of a sampler.

        Args:
          steps: noise levels, at least 2; the last step, to no noise, comes after them.
          stride: "even" in the formulation's own grid, "logsnr": even in log SNR, or "tapered": in
            `schedule.tapered`.
          side: of the images in pixels, for "tapered".

        Raises:
          ValueError: if there is no such schedule.
        """
        if steps < 2:
            raise ValueError(f"cannot walk in {steps} steps, 2 are the fewest")
        if stride not in STRIDES:
            known = ", ".join(STRIDES)
            raise ValueError(f"stride must be one of {known} in continuous time: {stride!r}")
        t = self.grid(steps)
        if stride == "logsnr":
            t = self._time(np.linspace(*self.ends[::-1], steps))
        elif stride == "tapered":
            t = self._time(_even_in_tapered(*self.ends[::-1], steps, side))
        r = np.asarray(self._logsnr(t))
        return Schedule(1.0 / (1.0 + np.exp(-r)), t.astype(np.float32), steps)

    def nearest(self, logsnr):
        """The times of some levels [R]; those beyond the ends are left out.

        Returns:
          (t float32 [n], their log SNR float64 [n]), ascending in log SNR.
        """
        low, high = self.ends
        inside = np.array([r for r in logsnr if low <= r <= high])
        return self._time(inside).astype(np.float32), inside

    def logsnr(self, t):
        """ln(alpha^2 / sigma^2), float32 [B]."""
        return self._logsnr(t, jnp)

    def time(self, logsnr):
        """The t of a log SNR, the inverse of `logsnr`."""
        return self._time(jnp.asarray(logsnr), jnp)

    @property
    def ends(self):
        """The lowest and the highest log SNR of samplers."""
        return tuple(float(self._logsnr(t)) for t in self.grid(2)[::-1])


@dataclasses.dataclass(frozen=True)
class Edm(Continuous):
    """EDM (Karras et al. 2022): y = x_0 + sigma n, and t is sigma.

    Attributes:
      p_mean, p_std: of ln sigma in training, normal.
      sigma_min, sigma_max: between which samplers walk.
      rho: they walk evenly in sigma^(1/rho) (eq. 5).
      sigma_data: standard deviation of the pixels, in [-1, 1].

    Raises:
      ValueError: for a value out of its range.
    """

    p_mean: float = -1.2
    p_std: float = 1.2
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    sigma_data: float = 0.5

    RANGES: ClassVar = {"p_mean": (-20, 20)}

    def __post_init__(self):
        if not 0.0 < self.sigma_min < self.sigma_max < np.inf:
            raise ValueError(
                f"0 < sigma_min < sigma_max must hold, got {self.sigma_min} and {self.sigma_max}"
            )
        for name in ("p_std", "rho", "sigma_data"):
            if not 0.0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if max(abs(end) for end in self.ends) > MOST:
            raise ValueError(
                f"sigma_min and sigma_max must lie between {np.exp(-MOST / 2):.1e} and "
                f"{np.exp(MOST / 2):.1e}, got {self.sigma_min} and {self.sigma_max}"
            )

    def quantile(self, u):
        """The noise below which a share u of the drawn ones lies, [n] in (0, 1) -> float32 [n]."""
        log_sigma = self.p_mean + self.p_std * jax.scipy.special.ndtri(jnp.asarray(u))
        return jnp.exp(jnp.clip(log_sigma, -MOST / 2.0, MOST / 2.0))

    def _logsnr(self, t, xp=np):
        return -2.0 * xp.log(t)

    def _time(self, logsnr, xp=np):
        return xp.exp(-0.5 * logsnr)

    def network_time(self, t):
        """c_noise = ln(sigma) / 4 (Table 1)."""
        return jnp.log(t) / 4.0

    def input_scale(self, t):
        """c_in (Table 1) for z = y / sqrt(1 + sigma^2)."""
        return jnp.sqrt((1.0 + t**2) / (self.sigma_data**2 + t**2))

    def grid(self, steps):
        """The sigmas of a sampler, float64 [steps], ascending."""
        root = 1.0 / self.rho
        return np.linspace(self.sigma_min**root, self.sigma_max**root, steps) ** self.rho


@dataclasses.dataclass(frozen=True)
class Flow(Continuous):
    """Rectified flow (Liu et al. 2023; Lipman et al. 2023): y = (1 - t) x_0 + t n, t in (0, 1).

    Attributes:
      times: of training, "uniform", or "logit_normal" (Esser et al. 2024, eq. 19).
      logit_mean, logit_std: of ln(t / (1 - t)) in the latter, normal.
      t_min: uniform times, and those of samplers, lie in [t_min, 1 - t_min].

    Raises:
      ValueError: for a value out of its range.
    """

    times: str = "uniform"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    t_min: float = 1e-3

    RANGES: ClassVar = {"logit_mean": (-10, 10)}

    def __post_init__(self):
        if self.times not in TIMES:
            raise ValueError(f"times must be one of {', '.join(TIMES)}, got {self.times!r}")
        if not NEAREST <= self.t_min < 0.5:
            raise ValueError(f"t_min must lie between {NEAREST} and 0.5, got {self.t_min}")
        if not 0.0 < self.logit_std < np.inf:
            raise ValueError(f"logit_std must be positive, got {self.logit_std}")

    def quantile(self, u):
        """The time below which a share u of the drawn ones lies, [n] in (0, 1) -> float32 [n]."""
        u = jnp.asarray(u)
        if self.times == "uniform":
            return self.t_min + (1.0 - 2.0 * self.t_min) * u
        t = jax.nn.sigmoid(self.logit_mean + self.logit_std * jax.scipy.special.ndtri(u))
        return jnp.clip(t, NEAREST, 1.0 - NEAREST)

    def _logsnr(self, t, xp=np):
        return 2.0 * (xp.log1p(-t) - xp.log(t))

    def _time(self, logsnr, xp=np):
        return 1.0 / (1.0 + xp.exp(0.5 * logsnr))

    def network_time(self, t):
        """1000 t, of the range of discrete timesteps."""
        return 1000.0 * t

    def input_scale(self, t):
        """The standard deviation of y for unit images: the network sees y itself."""
        return jnp.sqrt((1.0 - t) ** 2 + t**2)

    def grid(self, steps):
        """The times of a sampler, float64 [steps], ascending: evenly spaced."""
        return np.linspace(self.t_min, 1.0 - self.t_min, steps)


CONTINUOUS = {"edm": Edm, "flow": Flow}
