"""Colour profiles in image files: which are not sRGB, and how their colours are turned into it.

Networks are trained on numbers, and every peer takes those in the file, whatever profile says how
they look: `config.data.color` "stored". "srgb" turns them into sRGB's (ICC.1, by littleCMS).
"""

import functools
import io

import numpy as np
from PIL import Image, ImageCms

_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # ICC's names of spaces, and Pillow's
_SAME = 3  # of 255: a profile that changes colours by no more is sRGB under another name


@functools.lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    """From a profile's colours, of images of a mode, to sRGB.

    Raises:
      ValueError: if it is none, or of other colours than the image has.
    """
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = opened.profile.xcolor_space
        if _MODES.get(space) != mode:
            raise ValueError(f"is of {space.strip()}, and the image is {mode}")
        return ImageCms.buildTransform(
            opened,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (OSError, ImageCms.PyCMSError, ValueError) as error:
        raise ValueError(
            f"has a colour profile that cannot be applied ({error}): set data.color=stored"
        ) from error


@functools.lru_cache(maxsize=64)
def _is_srgb(profile: bytes, mode: str) -> bool:
    if mode == "CMYK":
        return False
    levels = np.linspace(0, 255, 6).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(*[levels] * (3 if mode == "RGB" else 1)), -1)
    grid = grid.reshape(1, -1, grid.shape[-1])
    image = Image.fromarray(grid if mode == "RGB" else grid[..., 0])
    found = np.asarray(ImageCms.applyTransform(image, _transform(profile, mode)), int)
    return bool(np.abs(found - grid).max() <= _SAME)


def is_other(image: Image.Image) -> bool:
    """Whether an image has a profile by which its colours are not those of sRGB."""
    profile = image.info.get("icc_profile")
    try:
        return bool(profile) and not _is_srgb(profile, _base_mode(image))
    except ValueError:
        return True


def to_srgb(image: Image.Image) -> Image.Image:
    """A loaded image with its colours in sRGB; without a profile, as it is.

    Returns:
      An image of mode "RGB", or "RGBA" where it has transparency.

    Raises:
      ValueError: if the profile cannot be applied.
    """
    if not is_other(image):
        return image
    profile, mode = image.info["icc_profile"], _base_mode(image)
    if mode not in _MODES.values():
        raise ValueError(
            f"has a colour profile and is {image.mode}, to which none is applied: save it with 8 "
            "bits, or set data.color=stored"
        )
    transform = _transform(profile, mode)
    if not image.has_transparency_data:
        made = ImageCms.applyTransform(image.convert(mode), transform)
    else:
        whole = image.convert("RGBA")
        made = ImageCms.applyTransform(whole.convert("RGB").convert(mode), transform)
        made.putalpha(whole.getchannel("A"))
    made.format = image.format
    return made


def _base_mode(image: Image.Image) -> str:
    """The mode of an image's colours alone, by which a profile is applied."""
    if image.mode in ("L", "LA", "La", "1"):
        return "L"
    return "RGB" if image.mode in ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA") else image.mode
