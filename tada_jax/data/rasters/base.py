"""What a file is to all readers of this package: numbers of any type, and what they mean."""

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image

from tada_jax.data.base import MAX_PIXELS
from tada_jax.data.levels import Levels, full

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_MAX_BYTES = 2**30  # of the values of one page


class Refused(ValueError):
    """A file that its library reads and we do not: one short reason."""


@dataclasses.dataclass(frozen=True)
class Raster:
    """An opened image file.

    Attributes:
      height, width: in pixels, upright.
      mode: what kind of file it is, for the report.
      channels: 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha).
      dtype: of its values, as files of one set share their range: "float64" of all that are signed
        or scaled by the file, whatever they are stored as.
      page: from one of `pages` to its values, [H,W,channels]; alpha fills its type.
      pages: numbers of its pages, frames or slices.
      stated: the values that the file says are black and white, if it does.
      whole: all values that it can hold, where that is not all that `dtype` can.
      white_is_zero: whether the smallest value is white.
      premultiplied: whether its colours are multiplied by alpha.
      profile: of its colours, ICC's.
      is_volume: whether its pages are slices of one body, of which the first says little.
    """

    height: int
    width: int
    mode: str
    channels: int
    dtype: str
    page: Callable[[int], np.ndarray]
    pages: tuple[int, ...] = (0,)
    stated: Levels | None = None
    whole: Levels | None = None
    white_is_zero: bool = False
    premultiplied: bool = False
    profile: bytes = b""
    is_volume: bool = False

    def __post_init__(self):
        check_size(self.height, self.width, self.channels)

    @property
    def measured(self) -> str:
        """`dtype` where the range goes by the values of the set; "" of colours of 8 bits."""
        return "" if self.channels > 2 and self.dtype == "uint8" else self.dtype

    def values(self, page: int) -> tuple[np.ndarray, np.ndarray | None]:
        """(values [H,W,1 or 3] of a page, alpha [H,W] from 0 to 1 or None)."""
        found = np.asarray(self.page(page))
        check_size(*found.shape[:2], self.channels)
        if self.channels % 2:
            return found, None
        opaque = np.iinfo(found.dtype).max if found.dtype.kind in "iu" else 1.0
        opaque = self.stated.white if self.stated else opaque
        alpha = (found[..., -1].astype(np.float64) / opaque).clip(0, 1)
        found = found[..., :-1]
        if self.premultiplied:
            found = found / np.where(alpha > 0, alpha, 1)[..., None]
        return found, alpha

    def extremes(self, page: int) -> tuple[float, float]:
        """The smallest and the largest value of a page, without its alpha.

        Raises:
          ValueError: if one is not finite.
        """
        found, _ = self.values(page)
        if not np.isfinite(found).all():
            raise ValueError("holds values that are not finite")
        return float(found.min()), float(found.max())

    def image(self, page: int, levels: Levels | dict[str, Levels] | None) -> Image.Image:
        """A page in 8 bits a channel, of mode "L", "LA", "RGB" or "RGBA"; `levels` as of
        `images.decode`.

        Raises:
          ValueError: as the library that reads it; or if a value is not finite.
        """
        chosen = levels
        if not isinstance(levels, Levels):
            chosen = self.stated or (levels or {}).get(self.measured) or self.whole
        found, alpha = self.values(page)
        pixels = (chosen or full(self.dtype)).to_uint8(found)
        if self.white_is_zero:
            pixels = 255 - pixels
        if alpha is not None:
            alpha = Levels(0.0, 1.0).to_uint8(alpha)[..., None]
            pixels = np.concatenate([pixels, alpha], -1)
        pixels = np.ascontiguousarray(pixels)
        size = pixels.shape[1::-1]
        made = Image.frombytes(_MODES[self.channels], size, pixels.tobytes())
        if self.profile:
            made.info["icc_profile"] = self.profile
        return made


def check_size(height: int, width: int, channels: int, itemsize: int = 1) -> None:
    """Refuses what would take too much memory.

    Raises:
      Refused: naming the size.
    """
    if height < 1 or width < 1:
        raise Refused(f"has {height}x{width} pixels")
    if height * width > MAX_PIXELS or height * width * channels * itemsize > _MAX_BYTES:
        raise Refused(f"has {height:,}x{width:,} pixels, more than {MAX_PIXELS:,}")
