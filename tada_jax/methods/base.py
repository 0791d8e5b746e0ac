"""What a method does to a training example; all of them share one loss.

    example = method.observed(method(rng, x0, eps, w), w, level)
    z = alpha x0 + sigma (eps + shift)
    the network sees z, its noise level and `condition`, and predicts a combination of x0 and eps,
    and its loss counts `weight` times

Images are float32 [B,H,W,C] in [-1, 1], strengths w [B] (or [B,K] for each of K operations of an
`augment.Policy`). Each method is a file of this folder with one class; `table.py` says by which
names, and with which strength, a configuration asks for it.
"""

import abc
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from tada_jax.augment import Policy


class Example(NamedTuple):
    """What training examples became.

    Attributes:
      x0, eps: image and noise, [B,H,W,C], of which z and the target are made.
      shift: what is added to eps in z, and not in the target; broadcastable to them.
      condition: what the network is told besides, [B,condition_size], or None.
      weight: of the loss, [B]; None: 1.
      known: whether x0 is a clean image and no estimate of it, bool [B]; None: always.
    """

    x0: jax.Array
    eps: jax.Array
    shift: jax.Array | float = 0.0
    condition: jax.Array | None = None
    weight: jax.Array | None = None
    known: jax.Array | None = None


class Level(NamedTuple):
    """Where training examples are.

    Attributes:
      logsnr: of their noise levels, [B].
      number: of the images in the training set, int32 [B]; None where that is not known.
      strength: w of a log SNR, [N] -> [N] or [N,K].
    """

    logsnr: jax.Array
    number: jax.Array | None
    strength: Callable[[jax.Array], jax.Array]


class Method(abc.ABC):
    """A way to use augmentation in training; a frozen dataclass of its options.

    Attributes:
      condition_size: length of what the network is told besides the noise level and the class.
      own_operations: whether it has operations of its own instead of `config.augment.ops`; leaks
        are then measured against those.
      by_number: whether it has to know which image of the training set an example is.
      section: of the configuration, with its options.
      RANGES: {field of that section: (lowest, highest)}, of what they may be.
    """

    condition_size = 0
    own_operations = False
    by_number = False
    section = "augment"
    RANGES: ClassVar = Policy.RANGES

    @classmethod
    def from_config(cls, config, policy, image_shape):
        """The method for images of `image_shape` (H, W, C); `policy` is that of the augmentation.

        Raises:
          ValueError: if images of that shape cannot be augmented so.
        """
        return cls(policy)

    @classmethod  # noqa: B027 (most combine with everything)
    def check(cls, config):
        """Refuses what cannot be combined with the method.

        Raises:
          UserError: naming the field of the configuration.
        """

    @classmethod
    def told(cls, config):
        """What the entries of `condition` stand for, a tuple: another network's may mean others."""
        return ()

    def draw(self, rng, count, schedule, strength):
        """Times of training examples, [count]: those of the schedule, unless a method knows better.

        Args:
          rng: a key.
          count: of examples.
          schedule: with `draw`, `quantile` and `logsnr`.
          strength: as of `Level`.
        """
        return schedule.draw(rng, count)

    def observed(self, example, w, level):
        """The `Example` as it is known at its `Level`, by default as it is."""
        return example

    @abc.abstractmethod
    def __call__(self, rng, x0, eps, w):
        """`Example` of clean images, their noise and strengths."""

    @abc.abstractmethod
    def always(self):
        """The same done to every image, for pictures and for classifiers of leaks."""


def augmented(method, rng, x0, w):
    """The images [B,H,W,C] that a method makes of x0, and nothing else."""
    return method(rng, x0, jnp.zeros_like(x0), w).x0
