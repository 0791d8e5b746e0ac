"""What the files of a set held when they were read last, so that none is read again.

As git does it: a file whose size, times and number on the disk are as they were holds what it did.
The time at which the disk noted a change (ctime) counts too, so that a copy that brings its old
date along is noticed. A file that was changed just before it was read could change once more within
one tick of the clock and look the same: such files are not trusted.
"""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Callable

from tada_jax.data import cache
from tada_jax.data.cache import digest
from tada_jax.data.names import Place
from tada_jax.system.paths import cache_dir, to_json, write_whole

_SETTLED_NS = 5 * 10**9  # a file must have lain so long; the clocks of some disks tick in 2 seconds


class Manifest:
    """Digests of the files of a set by their names; it may be used by several threads.

    Args:
      path: of the set.
      lies_in: the place of a name on the disk; None where a change of that would not tell.

    Attributes:
      is_new: whether nothing at this path was ever read before.
    """

    def __init__(self, path: pathlib.Path, lies_in: Callable[[str], Place | None]):
        path = pathlib.Path(os.path.abspath(path))
        self._lies_in = lies_in
        self._file = cache_dir() / "manifests" / f"{digest(os.fsencode(path))}.json"
        self._before, self._now, self.is_new = {}, {}, False
        try:
            found = json.loads(self._file.read_text())
            if _is_whole(found):
                self._before = found
        except FileNotFoundError:
            self.is_new = True
        except (OSError, ValueError):
            pass  # as if nothing was known

    def stamp(self, name: str) -> tuple[str, bool]:
        """(all by which a change of a file would show, whether it has lain long enough).

        To be had before the file is read. The former is "" where nothing is known.
        """
        now, place = time.time_ns(), self._lies_in(name)
        if place is None:
            return "", False
        try:
            status = os.stat(place.file)
        except (OSError, ValueError):
            return "", False
        signed = _signature(status)
        # What is read of an archive is what was opened, whatever has its name now.
        if place.opened is not None and _signature(place.opened) != signed:
            return "", False
        return signed, max(status.st_mtime_ns, status.st_ctime_ns) < now - _SETTLED_NS

    def find(self, name: str) -> str | None:
        """The digest of a file that has not changed since it was read."""
        entry = self._before.get(name)
        if entry is None or not entry[0] or entry[0] != self.stamp(name)[0]:
            return None
        self._now[name] = entry
        return entry[1]

    def add(self, name: str, stamp: tuple[str, bool], found: str) -> None:
        """Keeps the digest of a file that was read after `stamp`, unless it changes meanwhile."""
        if stamp[1] and self.stamp(name)[0] == stamp[0]:
            self._now[name] = [stamp[0], found]

    def save(self) -> None:
        """Writes what is known now, if that is something new; does without where it cannot."""
        if self._now != self._before or self.is_new:
            with contextlib.suppress(OSError):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                write_whole(self._file, to_json(self._now))

    def forget(self) -> None:
        """Deletes all that is known."""
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)


def _signature(status: os.stat_result) -> str:
    times = status.st_mtime_ns, status.st_ctime_ns
    return f"{status.st_size} {times} {status.st_ino}"


def digest_of_file(path: pathlib.Path) -> str:
    """`cache.digest_of_file`, of a file that is read only if it has changed since."""
    known = Manifest(path, lambda name: Place(path))
    stamp, found = known.stamp(path.name), known.find(path.name)
    if found is None:
        found = cache.digest_of_file(path)
        known.add(path.name, stamp, found)
        known.save()
    return found


def _is_whole(found) -> bool:
    return isinstance(found, dict) and all(
        isinstance(entry, list) and len(entry) == 2 and all(isinstance(x, str) for x in entry)
        for entry in found.values()
    )
