"""Decoded images on disk, made once and found again by the hash of what they were made from."""

import errno
import hashlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable

from tada_jax.errors import UserError
from tada_jax.paths import cache_dir


def digest(*parts: bytes | str) -> str:
    """A short name for content: 32 hexadecimal digits; the boundaries between parts count."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        total.update(len(content).to_bytes(8, "little") + content)
    return total.hexdigest()


def cached(key: str, make: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """The folder in the cache that `make(folder)` fills, filled once for each `key`.

    It appears whole or not at all, also when several processes make it at the same time.

    Raises:
      UserError: if the cache cannot be written.
    """
    target = cache_dir() / "images" / key
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = pathlib.Path(tempfile.mkdtemp(prefix=f"{key}.", dir=target.parent))
    except OSError as error:
        raise _unwritable(error) from error
    try:
        make(partial)
        os.replace(partial, target)
    except OSError as error:
        if not target.is_dir():  # else somebody else was quicker
            raise _unwritable(error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _unwritable(error: OSError) -> UserError:
    full = " is full" if error.errno == errno.ENOSPC else f" cannot be written ({error.strerror})"
    return UserError(
        f"the cache {cache_dir()}{full}: free some space, or set TADA_JAX_CACHE to another folder"
    )
