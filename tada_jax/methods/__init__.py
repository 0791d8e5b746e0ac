"""What each method does to a training example; all of them share one loss.

    x0, eps, shift, condition = method(rng, x0, eps, w)
    z = alpha x0 + sigma (eps + shift)
    the network sees z, its noise level and `condition`, and predicts a combination of x0 and eps

A method is one of these ways to use an augmentation and a strength w, which is constant or TADA's:
`METHODS` names the pairs, `docs/methods.md` compares them. Images are float32 [B,H,W,C] in
[-1, 1], strengths [B] (or [B,K] for each of K operations of an `augment.Policy`).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tada_jax.augment import Policy, augment_batch
from tada_jax.methods import scoreaug


class Example(NamedTuple):
    """What training examples became.

    Attributes:
      x0, eps: image and noise, [B,H,W,C], of which z and the target are made.
      shift: what is added to eps in z, and not in the target; broadcastable to them.
      condition: what the network is told besides, [B,condition_size], or None.
    """

    x0: jax.Array
    eps: jax.Array
    shift: jax.Array | float = 0.0
    condition: jax.Array | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Plain:
    """The image is augmented, and nobody told: constant augmentation, TADA, flips, nothing."""

    policy: Policy
    condition_size = 0

    def __call__(self, rng, x0, eps, w):
        """`Example` of clean images, their noise and strengths."""
        return Example(augment_batch(rng, x0, w, self.policy), eps)

    def always(self):
        """The same, of every image."""
        return Plain(dataclasses.replace(self.policy, p=1.0))


@dataclasses.dataclass(frozen=True, eq=False)
class LabelConditioned:
    """AR, augmentation regularisation (Karras et al. 2022, appendix F.2): the network is told how.

    Samples are drawn with labels of zero, "not augmented".
    """

    policy: Policy

    @property
    def condition_size(self):
        """Of the labels."""
        return self.policy.label_size

    def __call__(self, rng, x0, eps, w):
        """`Example` of clean images, their noise and strengths."""
        x0, labels = augment_batch(rng, x0, w, self.policy, return_labels=True)
        return Example(x0, eps, condition=labels)

    def always(self):
        """The same, of every image."""
        return LabelConditioned(dataclasses.replace(self.policy, p=1.0))


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreAug:
    """The *noisy* image and the target are transformed alike, and the network is told how.

    Attributes:
      operations: `scoreaug.Operations`.
      flips: a `Policy` without operations, for mirror images, which belong to the data.
    """

    operations: scoreaug.Operations
    flips: Policy

    @property
    def condition_size(self):
        """Of the labels."""
        return self.operations.label_size

    def __call__(self, rng, x0, eps, w):
        """`Example` of clean images, their noise and strengths [B]."""
        rng_flip, rng_draw = jax.random.split(rng)
        self.operations.check(x0.shape[1:3])
        x0, size = augment_batch(rng_flip, x0, w, self.flips), x0.shape[1:3]

        def one(key, x0, eps, w):
            draws = scoreaug.draw(key, w, size, self.operations)
            moved = [scoreaug.apply(a, draws, self.operations) for a in (x0, eps)]
            return *moved, scoreaug.labels(draws, size, self.operations)

        x0, eps, labels = jax.vmap(one)(jax.random.split(rng_draw, len(x0)), x0, eps, w)
        return Example(x0, eps, condition=labels)

    def always(self):
        """The same, never the identity."""
        return ScoreAug(dataclasses.replace(self.operations, identity=False), self.flips)


@dataclasses.dataclass(frozen=True, eq=False)
class ShiftedNoise:
    """SDA, shifted data augmentation (Nakamura et al. 2025): augmented images under shifted noise.

    Its two losses, E |eps - net(alpha x + sigma eps)|^2 of plain images and `weight` times
    E |eps - net(alpha T(x) + sigma (eps + mu))|^2 of augmented ones, are one expectation up to the
    factor 1 + weight: each example takes the second path with probability weight / (1 + weight).
    Samples start from noise of mean 0, and so follow the first. The published mu and weight are not
    known to us: options.
    """

    policy: Policy
    mu: float = 0.5
    weight: float = 1.0
    condition_size = 0

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
        """The same, of every image."""
        policy = dataclasses.replace(self.policy, p=1.0)
        return dataclasses.replace(self, policy=policy, weight=float("inf"))


def augmented(method, rng, x0, w):
    """The images [B,H,W,C] that a method makes of x0, and nothing else."""
    return method(rng, x0, jnp.zeros_like(x0), w).x0


@dataclasses.dataclass(frozen=True)
class Method:
    """A way of augmenting and a strength.

    Attributes:
      way: "plain", "ar", "scoreaug" or "sda".
      strength: "tada", w by the noise level; "constant"; or "none", 0.
      operations: whether anything but flips may happen.
      xflip_p: probability of flips; None: that of the augmentation.
    """

    way: str = "plain"
    strength: str = "constant"
    operations: bool = True
    xflip_p: float | None = None


METHODS = {
    "tada": Method(strength="tada"),
    "constant": Method(),
    "hflip": Method(strength="none", operations=False, xflip_p=0.5),
    "none": Method(strength="none", operations=False, xflip_p=0.0),
    "ar": Method("ar"),
    "ar+tada": Method("ar", "tada"),
    "scoreaug": Method("scoreaug"),
    "scoreaug+tada": Method("scoreaug", "tada"),
    "sda": Method("sda"),
    "sda+tada": Method("sda", "tada"),
}
