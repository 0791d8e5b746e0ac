"""ScoreAug (arXiv 2508.07926): noisy images and targets are transformed alike."""

import dataclasses

import jax

from tada_jax.augment import Policy, augment_batch
from tada_jax.methods import linear
from tada_jax.methods.base import Example, Method


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreAug(Method):
    """The *noisy* image and the target are transformed alike, and the network is told how.

    Attributes:
      operations: `linear.Operations`.
      flips: a `Policy` without operations, for mirror images, which belong to the data.
    """

    operations: linear.Operations
    flips: Policy
    own_operations = True
    section = "scoreaug"
    RANGES = linear.Operations.RANGES

    @classmethod
    def from_config(cls, config, policy, image_shape):
        """With the operations of `config.scoreaug`, and the flips of the policy."""
        operations = linear.Operations(**dict(config.scoreaug, ops=tuple(config.scoreaug.ops)))
        operations.check(image_shape[:2])
        return cls(operations, dataclasses.replace(policy, ops=()))

    @classmethod
    def told(cls, config):
        """By the labels, how strongly each operation acted."""
        return tuple(config.scoreaug.ops)

    @property
    def condition_size(self):
        """Length of the labels of the operations."""
        return self.operations.label_size

    def __call__(self, rng, x0, eps, w):
        """`Example` of clean images, their noise and strengths."""
        rng_flip, rng_draw = jax.random.split(rng)
        self.operations.check(x0.shape[1:3])
        x0, size = augment_batch(rng_flip, x0, w, self.flips), x0.shape[1:3]

        def one(key, x0, eps, w):
            draws = linear.draw(key, w, size, self.operations)
            moved = [linear.apply(a, draws, self.operations) for a in (x0, eps)]
            return *moved, linear.labels(draws, size, self.operations)

        x0, eps, labels = jax.vmap(one)(jax.random.split(rng_draw, len(x0)), x0, eps, w)
        return Example(x0, eps, condition=labels)

    def always(self):
        """The same, never the identity."""
        return ScoreAug(dataclasses.replace(self.operations, identity=False), self.flips)
