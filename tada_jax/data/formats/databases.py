"""Images in an LMDB database, as LSUN publishes them: keys, and image files as their values.

StyleGAN2 in PyTorch (rosinality) keeps each picture in several sizes, under keys as `256-00017`,
and their number under `length`. Keys are names here; values that are no image files are refused.
"""

import contextlib
import pathlib
import re
from collections.abc import Callable

from tada_jax.data import extras, kinds
from tada_jax.data.names import check_bytes

FILE = "data.mdb"  # in its folder
FILES = (FILE, "lock.mdb")
_COUNT = b"length"  # a key of some writers
_SIZED = re.compile(r"([0-9]+)-([0-9]+)")


def open_images(
    folder: pathlib.Path, stack: contextlib.ExitStack
) -> tuple[list[str], Callable[[str], bytes], tuple[str, ...]]:
    """(names of the images, sorted; the content of one by its name; lines for the report).

    Raises:
      ValueError: as the end of a sentence that begins with the path: lmdb is not installed, or
        nothing in the database is an image file.
    """
    lmdb = extras.library("lmdb")
    try:
        # Not locked: nobody writes, and the disk may be read-only.
        options = {"readonly": True, "lock": False, "readahead": False, "max_dbs": 0}
        opened = stack.enter_context(lmdb.open(str(folder), **options))
        # It is mapped, and a look beyond the end of a file that was cut would end the process.
        whole = (opened.info()["last_pgno"] + 1) * opened.stat()["psize"]
        if (folder / FILE).stat().st_size < whole:
            raise ValueError("is a database that is cut short: copy it again")
        with opened.begin(buffers=True) as reading:
            keys, strange = {}, []
            for key, value in reading.cursor():
                key, beginning = bytes(key), bytes(value[:16])
                if kinds.is_image(beginning):
                    keys[_name(key)] = key
                elif key != _COUNT:
                    strange.append((_name(key), beginning))
    except (lmdb.Error, OSError) as error:
        raise ValueError(
            f"is no LMDB database that can be read ({error}): copy it again"
        ) from error
    if strange:
        name, beginning = strange[0]
        raise ValueError(
            f"holds {len(strange):,} values that are no image files, as {name} (it begins with "
            f"{beginning[:4].hex(' ')}): write the images as PNG or JPEG files"
        )
    if not keys:
        raise ValueError("holds no images")
    keys, said = _largest(keys)

    def read(name):
        with opened.begin(buffers=True) as reading:
            value = reading.get(keys[name])
            check_bytes(len(value))
            return bytes(value)

    return sorted(keys), read, said


def _name(key: bytes) -> str:
    """A key as a name of a file: text where it is some, else hexadecimal digits."""
    with contextlib.suppress(UnicodeError):
        text = key.decode()
        if text.isprintable() and "/" not in text:
            return text
    return f"0x{key.hex()}"


def _largest(keys: dict[str, bytes]) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Of pictures in several sizes those of the largest: (names and keys, lines for the report)."""
    sized = {name: match for name in keys if (match := _SIZED.fullmatch(name))}
    sizes = {int(match[1]) for match in sized.values()}
    if len(sized) < len(keys) or len(sizes) == 1:
        return keys, ()
    largest = {}  # number -> (size, name)
    for name, match in sized.items():
        largest[match[2]] = max(largest.get(match[2], (0, "")), (int(match[1]), name))
    if len(largest) == len(keys):  # none is there twice
        return keys, ()
    taken = {name: keys[name] for _, name in largest.values()}
    listed = ", ".join(map(str, sorted(sizes)))
    return taken, (
        f"left out: {len(keys) - len(taken):,} smaller forms of the same pictures (sizes "
        f"{listed}), of each of which the largest is read",
    )
