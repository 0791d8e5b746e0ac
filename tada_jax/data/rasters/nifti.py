"""NIfTI by nibabel: volumes of brains and other bodies, as axial slices from below to above.

Slices are seen as radiologists see them: the patient's right at the left, the front at the top,
whichever way the file lies. Where it is one slice alone, that is shown, the head or the front up
or left. The sizes of voxels are not applied.
"""

import logging
import zlib

import numpy as np

from tada_jax.data import extras
from tada_jax.data.base import MAX_FILE_BYTES
from tada_jax.data.levels import Levels
from tada_jax.data.rasters.base import Raster, Refused

ENDINGS = (".nii", ".nii.gz")

_GZIP = b"\x1f\x8b"
_SIZES = {348: "Nifti1Image", 540: "Nifti2Image"}  # of the header, in bytes


def is_one(content: bytes) -> bool:
    """Whether these are the first bytes of a NIfTI, or of one in gzip."""
    head = content[:348]
    if content.startswith(_GZIP):
        try:
            head = zlib.decompressobj(31).decompress(content[:4096], 348)
        except zlib.error:
            return False
    return bool(_kind(head))


def _kind(head: bytes) -> str:
    """nibabel's class for a header; "" if it is none."""
    for order in ("little", "big"):
        size = int.from_bytes(head[:4], order)
        magic = head[344:347] if size == 348 else head[4:7]
        if size in _SIZES and magic in (b"n+1", b"ni1", b"n+2", b"ni2"):
            return _SIZES[size]
    return ""


def read(content: bytes) -> Raster:
    """Opens a NIfTI; its pages are slices, volume after volume.

    Raises:
      Refused: values that are neither real numbers nor colours, more than four axes, or a header
        without its image.
      Exception: almost any, of a damaged one.
    """
    nibabel = extras.library("nibabel")
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # what is damaged is an error
    content = _inflated(content) if content.startswith(_GZIP) else content
    if b"ni" in (content[344:346], content[4:6]):
        raise Refused("is the header of a NIfTI whose image lies in another file: save it as .nii")
    file = getattr(nibabel, _kind(content)).from_bytes(content)
    stored, shape = file.dataobj.dtype, tuple(file.shape)
    channels = len(stored.names) if stored.names else 1
    if (stored.names and channels not in (3, 4)) or (not stored.names and stored.kind not in "iuf"):
        raise Refused(f"is a NIfTI of values of {stored}, which are not read")
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    shape += (1,) * (4 - len(shape))
    if len(shape) > 4 or min(shape) < 1:
        raise Refused(f"is a NIfTI of {len(shape)} axes, {shape}, which is not read")
    try:
        numbers = np.ndarray(shape, stored, content, file.dataobj.offset, order="F")
    except (TypeError, ValueError) as error:
        raise Refused("is damaged or cut short") from error
    # To axes from left to right, from back to front, and from below to above.
    turns = nibabel.orientations.io_orientation(file.affine)
    volume = nibabel.orientations.apply_orientation(numbers, turns)
    axis = 2
    if sum(length == 1 for length in volume.shape[:3]) == 1:
        axis = volume.shape.index(1)
    slices, volumes = volume.shape[axis], volume.shape[3]
    width, height = (volume.shape[other] for other in range(3) if other != axis)
    scale = float(file.dataobj.slope), float(file.dataobj.inter)

    def values(page):
        time, place = divmod(page, slices)
        found = np.moveaxis(volume[..., time], axis, 0)[place, ::-1, ::-1].T
        if stored.names:
            return np.stack([found[name] for name in stored.names], -1)
        found = found[..., None]
        return found * scale[0] + scale[1] if scale != (1, 0) else found

    plain = stored.kind == "u" and scale == (1, 0)
    whole = None
    if stored.kind in "iu" and not plain:
        limits = np.iinfo(stored)
        ends = sorted(float(end) * scale[0] + scale[1] for end in (limits.min, limits.max))
        whole = Levels(*ends) if ends[0] < ends[1] else None
    dtype = "uint8" if stored.names else stored.newbyteorder("=").name if plain else "float64"
    return Raster(
        *(height, width, f"NIfTI {'RGB' if stored.names else stored.name}", channels, dtype),
        values,
        tuple(range(slices * volumes)),
        whole=whole,
        is_volume=slices > 1,
    )


def _inflated(content: bytes) -> bytes:
    """What gzip holds, all of its members."""
    parts, left = [], MAX_FILE_BYTES
    while content:
        member = zlib.decompressobj(31)
        parts.append(member.decompress(content, left + 1))
        left -= len(parts[-1])
        if left < 0:
            raise Refused(f"inflates to more than {MAX_FILE_BYTES:,} bytes")
        if not member.eof:
            raise Refused("is cut short within gzip")
        content = member.unused_data
        content = content if content.startswith(_GZIP) else b""  # what follows is padding
    return b"".join(parts)
