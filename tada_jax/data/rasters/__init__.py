"""Image files that Pillow does not read, or makes other pixels of: by libraries of the extra.

A reader for each format, by the first bytes of a file: DICOM and NIfTI always; TIFF and JPEG 2000
where Pillow fails, since what it reads rightly stays as it is.
"""

import threading
from collections.abc import Callable

from tada_jax.data import extras
from tada_jax.data.rasters import dicom, jpeg2000, nifti, tiff
from tada_jax.data.rasters.base import Raster, Refused

ENDINGS = (*dicom.ENDINGS, *nifti.ENDINGS)

_ALWAYS = (dicom, nifti)
_INSTEAD = (tiff, jpeg2000)
_last = threading.local()  # the file that a thread has opened, whose pages it asks for in turn


def find(content: bytes) -> Raster | None:
    """A file of a format that Pillow has nothing to do with; None of others.

    Raises:
      ValueError: one short reason; a library that is not installed is one.
    """
    for reader in _ALWAYS:
        if reader.is_one(content):
            return _remembered(content, reader.read)
    return None


def instead_of_pillow(content: bytes) -> Raster | None:
    """A file that Pillow has refused; None if nothing else reads it, so that its reason stands.

    Raises:
      Refused: one short reason, where a library would read it and we do not.
    """
    for reader in _INSTEAD:
        if reader.is_one(content) and extras.has(*reader.LIBRARIES):
            try:
                return _remembered(content, reader.read)
            except Refused:
                raise
            except Exception:  # a damaged one raises almost anything
                return None
    return None


def _remembered(content: bytes, read: Callable[[bytes], Raster]) -> Raster:
    if getattr(_last, "content", None) is not content:
        _last.content = _last.raster = None
        _last.raster = read(content)
        _last.content = content
    return _last.raster
