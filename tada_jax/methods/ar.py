"""AR, augmentation regularisation (Karras et al. 2022, appendix F.2)."""

import dataclasses

from tada_jax.augment import Policy, augment_batch
from tada_jax.methods.base import Example, Method


@dataclasses.dataclass(frozen=True, eq=False)
class LabelConditioned(Method):
    """The image is augmented, and the network is told how.

    Samples are drawn with labels of zero, "not augmented".
    """

    policy: Policy

    @property
    def condition_size(self):
        """Length of the labels of the policy."""
        return self.policy.label_size

    @classmethod
    def told(cls, config):
        """By the labels, how strongly each operation acted."""
        return tuple(config.augment.ops)

    def __call__(self, rng, x0, eps, w):
        """`Example` of clean images, their noise and strengths."""
        x0, labels = augment_batch(rng, x0, w, self.policy, return_labels=True)
        return Example(x0, eps, condition=labels)

    def always(self):
        """The same, of every image."""
        return LabelConditioned(dataclasses.replace(self.policy, p=1.0))
