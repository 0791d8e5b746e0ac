"""The cache of compiled programs on disk: of bounded size, and without entries that are cut short.

JAX writes an entry in place and never replaces one. What a full disk or a kill has cut short would
be met, warned of and compiled anew at every start. `tend` deletes such entries beforehand.
"""

import contextlib
import pathlib
import zlib

import zstandard

MOST_BYTES = 4 * 2**30  # of all entries: some hundred networks
_CHECKED = ".checked"  # its time is that of the last look
_SUFFIX = "-cache"


def tend(folder, *, most_bytes=MOST_BYTES, say=None):
    """Deletes what cannot be read of a cache, and what has not been used for longest.

    Only entries that are newer than the last look are read. Whoever else uses the cache at the same
    time loses nothing but an entry.

    Args:
      folder: JAX's cache of compiled programs; it need not be there.
      most_bytes: of all entries together; None for no bound.
      say: called with a line of text if entries were deleted.
    """
    folder = pathlib.Path(folder)
    with contextlib.suppress(OSError):  # a cache that cannot be tended is no reason to stop
        stamp = folder / _CHECKED
        last = stamp.stat().st_mtime if stamp.is_file() else 0.0
        entries = [(path, path.stat()) for path in folder.iterdir() if path.name.endswith(_SUFFIX)]
        stamp.touch()
        recent = [path for path, status in entries if status.st_mtime >= last - 1.0]
        damaged = {path for path in recent if not _is_whole(path)}
        for path in damaged:
            path.unlink(missing_ok=True)
        if damaged and say:
            say(f"{len(damaged)} of the compiled programs in {folder} were cut short: deleted")
        _shrink([entry for entry in entries if entry[0] not in damaged], most_bytes)


def _shrink(entries, most_bytes):
    """Deletes the entries that have not been used for longest, until the others fit."""
    total = sum(status.st_size for _, status in entries)
    for path, status in sorted(entries, key=lambda e: max(e[1].st_atime, e[1].st_mtime)):
        if most_bytes is None or total <= most_bytes:
            return
        path.unlink(missing_ok=True)
        path.with_name(path.name.removesuffix(_SUFFIX) + "-atime").unlink(missing_ok=True)
        total -= status.st_size


def _is_whole(path):
    """Whether an entry can be unpacked; JAX packs by Zstandard where it is installed, else zlib."""
    content = path.read_bytes()
    try:
        if content[:4] == b"\x28\xb5\x2f\xfd":
            return _unpacks_as_zstandard(content)
        unpacker = zlib.decompressobj()
        for start in range(0, len(content), 2**20):
            unpacker.decompress(content[start : start + 2**20])
        return unpacker.eof
    except zlib.error:
        return False


def _unpacks_as_zstandard(content):
    try:
        with zstandard.ZstdDecompressor().stream_reader(content) as reader:
            while reader.read(2**20):
                pass
        return zstandard.get_frame_parameters(content).content_size == reader.tell()
    except zstandard.ZstdError:
        return False
