"""Where files are kept between runs, and writing them whole."""

import contextlib
import os
import pathlib


@contextlib.contextmanager
def replacing(path):
    """A path to write to in place of `path`, which it becomes at the end, whole or not at all.

    Every process has its own, so that two of them cannot spoil each other's.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path, text):
    """Writes a text file so that whoever interrupts it leaves the old one or the new one.

    It is on disk afterwards. Characters that UTF-8 does not have, from names of files in other
    encodings, are written as escapes.
    """
    with replacing(path) as partial:
        with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def cache_dir():
    """The folder for downloads and compiled programs: $TADA_JAX_CACHE, or ~/.cache/tada_jax."""
    return pathlib.Path(os.environ.get("TADA_JAX_CACHE", "~/.cache/tada_jax")).expanduser()
