"""Names of files: which are passed over, how they are printed, and how large a file may be."""

MAX_FILE_BYTES = 2**30  # of one image file, also when inflated from an archive


def is_hidden(name: str) -> bool:
    """Whether the name of a file, relative to the root of a set, is none of the user's."""
    # What a Mac packs beside its files, and what a Synology station keeps about them.
    return any(part.startswith(".") or part in ("__MACOSX", "@eaDir") for part in name.split("/"))


def check_bytes(size: int) -> None:
    """Raises ValueError, with a short reason, if an image file is too large."""
    if size > MAX_FILE_BYTES:
        raise ValueError(f"has {size:,} bytes, more than {MAX_FILE_BYTES:,}")


def shown(name: str) -> str:
    """The name of a file, to be printed in a line."""
    return name if name.isprintable() else ascii(name)
