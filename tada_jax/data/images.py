"""One image file: from its bytes to pixels of a wanted size. Pure; nothing is read from disk.

Whatever is wrong with a file becomes a ValueError whose message is one short reason. Pillow may
warn about odd files: silence it around many calls, in the thread that starts them, since filters
are of the process.
"""

import contextlib
import dataclasses
import io
import re
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from tada_jax.data import colour, kinds, rasters, stored
from tada_jax.data.base import MAX_PIXELS
from tada_jax.data.levels import Levels, full

# No EPS (runs Ghostscript), no PSD, WMF, FITS...; TGA last, since nothing marks a file as TGA.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF", "TGA")
ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".apng", ".avif", ".avifs"),
    *(".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),  # JPEG 2000
    *rasters.ENDINGS,
)

_GREY_MODES = ("1", "L", "LA", "La", "I", "F")
_MAX_ASPECT = 16
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclasses.dataclass(frozen=True)
class Header:
    """What can be known without decoding pixels.

    Attributes:
      height, width: in pixels, upright.
      mode: Pillow's, as "RGB"; or what other libraries read, as "DICOM MONOCHROME2".
      grey: whether mode or palette can show no colour; an RGB image that shows none is not grey.
      dtype: of the values that the range of a set goes by, as "uint16": of grey images, and of
        colours that Pillow does not read; "" of others.
      states_white: whether the file says which value is white, as that it has 12 bits.
      high_bytes: whether these are colours of 16 bits, of which Pillow keeps the high byte.
      other_colours: whether it has a colour profile that is not sRGB's.
      pages: numbers of its pages or frames, without those that a TIFF calls reduced versions or
        masks of others.
      is_volume: whether its pages are slices of one body.
    """

    height: int
    width: int
    mode: str
    grey: bool
    dtype: str = ""
    states_white: bool = False
    high_bytes: bool = False
    other_colours: bool = False
    pages: tuple[int, ...] = (0,)
    is_volume: bool = False


def inspect(content: bytes) -> Header:
    """Reads the header of an image file; its kind is told by the content.

    Raises:
      ValueError: one short reason, if it is no image of `FORMATS`, or larger than `MAX_PIXELS`.
    """
    return inspect_and_open(content)[0]


def inspect_and_open(content: bytes) -> tuple[Header, Image.Image | rasters.Raster | None]:
    """`inspect`, and the opened image for `decode`; None where it has several pages."""
    with _one_reason(content):
        image = _open(content)
        pages = (0,)
        if getattr(image, "n_frames", 1) > 1:  # counting them has moved it
            pages = _pages(image)
            image = _open(content, pages[0])
        if isinstance(image, rasters.Raster):
            return _header(image), image if len(image.pages) == 1 else None
        kind, high_bytes = stored.kind(image, content), stored.has_high_bytes(image)
        width, height = image.size
        # The size of a TIFF is that of the upright image already.
        if image.format != "TIFF" and _orientation(image, content) >= 5:
            width, height = height, width
        grey, other = _is_grey(image), colour.is_other(image)
        header = Header(height, width, image.mode, grey, *kind, high_bytes, other, pages)
        # Looking for EXIF has decoded such a PNG, damaged or not: it has to be opened once more.
        loaded = image.format == "PNG" and _NOTES.intersection(_png_chunks(content))
        return header, image if pages == (0,) and not loaded else None


def _header(raster: rasters.Raster) -> Header:
    bare = Image.new("L" if raster.channels < 3 else "RGB", (1, 1))
    bare.info["icc_profile"] = raster.profile
    return Header(
        raster.height,
        raster.width,
        raster.mode,
        grey=raster.channels < 3,
        dtype=raster.measured,
        states_white=raster.stated is not None,
        other_colours=colour.is_other(bare),
        pages=raster.pages,
        is_volume=raster.is_volume,
    )


def extremes(content: bytes, page: int = 0) -> tuple[float, float]:
    """The smallest and the largest value of a page: of a grey image, and of what Pillow does not
    read, as they stand there, of other colours in 8 bits.

    Raises:
      ValueError: as `decode`; or if one is not finite.
    """
    with _one_reason(content):
        image = _open(content, page)
        if isinstance(image, rasters.Raster):
            return image.extremes(page)
        dtype, _ = stored.kind(image, content)
        image.load()
        values = stored.values(image, dtype) if dtype else np.asarray(image.convert("RGB"))
        if not np.isfinite(values).all():
            raise ValueError("holds values that are not finite")
        return float(values.min()), float(values.max())


def decode(
    content: bytes,
    *,
    resolution: int,
    channels: int,
    fit: str = "crop",
    background: tuple[int, int, int] = (255, 255, 255),
    levels: Levels | dict[str, Levels] | None = None,
    page: int = 0,
    color: str = "stored",
    opened: Image.Image | rasters.Raster | None = None,
) -> np.ndarray:
    """Decodes a page or frame of an image file: upright, over the background, resized.

    Args:
      content: of the file.
      resolution, fit: as of `resize`.
      channels, background: as of `flatten`.
      levels: which values become black and white: of all files, or of grey ones that do not state
        it, by the type of their values; where there are none, by all that the file can hold.
      page: one of `Header.pages`.
      color: one of `base.COLORS`.
      opened: what `inspect` opened for the first page, if it did.

    Returns:
      uint8 [h,w,channels], where [h,w] is `fitted_shape` of the upright image.

    Raises:
      ValueError: one short reason, if it cannot be decoded to its end.
    """
    with _one_reason(content):
        image = _open(content, page) if opened is None else opened
        if isinstance(image, rasters.Raster):
            image = image.image(page, levels)
            image = colour.to_srgb(image) if color == "srgb" else image
            image = flatten(image, channels=channels, background=background)
            image = resize(image, resolution=resolution, fit=fit, background=background)
            return np.asarray(image).reshape(image.height, image.width, channels)
        rawmode = stored.rawmode(image)  # gone once loaded
        dtype, states_white = stored.kind(image, content)
        chosen = levels
        if not isinstance(levels, Levels):
            chosen = None if states_white else (levels or {}).get(dtype)
            if chosen is None and dtype in ("int8", "float32"):
                chosen = full(dtype)
        elif stored.has_high_bytes(image) or (states_white and image.format != "TIFF"):
            raise ValueError(
                "has values that Pillow changes when it reads them (colours of 16 bits, or grey "
                "that states which value is white): data.range cannot be applied to them, save it "
                "with 8 bits a channel, or grey with 16"
            )
        image.load()
        if image.format == "TGA" and image.mode == "RGBA" and not content[17] & 15:
            image = _opaque(image)
        # Pillow turns a TIFF by itself while it loads.
        orientation = 1 if image.format == "TIFF" else _orientation(image, content)
        if chosen is not None and dtype:
            image, chosen = _between(image, dtype, chosen), None
        elif dtype == "uint32":
            image = Image.fromarray(_from_16_bits(stored.values(image, dtype)))
        elif image.format == "TIFF" and image.mode.startswith("I;16"):
            image = _to_full_16_bits(image)
        # Pillow stretches these pixels to 8 bits, but not the colour that is declared transparent.
        transparent = image.info.get("transparency")
        if rawmode == "RGB;16B" and transparent:
            image.info["transparency"] = tuple(value >> 8 for value in transparent)
        elif rawmode in ("L;2", "L;4") and transparent:
            image.info["transparency"] = transparent * (85 if rawmode == "L;2" else 17)
        if color == "srgb":
            image = colour.to_srgb(image)
        if chosen is not None and image.has_transparency_data:
            raise ValueError(
                "is transparent: data.range is applied to opaque colours and to grey images"
            )
        image = flatten(image, channels=channels, background=background)
        if chosen is not None:
            image = image.point(list(chosen.to_uint8(np.arange(256))) * len(image.getbands()))
        if orientation > 1:
            image = image.transpose(_UPRIGHT[orientation])
        image = resize(image, resolution=resolution, fit=fit, background=background)
        return np.asarray(image).reshape(image.height, image.width, channels)


@contextlib.contextmanager
def _one_reason(content: bytes):
    try:
        yield
    except UnidentifiedImageError as error:
        raise ValueError(kinds.reason(content)) from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"has far more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # damaged files make Pillow raise almost anything
        text = " ".join(str(error).split()) or type(error).__name__
        if re.match("decoder error|-[0-9]+$|broken data|unrecognized data", text):
            text = f"is damaged or cut short ({text})"
        raise ValueError(text[:200]) from error


def _open(content: bytes, page: int = 0) -> Image.Image | rasters.Raster:
    """By Pillow, unless that knows nothing of the format or makes other pixels of the page."""
    if not content:
        raise ValueError("is empty")
    raster = rasters.find(content)
    if raster is None:
        try:
            return _open_with_pillow(content, page)
        except (UnidentifiedImageError, stored.OtherPixels):
            raster = rasters.instead_of_pillow(content)
            if raster is None:
                raise
    return raster


def _open_with_pillow(content: bytes, page: int) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    width, height = image.size
    if width < 1 or height < 1:
        raise ValueError(f"has {height}x{width} pixels")
    if width * height > MAX_PIXELS:
        raise ValueError(f"has {height:,}x{width:,} pixels, more than {MAX_PIXELS:,}")
    if page:
        image.seek(page)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"has a page of {height:,}x{width:,} pixels, more than {MAX_PIXELS:,}")
    stored.check(image, content)
    return image


def _pages(image: Image.Image) -> tuple[int, ...]:
    """`Header.pages` of an opened image."""
    count = getattr(image, "n_frames", 1)
    if image.format != "TIFF" or count == 1:
        return tuple(range(count))
    whole = []
    for page in range(count):
        image.seek(page)
        if not image.tag_v2.get(ExifTags.Base.NewSubfileType, 0) & (_REDUCED | _MASK):
            whole.append(page)
    return tuple(whole) or (0,)


_REDUCED, _MASK = 1, 4  # bits of TIFF's NewSubfileType


def _is_grey(image: Image.Image) -> bool:
    palette = image.palette
    if image.mode == "P" and palette.mode == "RGB" and palette.rawmode in (None, "RGB"):
        colours = np.frombuffer(palette.palette, np.uint8)
        colours = colours[: len(colours) // 3 * 3].reshape(-1, 3)
        return bool((colours == colours[:, :1]).all())
    return image.mode in _GREY_MODES or image.mode.startswith("I;16")


def _orientation(image: Image.Image, content: bytes) -> int:
    """EXIF's 1..8; 1 if it says nothing, or nothing legible."""
    # Pillow looks for it behind the pixels of a PNG too, and would decode them for that.
    if image.format == "PNG" and not _NOTES.intersection(_png_chunks(content)):
        return 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged note; the pixels are checked on their own
        return 1
    return orientation if orientation in _UPRIGHT else 1


_NOTES = {b"eXIf", b"tEXt", b"zTXt", b"iTXt"}  # in which PNGs may have EXIF


def _png_chunks(content: bytes) -> Iterator[bytes]:
    """The types of the chunks of a PNG, as far as they go."""
    start = 8
    while start + 8 <= len(content):
        yield content[start + 4 : start + 8]
        start += 12 + int.from_bytes(content[start : start + 4], "big")


def flatten(
    image: Image.Image, *, channels: int, background: tuple[int, int, int] = (255, 255, 255)
) -> Image.Image:
    """Turns an image of any mode into 8 bits a channel, without transparency.

    16 bits become 8 by division by 257, rounded (of 16-bit colours Pillow has kept the high byte);
    32-bit integers count as 16 bits if they fit; floats go from 0 to 1. What is transparent is laid
    over the background before anything is resized, so no fringe of the colours that hide below
    transparency can appear. Colours become grey by ITU-R 601 luma.

    Args:
      image: decoded.
      channels: 1 (grey) or 3 (RGB).
      background: RGB 0..255; its luma if `channels` is 1.

    Returns:
      An image of mode "L" or "RGB".

    Raises:
      ValueError: values that are not finite, or integers beyond 16 bits.
    """
    if image.mode == "F":
        image = Image.fromarray(Levels(0.0, 1.0).to_uint8(np.asarray(image)))
    if image.mode.startswith("I"):
        values = np.asarray(image)
        image = _with_transparency(image, values, _from_16_bits(values))
    if image.has_transparency_data:
        if image.mode == "La":
            image = image.convert("LA")  # the only mode that Pillow converts it to
        below = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(below, image.convert("RGBA"))
    if image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")  # Pillow has no shorter way from LAB to L
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _between(image: Image.Image, dtype: str, levels: Levels) -> Image.Image:
    """A loaded grey image of any values as 8 bits, of mode "L", or "LA" with transparency."""
    values = stored.values(image, dtype)
    grey = levels.to_uint8(values)
    inverted = image.format == "TIFF" and dtype != "uint8"
    if inverted and image.tag_v2.get(ExifTags.Base.PhotometricInterpretation) == 0:
        grey = 255 - grey  # white is zero
    return _with_transparency(image, values, grey)


def _opaque(image: Image.Image) -> Image.Image:
    """Without alpha: a TGA of 32 bits that says it has 0 bits of alpha has a filler there."""
    made = image.convert("RGB")
    made.format = image.format
    return made


def _to_full_16_bits(image: Image.Image) -> Image.Image:
    """A TIFF of 9 to 16 bits as 0 (black) .. 65535; Pillow leaves 12 bits and negatives as are."""
    tags = image.tag_v2
    bits = tags.get(ExifTags.Base.BitsPerSample, (16,))[0]
    values = np.asarray(image).astype(np.int64)
    values = values * 65535 // (2**bits - 1)
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:  # white is zero
        values = 65535 - values
    made = Image.fromarray(values.astype(np.uint16))
    made.info, made.format = image.info, image.format
    return made


def _from_16_bits(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"holds integers from {values.min():,} to {values.max():,}: set data.range=LOW:HIGH, "
            "or save it with 8 or 16 bits a channel"
        )
    return ((values + 128) // 257).astype(np.uint8)


def _with_transparency(image: Image.Image, values: np.ndarray, grey: np.ndarray) -> Image.Image:
    """Grey uint8 [H,W], with an alpha channel where the image declares a value transparent."""
    made, transparent = Image.fromarray(grey), image.info.get("transparency")
    if isinstance(transparent, int):
        alpha = np.where(values == transparent, 0, 255).astype(np.uint8)
        made = Image.merge("LA", (made, Image.fromarray(alpha)))
    made.format = image.format
    return made


def fit(
    pixels: np.ndarray,
    *,
    resolution: int,
    channels: int,
    fit: str = "crop",
    background: tuple[int, int, int] = (255, 255, 255),
) -> np.ndarray:
    """Resizes an image that is an array already, uint8 [H,W,1 or 3]; arguments as of `decode`.

    Returns:
      uint8 [h,w,channels].

    Raises:
      ValueError: as `resize`.
    """
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image = flatten(image, channels=channels, background=background)
    image = resize(image, resolution=resolution, fit=fit, background=background)
    return np.asarray(image).reshape(image.height, image.width, channels)


def fitted_shape(height: int, width: int, *, resolution: int, fit: str) -> tuple[int, int]:
    """The (height, width) that `resize` makes of an upright image."""
    if fit != "keep":
        return resolution, resolution
    width, height = _scaled((width, height), resolution / min(width, height))
    return height, width


def resize(
    image: Image.Image,
    *,
    resolution: int,
    fit: str = "crop",
    background: tuple[int, int, int] = (255, 255, 255),
) -> Image.Image:
    """Resizes an image as ADM does: halved by boxes while at least twice too large, then bicubic.

    An image that has the wanted size keeps its pixels bit for bit.

    Args:
      image: of mode "L" or "RGB".
      resolution: R, pixels.
      fit: "crop": the shorter side becomes R and the centre R x R is kept. "pad": the background
        fills the square around the image, of which a longer side above R becomes R; smaller ones
        keep every pixel. "keep": the shorter side becomes R.
      background: RGB 0..255.

    Returns:
      An image of `fitted_shape`.

    Raises:
      ValueError: if that has more than `MAX_PIXELS`.
    """
    height, width = fitted_shape(image.height, image.width, resolution=resolution, fit=fit)
    if height * width > MAX_PIXELS:
        raise ValueError(f"would become {height:,}x{width:,}, more than {MAX_PIXELS:,} pixels")
    if (image.height, image.width) == (height, width):
        return image
    if fit == "crop" and max(image.size) > _MAX_ASPECT * min(image.size):
        # Most of it will be cut off; enlarged first, it might not fit into memory.
        longest = _MAX_ASPECT * min(image.size)
        image = _centre(image, min(image.width, longest), min(image.height, longest))
    side = max if fit == "pad" else min
    size = image.size
    while side(image.size) >= 2 * resolution:
        image = image.resize([max(1, x // 2) for x in image.size], Image.Resampling.BOX)
    # Cropped images are those of ADM's code bit for bit, which rounds after every halving; for the
    # other fits it matters more that what had one aspect keeps one aspect.
    size = image.size if fit == "crop" else size
    scale = resolution / side(size)
    scale = min(1.0, scale) if fit == "pad" else scale
    image = image.resize(_scaled(size, scale), Image.Resampling.BICUBIC)
    if fit == "crop":
        return _centre(image, resolution, resolution)
    if fit == "keep":
        return image
    colour = Image.new("RGB", (1, 1), tuple(background)).convert(image.mode).getpixel((0, 0))
    square = Image.new(image.mode, (resolution, resolution), colour)
    square.paste(image, ((resolution - image.width) // 2, (resolution - image.height) // 2))
    return square


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
