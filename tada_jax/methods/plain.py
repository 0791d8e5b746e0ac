"""Images are augmented, and nobody is told: constant augmentation, TADA, flips, or nothing."""

import dataclasses

from tada_jax.augment import Policy, augment_batch
from tada_jax.methods.base import Example, Method


@dataclasses.dataclass(frozen=True, eq=False)
class Plain(Method):
    """The image is augmented; the network sees no difference."""

    policy: Policy

    def __call__(self, rng, x0, eps, w):
        """`Example` of clean images, their noise and strengths."""
        if not self.policy.ops and w.ndim > 1:  # of operations that images do not undergo here
            w = w.mean(-1)
        return Example(augment_batch(rng, x0, w, self.policy), eps)

    def always(self):
        """The same, of every image."""
        return Plain(dataclasses.replace(self.policy, p=1.0))
