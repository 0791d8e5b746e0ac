"""Libraries that read formats which few people have: imported when first needed, by one door."""

import functools
import importlib
import importlib.metadata
import importlib.util

LIBRARIES = ("h5py", "imagecodecs", "lmdb", "nibabel", "pydicom", "tifffile")
INSTALL = "pip install 'tada-jax[formats]'"


def library(name: str):
    """The module of an optional library.

    Args:
      name: one of `LIBRARIES`.

    Raises:
      ValueError: where it is not installed, as the end of a sentence that begins with a file.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:  # it is there, and something that it needs is not
            raise
        raise ValueError(f"is read by {name}, which is not installed: {INSTALL}") from error


def has(*names: str) -> bool:
    """Whether all of these optional libraries are installed; imports none of them."""
    return all(importlib.util.find_spec(name) is not None for name in names)


def otherwise(*names: str) -> str:
    """The end of a remedy, where one of these optional libraries would be another; else ""."""
    return "" if has(*names) else f", or {INSTALL}"


@functools.cache
def versions() -> str:
    """Those that are installed, as "h5py 3.16.0, lmdb 3.0.0": what can be read depends on them."""
    there = [name for name in LIBRARIES if has(name)]
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in there)
