"""The names of the methods: a way to augment, and where its strength comes from.

`docs/methods.md` compares them, and shows how to add one.
"""

import dataclasses

from tada_jax.methods.ambient import Ambient
from tada_jax.methods.ar import LabelConditioned
from tada_jax.methods.base import Method
from tada_jax.methods.plain import Plain
from tada_jax.methods.scoreaug import ScoreAug
from tada_jax.methods.sda import ShiftedNoise
from tada_jax.methods.undertrain import RarelyDrawn, Undertrained


@dataclasses.dataclass(frozen=True)
class Row:
    """What a name stands for.

    Attributes:
      kind: the class of the method.
      strength: "tada", w by the noise level; "constant"; or "none", 0.
      operations: whether anything but flips may happen.
      xflip_p: probability of flips; None: that of the augmentation.
    """

    kind: type[Method]
    strength: str = "constant"
    operations: bool = True
    xflip_p: float | None = None


METHODS = {
    "tada": Row(Plain, "tada"),
    "constant": Row(Plain),
    "hflip": Row(Plain, "none", operations=False, xflip_p=0.5),
    "none": Row(Plain, "none", operations=False, xflip_p=0.0),
    "ar": Row(LabelConditioned),
    "ar+tada": Row(LabelConditioned, "tada"),
    "scoreaug": Row(ScoreAug),
    "scoreaug+tada": Row(ScoreAug, "tada"),
    "sda": Row(ShiftedNoise),
    "sda+tada": Row(ShiftedNoise, "tada"),
    "ambient": Row(Ambient, "tada", operations=False, xflip_p=0.0),
    "undertrain": Row(Undertrained, "tada", operations=False, xflip_p=0.0),
    "undertrain_draw": Row(RarelyDrawn, "tada", operations=False, xflip_p=0.0),
}
