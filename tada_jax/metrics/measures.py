"""The numbers: what each of them means, and how it is written. Readable without a judge."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Measure:
    """What a number means: its title, and whether it should be low, high, or near a value."""

    title: str
    better: str
    digits: int = 3
    factor: float = 1.0  # what is printed is the value times this


MEASURES = {
    "fd": Measure("Frechet distance", "lower", 2),
    "kid": Measure("KID x 1e3", "lower", 2, 1e3),
    "precision": Measure("precision", "higher"),
    "recall": Measure("recall", "higher"),
    "density": Measure("density", "higher"),
    "coverage": Measure("coverage", "higher"),
    "swd": Measure("sliced Wasserstein x 1e3", "lower", 1, 1e3),
    "copies": Measure("copies, d1 < d2/3 [%]", "lower", 1, 100.0),
    "copy_margin": Measure("copy margin, d(train)/d(held out)", "near 1"),
    "authentic": Measure("AuthPct [%]", "higher", 1, 100.0),
    "c_t": Measure("C_T [standard deviations]", "near 0", 1),
    "gap": Measure("denoising gap x 1e3, held out - train", "near 0", 2, 1e3),
    "leak": Measure("leak: augmented, of the good samples [%]", "near 0", 1, 100.0),
    "neither": Measure("bad: neither real nor augmented [%]", "lower", 1, 100.0),
    "fd_leak": Measure("Frechet leak", "lower", 2),
    "tint": Measure("tint, mean tone against held-out [of 255]", "near 0", 1),
    "tint_spread": Measure("spread of tones, times that of held-out", "near 1", 2),
    "moment": Measure("moments [% of T(x, 1)]", "near 0", 0, 100.0),
}

# Of how they are measured; to be raised with a definition: numbers by other rules do not compare.
# 2: the copy margin counts all training images; faint images look alike only if they do closely.
RULES = 2

GLANCES = ("fd", "leak", "copies", "copy_margin")  # what `Judge.glance` finds


@dataclasses.dataclass(frozen=True)
class Number:
    """A measured value with what is needed to read it.

    Attributes:
      value: in units of 1; NaN where it could not be had.
      n: samples behind it.
      reference: what they were compared with, and how many of those.
      extractor: of the features, or what else the images were looked at through.
      real: what real images score in the samples' place, if that makes sense.
      real_n: how many they are, if fewer than the samples and the score depends on that.
      interval: 95%, or None.
      note: anything else in a few words.
    """

    value: float
    n: int
    reference: str
    extractor: str
    real: float | None = None
    interval: tuple[float, float] | None = None
    note: str = ""
    real_n: int | None = None


def printed(name, value):
    """A value of a measure as text, in the units of its title."""
    measure = MEASURES[name.partition("/")[0]]
    return "n/a" if not math.isfinite(value) else f"{value * measure.factor:.{measure.digits}f}"
