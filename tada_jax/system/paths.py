"""Where files are kept between runs, and writing them whole."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib

import numpy as np

from tada_jax.system.errors import UserError


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


def to_json(tree, *, indent=None, sort_keys=False):
    """A tree as JSON text that every reader takes: null stands for numbers that are not finite.

    JSON has neither NaN nor infinity, and what Python writes for them by default is refused by
    `jq`, browsers and most languages.

    Args:
      tree: of dicts, lists, tuples, dataclasses, NumPy arrays and scalars, text, numbers, None.
      indent, sort_keys: as of `json.dumps`.

    Raises:
      TypeError: for anything else.
    """
    return json.dumps(plain(tree), indent=indent, sort_keys=sort_keys, allow_nan=False)


def plain(tree):
    """The same of dicts, lists, text, finite numbers and None, as JSON will give it back."""
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return {f.name: plain(getattr(tree, f.name)) for f in dataclasses.fields(tree)}
    if isinstance(tree, dict):
        return {str(k): plain(v) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return [plain(value) for value in tree]
    if isinstance(tree, np.ndarray | np.generic):
        return plain(tree.tolist())
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else None
    return tree


def expanded(path):
    """A path with ~ for the home folder, as a `pathlib.Path` without it.

    Raises:
      UserError: if the system knows no home folder.
    """
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as e:
        raise UserError(
            f"{path}: this user has no home folder here: set HOME, or name the folder in full "
            "(the cache's is TADA_JAX_CACHE)"
        ) from e


def cache_dir():
    """The folder for downloads and compiled programs: $TADA_JAX_CACHE, or ~/.cache/tada_jax.

    Raises:
      UserError: if the system knows no home folder.
    """
    return expanded(os.environ.get("TADA_JAX_CACHE", "~/.cache/tada_jax"))
