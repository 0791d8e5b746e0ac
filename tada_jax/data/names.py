"""Files by their names: which are passed over, how they are printed, how they are read."""

import pathlib
import stat

MAX_FILE_BYTES = 2**30  # of one image file, also when inflated from an archive


def is_hidden(name: str) -> bool:
    """Whether the name of a file, relative to the root of a set, is none of the user's."""
    # What a Mac packs beside its files, and what a Synology station keeps about them.
    return any(part.startswith(".") or part in ("__MACOSX", "@eaDir") for part in name.split("/"))


def check_bytes(size: int) -> None:
    """Raises ValueError, with a short reason, if an image file is too large."""
    if size > MAX_FILE_BYTES:
        raise ValueError(f"has {size:,} bytes, more than {MAX_FILE_BYTES:,}")


def read_file(file: pathlib.Path) -> bytes:
    """The content of a file; raises ValueError with a short reason."""
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is no regular file")
        check_bytes(status.st_size)
        return file.read_bytes()
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error


def shown(name: str) -> str:
    """The name of a file, to be printed in a line."""
    return name if name.isprintable() else ascii(name)
