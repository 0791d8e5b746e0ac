"""What is made once and kept on disk, found again by the hash of what it was made from."""

import errno
import hashlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from tada_jax.system.errors import UserError
from tada_jax.system.paths import cache_dir

T = TypeVar("T")


def digest(*parts: bytes | str) -> str:
    """A short name for content: 32 hexadecimal digits; the boundaries between parts count."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        total.update(len(content).to_bytes(8, "little") + content)
    return total.hexdigest()


def digest_of_file(path: pathlib.Path) -> str:
    """`digest` of the content of a file that need not fit into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def digest_of_rows(images, chunk_bytes: int = 2**25) -> str:
    """`digest` of an array or `Rows` uint8 [N, ...] with its shape, read in pieces."""
    total = hashlib.blake2b(str(images.shape).encode(), digest_size=16)
    chunk = max(1, chunk_bytes // max(1, int(np.prod(images.shape[1:]))))
    for start in range(0, len(images), chunk):
        total.update(np.ascontiguousarray(images[start : start + chunk]))
    return total.hexdigest()


def cached(key: str, make: Callable[[pathlib.Path], None], *, kind: str = "images") -> pathlib.Path:
    """The folder in the cache that `make(folder)` fills, filled once for each `key` of a kind.

    It appears whole or not at all, also when several processes make it at the same time.

    Raises:
      UserError: if the cache cannot be written.
    """
    target = cache_dir() / kind / key
    try:
        if target.is_dir():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = pathlib.Path(tempfile.mkdtemp(prefix=f"{key}.", dir=target.parent))
    except OSError as error:
        raise _unwritable(error) from error
    try:
        make(partial)
        for name in os.listdir(partial):
            with (partial / name).open("rb") as file:
                os.fsync(file.fileno())  # a power cut must not leave a name without its content
        partial.chmod(0o777 & ~_umask())  # mkdtemp's are private
        os.replace(partial, target)
    except OSError as error:
        if not target.is_dir():  # else somebody else was quicker
            raise _unwritable(error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def load_cached(
    key: str,
    make: Callable[[pathlib.Path], None],
    load: Callable[[pathlib.Path], T],
    *,
    kind: str = "images",
) -> T:
    """`load(folder)` of a `cached` folder; one that it cannot read is made anew, once.

    Raises:
      UserError: if the cache cannot be written, or a damaged folder cannot be deleted.
    """
    folder = cached(key, make, kind=kind)
    try:
        return load(folder)
    except PermissionError as error:
        raise UserError(
            f"the cache folder {folder} cannot be read ({error.strerror}): make it readable, or "
            "set TADA_JAX_CACHE to another folder"
        ) from error
    except Exception as error:  # what a damaged file of any kind may raise
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            raise UserError(f"the cache folder {folder} is damaged; delete it") from None
        return load(cached(key, make, kind=kind))


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _unwritable(error: OSError) -> UserError:
    full = " is full" if error.errno == errno.ENOSPC else f" cannot be written ({error.strerror})"
    return UserError(
        f"the cache {cache_dir()}{full}: free some space, or set TADA_JAX_CACHE to another folder"
    )
