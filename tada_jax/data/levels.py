"""Which values become black and white: `config.data.range`.

Files state the width of their values and seldom what is white: a camera of 12 bits writes up to
4,095 into 16, a mask 0 and 1 into 8, a microscope floats. So "auto" goes by the values of the whole
set, the same for all of its images, and says what it took.
"""

import dataclasses
import math
import re

import numpy as np

from tada_jax.system.errors import UserError

RANGES = ("auto", "full")
_BITS = (1, 8, 10, 12, 14, 16)  # that cameras, scanners and masks have
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


@dataclasses.dataclass(frozen=True)
class Levels:
    """The values that become 0 and 255; beyond them nothing is told apart.

    Attributes:
      black, white: in the units of the file.
      clause: for the report, "" where they are the obvious ones.
    """

    black: float
    white: float
    clause: str = ""

    def to_uint8(self, values):
        """Values of any shape as uint8, rounded.

        Raises:
          ValueError: if one is not finite.
        """
        values = np.asarray(values, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("holds values that are not finite")
        scaled = (values - self.black) * 255 / (self.white - self.black)
        return np.rint(scaled.clip(0, 255)).astype(np.uint8)


def full(dtype):
    """The `Levels` of all that a type can hold: 0..1 of floats.

    Raises:
      ValueError: for integers of more than 16 bits, which nobody fills.
    """
    dtype = np.dtype(dtype)
    if dtype.kind in "fb":
        return Levels(0.0, 1.0)
    if dtype.itemsize > 2:
        raise ValueError(f"holds integers of {8 * dtype.itemsize} bits: set data.range=LOW:HIGH")
    return Levels(float(np.iinfo(dtype).min), float(np.iinfo(dtype).max))


def given(text):
    """The `Levels` of "LOW:HIGH"; None for one of `RANGES`.

    Raises:
      UserError: if it is neither.
    """
    if text in RANGES:
        return None
    parts = re.fullmatch(rf"({_NUMBER}):({_NUMBER})", str(text))
    if not parts or not float(parts[1]) < float(parts[2]):
        raise UserError(
            f"data.range={text!r} cannot be: 'auto', 'full', or the values that become black and "
            "white, as '0:4095'"
        )
    return Levels(float(parts[1]), float(parts[2]))


def of_set(lowest, highest, dtype):
    """The `Levels` of a set whose values of a type run from `lowest` to `highest`.

    Integers have the fewest bits of 1, 8, 10, 12, 14 and 16 that hold them, in a byte 1 or 8;
    floats go from 0 or -1 to 1, or to 255; what is none of these, as Hounsfield units, from end to
    end.
    """
    dtype, lowest, highest = np.dtype(dtype), float(lowest), float(highest)
    integers = dtype.kind in "iu"
    black, white = lowest, highest
    if dtype.kind == "b":
        return Levels(0.0, 1.0)
    if integers and lowest == highest == 0 and dtype.itemsize <= 2:
        return full(dtype)  # black all over
    if integers and lowest >= 0 and highest < 2**16:
        known = (1, 8 - (dtype.kind == "i")) if dtype.itemsize == 1 else _BITS
        bits = next(b for b in known if highest < 2**b)
        black, white = 0.0, float(2**bits - 1)
    elif not integers and lowest >= -1 and highest <= 1:
        black, white = (-1.0 if lowest < 0 else 0.0), 1.0
    elif not integers and lowest >= 0 and 127 < highest <= 255:
        black, white = 0.0, 255.0
    if not black < white:  # one value alone
        white = black + 1
    usual = dtype.kind == "u" and dtype.itemsize <= 2 and white == np.iinfo(dtype).max
    if usual or (not integers and (black, white) == (0, 1)):
        return Levels(black, white)
    clause = (
        f"values of {dtype} from {lowest:,.6g} to {highest:,.6g}: {black:,.6g} is black, "
        f"{white:,.6g} white (data.range)"
    )
    return Levels(black, white, clause)


@dataclasses.dataclass
class Extremes:
    """The smallest and the largest value of a set, by the type of its images."""

    of: dict = dataclasses.field(default_factory=dict)

    def add(self, dtype, lowest, highest):
        """Widens those of a type."""
        before = self.of.get(dtype, (math.inf, -math.inf))
        self.of[dtype] = min(before[0], lowest), max(before[1], highest)

    def levels(self):
        """{type: `Levels`}, by `of_set`."""
        return {dtype: of_set(*ends, dtype) for dtype, ends in self.of.items()}
