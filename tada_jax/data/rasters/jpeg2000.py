"""JPEG 2000 of several channels of more than 8 bits, by imagecodecs."""

from collections.abc import Iterator

import numpy as np

from tada_jax.data import extras, stored
from tada_jax.data.levels import Levels
from tada_jax.data.rasters.base import Raster, Refused, check_size

LIBRARIES = ("imagecodecs",)
_CODESTREAM, _BOX = b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"
_SRGB, _GREY = 16, 17  # enumerated colours
_ALPHA, _PREMULTIPLIED = 1, 2  # what a channel is, by its definition


def is_one(content: bytes) -> bool:
    """Whether these are the first bytes of a JPEG 2000, in a box or bare."""
    return content.startswith((_CODESTREAM, _BOX))


def read(content: bytes) -> Raster:
    """Opens a JPEG 2000; the second or fourth channel is alpha, as Pillow takes it.

    Raises:
      Refused: other colours than grey and RGB, channels of several depths, signed ones, palettes.
      Exception: almost any, of a damaged one.
    """
    imagecodecs = extras.library("imagecodecs")
    start, depths = content.find(_CODESTREAM), stored.depths(content)
    right, bottom, left, top = (
        int.from_bytes(content[start + at : start + at + 4], "big") for at in (8, 12, 16, 20)
    )
    height, width, count = bottom - top, right - left, len(depths)
    signed = any(byte & 128 for byte in content[start + 42 : start + 42 + 3 * count : 3])
    if len(set(depths)) > 1 or signed or count not in (1, 2, 3, 4) or depths[0] > 16:
        raise Refused(f"is a JPEG 2000 of {count} channels that are not alike, signed, or too many")
    profile, premultiplied = b"", False
    for name, box in _boxes(content):
        if name == b"pclr":
            raise Refused("is a JPEG 2000 with a palette beyond 8 bits: save it as PNG")
        if name == b"colr" and box[0] == 1:
            colours = int.from_bytes(box[3:7], "big")
            if colours not in (_SRGB, _GREY):
                raise Refused(f"is a JPEG 2000 of colours of number {colours}, which are not read")
        if name == b"colr" and box[0] == 2:
            profile = box[3:]
        if name == b"cdef":
            kinds = {int.from_bytes(box[at + 2 : at + 4], "big") for at in range(2, len(box), 6)}
            premultiplied = _PREMULTIPLIED in kinds
            if count % 2 == 0 and not kinds & {_ALPHA, _PREMULTIPLIED}:
                raise Refused(f"is a JPEG 2000 of {count} channels without alpha")
    check_size(height, width, count, 2)

    def values(_):
        found = np.asarray(imagecodecs.jpeg2k_decode(content))
        return found.reshape(height, width, count)

    dtype = "uint8" if depths[0] <= 8 else "uint16"
    return Raster(
        *(height, width, f"JPEG 2000 of {depths[0]} bits", count, dtype, values),
        stated=Levels(0.0, 2.0 ** depths[0] - 1),
        premultiplied=premultiplied,
        profile=profile,
    )


def _boxes(content: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, bytes]]:
    """Yields (name, content) of the boxes before the pixels, and of those in the header's."""
    end = len(content) if end is None else end
    if not content.startswith(_BOX):
        return
    while start + 8 <= end:
        size, name = (
            int.from_bytes(content[start : start + 4], "big"),
            content[start + 4 : start + 8],
        )
        if size < 8 or name == b"jp2c":  # of an open or a long box, which is that of the pixels
            return
        if name == b"jp2h":
            yield from _boxes(content, start + 8, min(end, start + size))
        yield name, content[start + 8 : start + size]
        start += size
