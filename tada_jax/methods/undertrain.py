"""The sensitive band is trained less instead of with weaker augmentation; nothing is augmented.

Memorisation sits at medium noise (arXiv 2602.17846, 2603.13419). The obvious rivals of an
augmentation that spares those levels are to give their loss a smaller weight, or to draw them
rarely. Both follow TADA's strength: w = 1 is trained as ever, w = 0 by a share `floor` of that.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tada_jax.augment import Policy
from tada_jax.methods.base import Example, Level, Method
from tada_jax.methods.plain import Plain


@dataclasses.dataclass(frozen=True, eq=False)
class Undertrained(Plain):
    """The loss is weighted by floor + (1 - floor) w."""

    policy: Policy
    floor: float = 0.1
    section = "undertrain"
    RANGES = {"floor": (0, 1)}

    @classmethod
    def from_config(cls, config, policy, image_shape):
        """With the floor of `config.undertrain`."""
        return cls(policy, **config.undertrain)

    def share(self, w):
        """How much of its training a level of strength w [N] or [N,K] keeps, [N]."""
        w = w if w.ndim == 1 else w.mean(-1)
        return self.floor + (1.0 - self.floor) * w

    def observed(self, example: Example, w: jax.Array, level: Level) -> Example:
        """With the weight of its loss."""
        return example._replace(weight=self.share(w))

    def always(self) -> Method:
        """Nothing."""
        return Plain(self.policy)


_LEVELS = (np.arange(8192) + 0.5) / 8192  # shares of a schedule's own draws


class RarelyDrawn(Undertrained):
    """Noise levels are drawn as often as that; their losses are plain."""

    def draw(self, rng, count, schedule, strength):
        """Times of training examples, by the inverse of the distribution's integral."""
        if self.floor == 1.0:
            return schedule.draw(rng, count)
        share = self.share(strength(schedule.logsnr(schedule.quantile(_LEVELS))))
        total = jnp.cumsum(share)
        u = jax.random.uniform(rng, (count,)) * total[-1]
        index = jnp.minimum(jnp.searchsorted(total, u, side="right"), len(_LEVELS) - 1)
        within = (u - (total[index] - share[index])) / share[index]
        return schedule.quantile((index + jnp.clip(within, 0.0, 0.999)) / len(_LEVELS))

    def observed(self, example: Example, w: jax.Array, level: Level) -> Example:
        """As it is."""
        return example
