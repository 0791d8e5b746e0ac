"""The values in an image file as Pillow gives them: their type, and where they are not the file's.

Pillow stretches what has fewer than 8 bits or states its white, keeps the high byte of 16-bit
colours, and makes other pixels of some TIFFs and JPEG 2000, which are left to `rasters` or
refused (docs/data.md and findings/ have the cases).
"""

import re

import numpy as np
from PIL import ExifTags, Image

from tada_jax.data import extras

_JPEG, _WEBP = 7, 50001  # of TIFF's compressions


class OtherPixels(ValueError):
    """Pillow would make other pixels of a file than it has; `rasters` may read it."""


def check(image: Image.Image, content: bytes) -> None:
    """Refuses files of which Pillow would make other pixels.

    Raises:
      OtherPixels: one short reason.
    """
    if image.format == "TIFF":
        _check_compression(image)
        _check_planes(image)
        _check_order_of_bytes(image)
    elif image.format == "JPEG2000":
        _check_depth(content)


def kind(image: Image.Image, content: bytes) -> tuple[str, bool]:
    """(`images.Header.dtype`, `.states_white`) of an image that is not loaded yet."""
    if image.mode == "F":
        return "float32", False
    if image.mode == "L":
        signed = image.format == "TIFF" and _is_signed(image)
        few_bits = re.search(";[124]", rawmode(image))  # Pillow stretches them to 8
        stretched = few_bits or (image.format == "PPM" and _maxval(content) != 255)
        return "int8" if signed else "uint8", bool(stretched)
    if not image.mode.startswith("I"):
        return "", False
    if image.format == "TIFF":
        tags = image.tag_v2
        bits = tags.get(ExifTags.Base.BitsPerSample, (16,))[0]
        container = 16 if bits <= 16 else 32
        return f"{'int' if _is_signed(image) else 'uint'}{container}", bits not in (16, 32)
    if image.format == "PPM":
        return "uint16", _maxval(content) != 65535  # smaller ones are stretched to that
    if image.format == "JPEG2000":
        return "uint16", max(depths(content), default=16) < 16
    return "uint16", False


def values(image: Image.Image, dtype: str) -> np.ndarray:
    """The values of a loaded grey image as they stand in the file, [H,W]; `dtype` as of `kind`."""
    found = np.asarray(image)
    # Pillow takes the former as signed, and the latter as not.
    if dtype == "uint32":
        return found.astype(np.int32).view(np.uint32)
    return found.view(np.int8) if dtype == "int8" else found


def has_high_bytes(image: Image.Image) -> bool:
    """Whether an image that is not loaded yet has colours of 16 bits."""
    return image.mode in ("RGB", "RGBA", "LA") and ";16" in rawmode(image)


def rawmode(image: Image.Image) -> str:
    """Pillow's word for how the pixels lie in the file, of an image that is not loaded yet."""
    arguments = image.tile[0].args if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _check_compression(image: Image.Image) -> None:
    """Refuses TIFFs that Pillow opens and does not decode, as it is built for PyPI."""
    tags = image.tag_v2
    packed, bits = tags.get(ExifTags.Base.Compression), tags.get(ExifTags.Base.BitsPerSample, (1,))
    if packed == _WEBP or (packed == _JPEG and max(bits) > 12):
        how = "WebP" if packed == _WEBP else f"JPEG of {max(bits)} bits"
        remedy = f"save it with another compression{_otherwise()}"
        raise OtherPixels(f"is a TIFF compressed by {how}, which Pillow does not decode: {remedy}")


def _check_planes(image: Image.Image) -> None:
    """Refuses TIFFs of one plane a channel of which Pillow would make other pixels."""
    tags = image.tag_v2
    if tags.get(ExifTags.Base.PlanarConfiguration) != 2:
        return
    bits, samples = tags.get(ExifTags.Base.BitsPerSample, (1,))[0], image.tag_v2.get(277, 1)
    compressed = tags.get(ExifTags.Base.Compression, 1) != 1
    if samples == 2 or (samples > 1 and bits > 8 and not compressed):
        raise OtherPixels(
            f"is a TIFF of {samples} planes of {bits} bits, of which Pillow makes other pixels: "
            f"save it with its channels interleaved{_otherwise()}"
        )


def _check_order_of_bytes(image: Image.Image) -> None:
    """Refuses TIFFs of which Pillow would swap the bytes of each value once more."""
    tags = image.tag_v2
    bits, packed = tags.get(ExifTags.Base.BitsPerSample, (1,))[0], tags.get(259, 1) != 1
    if tags.prefix == b"MM" and packed and (bits == 32 or (bits == 16 and _is_signed(image))):
        raise OtherPixels(
            f"is a big-endian compressed TIFF of {bits} bits a value, of which Pillow swaps the "
            f"bytes: save it little-endian, or uncompressed{_otherwise()}"
        )


def _check_depth(content: bytes) -> None:
    """Refuses JPEG 2000 of several channels beyond 8 bits, of which Pillow makes black of white."""
    found = depths(content)
    count = len(found)
    if count > 1 and max(found) > 8:
        raise OtherPixels(
            f"is a JPEG 2000 of {count} channels of {max(found)} bits, of which Pillow makes "
            f"other pixels: save it with 8 bits, or as PNG{extras.otherwise('imagecodecs')}"
        )


def _otherwise() -> str:
    return extras.otherwise("tifffile", "imagecodecs")


def depths(content: bytes) -> list[int]:
    """Bits of each channel of a JPEG 2000; [] if they are not found."""
    start = content.find(b"\xff\x4f\xff\x51")  # the first two markers, of which SIZ has the depths
    count = int.from_bytes(content[start + 40 : start + 42], "big") if start >= 0 else 0
    return [(byte & 127) + 1 for byte in content[start + 42 : start + 42 + 3 * count : 3]]


def _maxval(content: bytes) -> int:
    """The value that a PNM calls white."""
    return int(re.sub(rb"#[^\n]*\n", b" ", content[:4096]).split(None, 4)[3])


def _is_signed(tiff: Image.Image) -> bool:
    return tiff.tag_v2.get(ExifTags.Base.SampleFormat, (1,))[0] == 2
