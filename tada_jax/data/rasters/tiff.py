"""TIFF by tifffile and imagecodecs: any type of values, compression, order of bytes and planes."""

import io
import logging

import numpy as np

from tada_jax.data import extras
from tada_jax.data.levels import Levels
from tada_jax.data.rasters.base import Raster, Refused, check_size

LIBRARIES = ("tifffile", "imagecodecs")
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE = range(4)  # PhotometricInterpretation
_REDUCED_OR_MASK = 1 | 4  # bits of NewSubfileType
_PROFILE, _ORIENTATION, _PHOTOMETRIC = 34675, 274, 262
_YCC_AS_RGB = 33003  # Aperio's JPEG 2000 of YCbCr, which is decoded as it stands
_UPRIGHT = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def is_one(content: bytes) -> bool:
    """Whether these are the first bytes of a TIFF."""
    return content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read(content: bytes) -> Raster:
    """Opens a TIFF; its pages without those that are reduced versions or masks of others.

    Raises:
      Refused: kinds of colours other than grey, RGB and palettes; channels that are none of them.
      Exception: almost any, of a damaged one.
    """
    tifffile = extras.library("tifffile")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is damaged is an error
    file = tifffile.TiffFile(io.BytesIO(content))
    pages = [n for n in range(len(file.pages)) if not file.pages[n].subfiletype & _REDUCED_OR_MASK]
    first = file.pages[(pages or [0])[0]]
    kind = _kind(first)

    def values(number):
        page = file.pages[number]
        if _kind(page) != kind:
            raise Refused("has pages of several kinds")
        ends = [start + size for start, size in zip(page.dataoffsets, page.databytecounts)]
        if not ends or max(ends) > len(content):
            raise ValueError("is damaged or cut short")
        check_size(page.imagelength, page.imagewidth, page.samplesperpixel, page.dtype.itemsize)
        return _values(page, kind[0])

    channels, dtype, stated, inverted, premultiplied = kind
    height, width = first.imagelength, first.imagewidth
    if _orientation(first) >= 5:
        height, width = width, height
    profile = first.tags.get(_PROFILE)
    return Raster(
        *(height, width, f"TIFF {'grey' if channels < 3 else 'RGB'} {dtype}", channels, dtype),
        values,
        tuple(pages) or (0,),
        stated=stated,
        white_is_zero=inverted,
        premultiplied=premultiplied,
        profile=b"" if profile is None else bytes(profile.value),
    )


def _kind(page) -> tuple[int, str, Levels | None, bool, bool]:
    """(channels, dtype, stated, white_is_zero, premultiplied) of `Raster`, of one page."""
    colours, bits, dtype = page.photometric, page.bitspersample, page.dtype
    if _PHOTOMETRIC not in page.tags:
        raise Refused("is a TIFF that does not say what its numbers mean")
    if colours not in range(4) or page.compression == _YCC_AS_RGB:
        name = getattr(colours, "name", colours)
        raise Refused(f"is a TIFF of colours called {name}, which are not read: save it as RGB")
    if dtype is None or dtype.kind not in "biuf" or (dtype.kind == "i" and bits % 8):
        raise Refused(f"is a TIFF of values of {dtype or 'several kinds'}, which are not read")
    if page.imagedepth != 1:
        raise Refused(f"is a TIFF of {page.imagedepth} layers in one page, which is not read")
    extra, samples = [int(each) for each in page.extrasamples], page.samplesperpixel
    has_alpha = extra[:1] in ([1], [2]) and colours != _PALETTE
    known = samples == 1 + has_alpha and len(extra) == has_alpha
    if not (samples == 3 + len(extra) if colours == _RGB else known):
        raise Refused(
            f"is a TIFF of {samples} channels, of which it does not say that they are colours: "
            "save it as RGB, or its channels as pages"
        )
    if colours == _PALETTE:
        return 3, "uint16", Levels(0.0, 65535.0), False, False
    stated = None
    if dtype.kind in "bu" and bits != 8 * dtype.itemsize:
        stated = Levels(0.0, 2.0**bits - 1)
    name = "uint8" if dtype.kind == "b" else dtype.name
    channels = (3 if colours == _RGB else 1) + has_alpha
    return channels, name, stated, colours == _WHITE_IS_ZERO, extra[:1] == [1]


def _values(page, channels: int) -> np.ndarray:
    """[H,W,channels], upright."""
    planes, _, height, width, each = page.shaped
    found = page.asarray(squeeze=False, maxworkers=1).reshape(planes, height, width, each)
    found = np.moveaxis(found, 0, -2).reshape(height, width, planes * each)
    found = found.view(np.uint8) if found.dtype == bool else found
    if page.photometric == _PALETTE:
        found = page.colormap.T[found[..., 0]]
    found = found[..., :channels]  # what follows alpha, or colours, is neither
    upright = _UPRIGHT.get(_orientation(page))
    return upright(found) if upright else found


def _orientation(page) -> int:
    tag = page.tags.get(_ORIENTATION)
    return 1 if tag is None or tag.value not in range(1, 9) else int(tag.value)
