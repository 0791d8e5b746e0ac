"""Images that are decoded when their files are first read, where it is clear what they become.

The shape of a set is known when all headers are, and its range of values later still; so every file
would be read twice or more. But nearly every set is what its first image lets expect. Its images
are kept beside the cache as they come, and thrown away if one of them, or the whole, is otherwise.
"""

import contextlib
import dataclasses
import os
import pathlib
import tempfile
import threading

import numpy as np

from tada_jax.data import fitting, images, levels
from tada_jax.data.base import Options
from tada_jax.data.fitting import Fit
from tada_jax.data.names import shown
from tada_jax.system.errors import UserError
from tada_jax.system.paths import cache_dir


@dataclasses.dataclass(frozen=True)
class Look:
    """What was found in a file: a header and, where that was tried, pixels; or why not."""

    header: images.Header | None = None
    pixels: np.ndarray | None = None
    reason: str = ""


class Rows:
    """Writes images of files, uint8 [pages,H,W,C], one after the other as a .npy [N,H,W,C].

    They are written, not mapped: on a full disk a mapped file ends the process without a word.

    Attributes:
      names, pages: of the files, and how many images are of each.
    """

    def __init__(self, file: pathlib.Path, shape: tuple[int, int, int]):
        self.names, self.pages, self._shape = [], [], shape
        self._stream = file.open("wb", buffering=2**20)
        self._write_header()

    def add(self, name: str, row: np.ndarray) -> None:
        """Appends those of a file."""
        self._stream.write(np.ascontiguousarray(row))
        self.names.append(name)
        self.pages.append(len(row))

    def close(self) -> None:
        """Says how many there are; numpy has left room for any count."""
        with self._stream:
            self._write_header()

    def _write_header(self):
        self._stream.seek(0)
        shape = (sum(self.pages), *self._shape)
        facts = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._stream, facts)


class ReadAhead:
    """What first readings have found; to be closed.

    Attributes:
      headers: of the files by their names, in the order in which they were added.
      skipped: why the others have none, as "name: reason".
    """

    def __init__(self, options: Options, path: pathlib.Path):
        self.headers: dict[str, images.Header] = {}
        self.skipped: dict[str, str] = {}
        self._options, self._path = options, path
        self._failed: dict[str, str] = {}
        self._guesses: dict[tuple, tuple | None] = {}
        self._lock, self._going = threading.Lock(), True
        self._fit: Fit | None = None
        self._file: pathlib.Path | None = None
        self._rows: Rows | None = None

    def look(self, content: bytes) -> Look:
        """The header of a file, and its pixels while that may be of use; for any thread."""
        try:
            header, opened = fitting.inspect(content, self._options)
        except ValueError as error:
            return Look(reason=str(error))
        fit = self._expected(header)
        if fit is None:
            return Look(header)
        try:
            return Look(header, fitting.pixels(content, header, self._options, fit, opened))
        except ValueError as error:
            return Look(header, reason=str(error))

    def _expected(self, header):
        """The `Fit` of the first image, while all are likely to have it."""
        if not self._going:
            return None
        guess = self._guess(header.height, header.width, header.grey)
        with self._lock:
            if self._fit is None and guess is not None:
                given = levels.given(self._options.range)
                usual = fitting.USUAL if self._options.range == "auto" else given
                self._fit = Fit(*guess, usual)
            fit = self._fit
            self._going &= (
                guess is not None
                and (guess[0], guess[1][:2]) == (fit.resolution, fit.shape[:2])
                and guess[1][2] <= fit.shape[2]  # grey ones are read as colours among colours
                and (self._options.range != "auto" or fitting.is_usual(header))
            )
            return fit if self._going else None

    def _guess(self, height, width, grey):
        """(resolution, shape) of a set of such images; None if it cannot be."""
        kind = height, width, grey
        if kind not in self._guesses:
            alone = {"an image": images.Header(height, width, "", grey)}
            try:
                self._guesses[kind] = fitting.settle(alone, self._options, self._path)
            except UserError:
                self._guesses[kind] = None  # said when the whole set is settled
        return self._guesses[kind]

    def add(self, name: str, look: Look) -> None:
        """Takes what was found in the next file."""
        if look.header is None:
            self.skipped[name] = f"{shown(name)}: {look.reason}"
            return
        self.headers[name] = look.header
        if look.reason:
            self._failed[name] = f"{shown(name)}: {look.reason}"
        elif look.pixels is None:
            self.close()
        elif self._going:
            try:
                self._write(name, look.pixels)
            except OSError:  # what is wrong with the cache is said when it is needed
                self.close()

    def _write(self, name, pixels):
        if self._rows is None:
            place = cache_dir() / "images"
            place.mkdir(parents=True, exist_ok=True)
            self._file = pathlib.Path(tempfile.mkdtemp(prefix="reading.", dir=place)) / "images.npy"
            self._rows = Rows(self._file, self._fit.shape)
        self._rows.add(name, pixels)

    def give(self, fit: Fit, file: pathlib.Path) -> tuple[list[str], list[int], dict] | None:
        """Moves the images to a file, if they are what a set that is so fitted consists of.

        Returns:
          (names of the files, how many images are of each, {name: why it has none} of the others);
          None, and nothing is moved, if they have to be decoded.
        """
        whole = self._rows and len(self._rows.names) + len(self._failed) == len(self.headers)
        if not (self._going and whole and self._is(fit)):
            return None
        rows, self._rows = self._rows, None
        with self._lock:
            self._going = False
        rows.close()
        os.replace(self._file, file)
        return rows.names, rows.pages, self._failed

    def _is(self, fit):
        mine = self._fit
        if (mine.resolution, mine.shape) != (fit.resolution, fit.shape):
            return False
        if self._options.range != "auto":
            return mine.levels == fit.levels
        return all(mine.levels.get(kind) == found for kind, found in fit.levels.items())

    def close(self) -> None:
        """Throws the images away; headers stay."""
        with self._lock:  # a thread may be about to say that it goes on
            self._going = False
        if self._rows is not None:
            with contextlib.suppress(OSError):  # of a full disk
                self._rows.close()
            self._rows = None
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)
                self._file.parent.rmdir()
            self._file = None
