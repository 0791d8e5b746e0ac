"""Files by their names: which are passed over, how they are printed, how they are read."""

import contextlib
import dataclasses
import json
import os
import pathlib
import stat
from typing import Any

from tada_jax.data.base import MAX_FILE_BYTES

HEAD = 132  # bytes by which a DICOM file is told


def is_hidden(name: str) -> bool:
    """Whether the name of a file, relative to the root of a set, is none of the user's."""
    # What a Mac packs beside its files, and what a Synology station keeps about them.
    return any(part.startswith(".") or part in ("__MACOSX", "@eaDir") for part in name.split("/"))


def check_bytes(size: int) -> None:
    """Raises ValueError, with a short reason, if an image file is too large."""
    if size > MAX_FILE_BYTES:
        raise ValueError(f"has {size:,} bytes, more than {MAX_FILE_BYTES:,}")


def read_file(file: str | pathlib.Path) -> bytes:
    """The content of a file; raises ValueError with a short reason."""
    try:
        status = os.stat(file)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is no regular file")
        check_bytes(status.st_size)
        with open(file, "rb", buffering=0) as stream:
            return stream.read()
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says; raises ValueError for whatever is none, nested beyond reason too."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


@dataclasses.dataclass(frozen=True)
class Place:
    """The file on the disk that an image is, or is a part of.

    Attributes:
      file: its path.
      opened: what `os.stat` said of it before it was opened for good, as an archive; None where it
        is opened whenever it is read.
    """

    file: str | pathlib.Path
    opened: os.stat_result | None = None


def head_of_file(file: pathlib.Path) -> bytes:
    """The first `HEAD` bytes of a file; b"" where it cannot be read."""
    with contextlib.suppress(OSError):
        if stat.S_ISREG(file.stat().st_mode):
            with file.open("rb") as stream:
                return stream.read(HEAD)
    return b""


def may_be_dicom(name: str) -> bool:
    """Whether to look into a file: scanners give no ending, Siemens .ima, and a UID ends in digits.

    DICOMDIR, the table of contents of a disc, is a DICOM file without an image.
    """
    last = name.rpartition("/")[2].lower()
    _, ending = os.path.splitext(last)
    return last != "dicomdir" and (ending in ("", ".ima") or ending[1:].isdigit())


def shown(name: str) -> str:
    """The name of a file, to be printed in a line."""
    return name if name.isprintable() else ascii(name)
