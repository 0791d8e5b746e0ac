"""One verified download into the cache, which gives up at once where there is no network."""

import hashlib
import http.client
import os
import pathlib
import queue
import tempfile
import threading
import urllib.error
import urllib.request

from absl import logging

from tada_jax.system.paths import cache_dir

_REACH_SECONDS = 5
_STALL_SECONDS = 30


def fetch(url: str, *, md5: str, size: str) -> pathlib.Path:
    """Downloads `url` into the cache; the file appears there only once whole and verified.

    Args:
      url: what to download; its last part names the file in the cache.
      md5: expected checksum, hexadecimal.
      size: how large it is, in words, for the log.

    Returns:
      The file in the cache.

    Raises:
      OSError: unreachable (within 5 s), interrupted, altered, or the cache cannot be written.
    """
    _require_reachable(url)
    target = cache_dir() / url.rsplit("/", 1)[-1]
    target.parent.mkdir(parents=True, exist_ok=True)
    logging.warning("Downloading %s (%s) to %s", url, size, target)
    digest = hashlib.md5(usedforsecurity=False)
    # A name of its own, so that two runs at once cannot write into each other's file.
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=target.name, suffix=".partial")
    try:
        with (
            open(handle, "wb") as file,
            urllib.request.urlopen(url, timeout=_STALL_SECONDS) as response,
        ):
            while block := response.read(1 << 20):
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != md5:
            raise OSError(f"it arrived incomplete or altered: md5 {digest.hexdigest()}, not {md5}")
        os.replace(partial, target)
    except http.client.HTTPException as error:
        raise OSError(f"the transfer broke off: {error!r}") from error
    finally:
        pathlib.Path(partial).unlink(missing_ok=True)
    return target


def _require_reachable(url: str) -> None:
    """Raises OSError unless the server answers within seconds, through a proxy if one is set."""
    answers = queue.SimpleQueue()

    def ask():
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=_REACH_SECONDS).close()
            answers.put(None)
        except urllib.error.HTTPError:
            answers.put(None)  # someone is there; the download itself will tell what is wrong
        except Exception as error:
            answers.put(error)

    # In a thread, because no timeout applies to the resolution of names.
    threading.Thread(target=ask, daemon=True).start()
    try:
        error = answers.get(timeout=_REACH_SECONDS)
    except queue.Empty:
        error = TimeoutError(f"no answer in {_REACH_SECONDS} s")
    if error is not None:
        raise error if isinstance(error, OSError) else OSError(str(error))
