"""Ambient diffusion, "creative" training (arXiv 2502.21278): noisy images are known as noise alone.

Above a noise level s_n an image is known only by one noisy copy, x_n = x0 + s_n e, with an e that
is drawn once and for all. A network of x0 learns from it at s > s_n by the loss

    |((s^2 - s_n^2) / s^2) D(y, s) + (s_n^2 / s^2) y - x_n|^2,   y = x_n + sqrt(s^2 - s_n^2) e',

whose optimum is that of clean images. With q^2 = s^2 - s_n^2 this is (q / s)^4 times the plain loss
of an image x0 + s_n e - (s_n^2 / q) e' and noise (s / q) e', which make the same y: so it holds for
whatever the network predicts. A learned variance is trained below s_n alone, where L_vlb is known.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tada_jax.augment import Policy
from tada_jax.methods.base import Example, Level, Method
from tada_jax.methods.plain import Plain
from tada_jax.model.diffusion import expand
from tada_jax.system.errors import UserError

_LEAST = 1e-3  # of q / s, just above s_n: single precision
_GRID = np.linspace(30.0, -30.0, 6001)  # log SNRs among which the end of a band is found


@dataclasses.dataclass(frozen=True, eq=False)
class Ambient(Plain):
    """Nothing is augmented; above a noise level each image is one fixed noisy copy.

    Attributes:
      noise: s_n, standard deviation of the noise of the copies, pixels being in [-1, 1]; None: that
        of the cleaner end of the sensitive band, where the strength falls below `delta`.
      delta: strength at the ends of the band.
    """

    policy: Policy
    noise: float | None = None
    delta: float = 0.1
    section = "ambient"
    RANGES = {}
    by_number = True

    @classmethod
    def from_config(cls, config, policy, image_shape):
        """With the noise of `config.ambient`."""
        noise = config.ambient.noise
        if noise != "band":
            try:
                noise = float(noise)
            except ValueError:
                noise = -1.0
            if not 0.0 <= noise < np.inf:
                raise ValueError(
                    f'noise must be a standard deviation, as 0.3, or "band": {config.ambient.noise}'
                )
        return cls(policy, None if noise == "band" else noise, config.tada.delta)

    @classmethod
    def check(cls, config):
        """Needs a band with ends, or a number."""
        if config.ambient.noise == "band" and config.tada.schedule not in ("paper", "fitted"):
            raise UserError(
                f"config.ambient.noise='band' needs a band with ends, and config.tada.schedule="
                f"{config.tada.schedule!r} has none: set tada.schedule='fitted', or a standard "
                "deviation as ambient.noise='0.3'"
            )

    def observed(self, example: Example, w: jax.Array, level: Level) -> Example:
        """Image and noise as far as they are known at their noise level."""
        if self.noise == 0.0:
            return example
        s, s_n = jnp.exp(-0.5 * level.logsnr), self._noise(level.strength)
        keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(0), number))(level.number)
        shape = example.x0.shape[1:]
        copy_eps = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
        above = s > s_n
        share = jnp.sqrt(jnp.maximum(1.0 - (s_n / s) ** 2, _LEAST**2))  # q / s
        share, s_n = jnp.where(above, share, 1.0), jnp.where(above, s_n, 0.0)
        blur, less = (expand(a, copy_eps) for a in (s_n, s_n**2 / (s * share)))
        x0 = example.x0 + blur * copy_eps - less * example.eps
        eps = example.eps / expand(share, copy_eps)
        return example._replace(x0=x0, eps=eps, weight=share**4, known=~above)

    def _noise(self, strength):
        """s_n; infinite, so that every image is known, if no level has a strength below delta."""
        if self.noise is not None:
            return jnp.float32(self.noise)
        w = strength(jnp.asarray(_GRID, jnp.float32))
        weak = (w if w.ndim == 1 else w.mean(-1)) <= self.delta * (1.0 + 1e-4)
        cleanest = jnp.asarray(_GRID, jnp.float32)[jnp.argmax(weak)]
        return jnp.where(weak.any(), jnp.exp(-0.5 * cleanest), jnp.inf)

    def always(self) -> Method:
        """Nothing."""
        return Plain(self.policy)
