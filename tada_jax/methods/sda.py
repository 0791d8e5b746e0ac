"""SDA, shifted data augmentation (Nakamura et al. 2025): augmented images under shifted noise."""

import dataclasses

import jax

from tada_jax.augment import Policy, augment_batch
from tada_jax.methods.base import Example, Method
from tada_jax.system.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class ShiftedNoise(Method):
    """Some images are augmented, and those have noise of another mean.

    Its two losses, E |eps - net(alpha x + sigma eps)|^2 of plain images and `weight` times
    E |eps - net(alpha T(x) + sigma (eps + mu))|^2 of augmented ones, are one expectation up to the
    factor 1 + weight: each example takes the second path with probability weight / (1 + weight).
    Samples start from noise of mean 0, and so follow the first. The published mu and weight are not
    known to us: options.
    """

    policy: Policy
    mu: float = 0.5
    weight: float = 1.0
    section = "sda"
    RANGES = {"mu": (-10, 10), "weight": (0, 1e6)}

    @classmethod
    def from_config(cls, config, policy, image_shape):
        """With mu and weight of `config.sda`."""
        return cls(policy, **config.sda)

    @classmethod
    def check(cls, config):
        """Needs eps as the target."""
        if config.diffusion.parameterisation != "eps":
            raise UserError(
                f"config.method={config.method!r} needs config.diffusion.parameterisation='eps': "
                "the mean of its noise makes any other target grow without bound with the noise"
            )

    def __post_init__(self):
        if not self.weight >= 0.0:
            raise ValueError(f"weight must not be negative, got {self.weight}")

    def __call__(self, rng, x0, eps, w):
        """`Example` of clean images, their noise and strengths."""
        rng_path, rng_aug = jax.random.split(rng)
        share = 1.0 if self.weight == float("inf") else self.weight / (1.0 + self.weight)
        shifted = jax.random.bernoulli(rng_path, share, x0.shape[:1]).astype(x0.dtype)
        w = w * shifted.reshape(-1, *(1,) * (w.ndim - 1))
        x0 = augment_batch(rng_aug, x0, w, self.policy)
        return Example(x0, eps, shift=self.mu * shifted[:, None, None, None])

    def always(self):
        """The same, of every image, under shifted noise."""
        policy = dataclasses.replace(self.policy, p=1.0)
        return dataclasses.replace(self, policy=policy, weight=float("inf"))
