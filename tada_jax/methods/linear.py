"""ScoreAug's operations (arXiv 2508.07926): linear, so that they act on noise too.

ScoreAug transforms the *noisy* image and has the transformed target predicted. An operation T
that is linear commutes with the noising, T(alpha x_0 + sigma eps) = alpha T x_0 + sigma T eps:
applying the same draws to x_0 and to eps is the same, whatever the formulation.

Images are float32 [H,W,C] in [-1, 1]. One operation an image, or, as often as any of them, none.
The bounds were read in secondary sources and are uncertain: options. Shifts and cutouts have whole
pixels; what lies between two is rounded to either at random, right in the mean, so that weak ones
of small images often come to nothing.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

# Name -> number of entries in the label vector.
OPERATIONS = {"brightness": 1, "translation": 2, "cutout": 1, "rotation": 2}


@dataclasses.dataclass(frozen=True)
class Operations:
    """Which operations may happen, and their bounds at strength 1.

    Attributes:
      ops: names from `OPERATIONS`.
      brightness: B, the image is multiplied by a factor in [1/B, B].
      translation: largest shift, a share of the side, but a pixel at least; zeros move in.
      cutout_min, cutout_max: side of the square of zeros, a share of the image's.
      identity: whether images are left alone as often as any operation happens.

    Raises:
      ValueError: for an unknown operation or a bound out of its range.
    """

    ops: tuple[str, ...] = tuple(OPERATIONS)
    brightness: float = 2.0
    translation: float = 0.1
    cutout_min: float = 0.1
    cutout_max: float = 0.3
    identity: bool = True

    RANGES: ClassVar = {"brightness": (1, 100)}

    def __post_init__(self):
        for name in self.ops:
            if name not in OPERATIONS:
                raise ValueError(f"unknown operation {name!r}; known are: {', '.join(OPERATIONS)}")
        if not self.ops or len(set(self.ops)) < len(self.ops):
            raise ValueError(f"ops needs one or more operations, each once: {self.ops}")
        if not self.brightness >= 1.0:
            raise ValueError(f"brightness must be at least 1, got {self.brightness}")
        if not 0.0 <= self.translation < 1.0:
            raise ValueError(f"translation must lie in [0, 1), got {self.translation}")
        if not 0.0 <= self.cutout_min <= self.cutout_max <= 1.0 or not self.cutout_max:
            raise ValueError(
                f"0 <= cutout_min <= cutout_max <= 1 must hold with a positive cutout_max, got "
                f"{self.cutout_min} and {self.cutout_max}"
            )

    @property
    def label_size(self):
        """Length of the label vector."""
        return sum(OPERATIONS[name] for name in self.ops)

    def reach(self, size):
        """The largest shift of images of `size` (H, W), in pixels: [2]."""
        return np.maximum(np.round(self.translation * np.asarray(size)), self.translation > 0)

    def check(self, size):
        """Raises ValueError if images of `size` (H, W) cannot be transformed so."""
        if "rotation" in self.ops and size[0] != size[1]:
            raise ValueError(
                f"rotation turns images by 90 degrees, and these are {size[0]}x{size[1]}: leave it "
                "out of ops"
            )


def draw(rng, w, size, operations):
    """Draws one operation for an image.

    Args:
      rng: a typed key.
      w: strength in [0, 1], a scalar: magnitudes are multiplied by it, and a rotation, which has
        none, happens w times as often.
      size: (H, W).
      operations: the `Operations`.

    Returns:
      {"factor": [] of brightness, "shift": int [2] rows and columns, "box": int [4] top, left,
      height and width of the cutout, "turns": int [] of 90 degrees}; those of the identity are
      1, 0, height and width 0, and 0.
    """
    rng_which, rng_uniform, rng_turns, rng_kept, rng_round = jax.random.split(rng, 5)
    kinds = len(operations.ops) + operations.identity
    which = jax.random.randint(rng_which, (), 0, kinds)  # beyond the operations: the identity

    def drawn(name):
        return which == operations.ops.index(name) if name in operations.ops else jnp.array(False)

    u = jax.random.uniform(rng_uniform, (6,))
    up = jax.random.uniform(rng_round, (3,))
    side = jnp.asarray(size, jnp.float32)
    exponent = jnp.where(drawn("brightness"), w * (2.0 * u[0] - 1.0), 0.0)
    shift = jnp.floor(w * (2.0 * u[1:3] - 1.0) * operations.reach(size) + up[:2])
    share = operations.cutout_min + (operations.cutout_max - operations.cutout_min) * u[3]
    box = jnp.where(drawn("cutout"), jnp.floor(w * share * side + up[2]), 0.0)
    corner = jnp.floor(u[4:6] * (side - box + 1.0))
    turns = jax.random.randint(rng_turns, (), 1, 4)
    kept = jax.random.uniform(rng_kept) < w

    def integer(a):
        return a.astype(jnp.int32)

    return {
        "factor": operations.brightness**exponent,
        "shift": integer(jnp.where(drawn("translation"), shift, 0.0)),
        "box": integer(jnp.concatenate([corner, box])),
        "turns": jnp.where(drawn("rotation") & kept, turns, 0),
    }


def labels(draws, size, operations):
    """What the network is told: float32 [label_size], all zeros for the identity.

    The exponent of the brightness, the shift and the side of the cutout in units of their bounds,
    and for rotations whether they are by (90 or 180, 180 or 270) degrees. Where a cutout lies is
    not told.
    """
    side, turns = np.asarray(size, np.float32), draws["turns"]
    area = jnp.prod(draws["box"][2:] / side)
    entries = {
        "brightness": jnp.log(draws["factor"]) / np.log(max(operations.brightness, 1.0 + 1e-6)),
        "translation": draws["shift"] / np.maximum(operations.reach(size), 1.0),
        "cutout": jnp.sqrt(area) / operations.cutout_max,
        "rotation": jnp.stack([(turns == 1) | (turns == 2), (turns == 2) | (turns == 3)]),
    }
    flat = [jnp.ravel(jnp.asarray(entries[name], jnp.float32)) for name in operations.ops]
    return jnp.concatenate(flat)


def apply(x, draws, operations):
    """The drawn operation on one image [H,W,C], or on its noise; linear."""
    h, w, _ = x.shape
    x = x * draws["factor"]
    rows, columns = jnp.arange(h), jnp.arange(w)
    if "translation" in operations.ops:
        y, x_ = rows - draws["shift"][0], columns - draws["shift"][1]
        inside = ((y >= 0) & (y < h))[:, None] & ((x_ >= 0) & (x_ < w))[None, :]
        x = jnp.where(inside[..., None], x[jnp.clip(y, 0, h - 1)][:, jnp.clip(x_, 0, w - 1)], 0.0)
    if "cutout" in operations.ops:
        top, left, height, width = draws["box"]
        cut = ((rows >= top) & (rows < top + height))[:, None]
        cut &= ((columns >= left) & (columns < left + width))[None, :]
        x = jnp.where(cut[..., None], 0.0, x)
    if "rotation" in operations.ops:
        turned = jnp.stack([jnp.rot90(x, turns) for turns in range(4)])
        x = turned[draws["turns"]]
    return x
