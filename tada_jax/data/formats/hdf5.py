"""Images in HDF5 files: named arrays, perhaps in groups, read a few images at a time.

They may be larger than memory: what is read becomes uint8 in the cache at once, found again by the
digest of the file, so that a second start reads nothing of one that has not changed. Links and what
lies in other files are named and never followed, since that digest says nothing of them.
"""

import contextlib
import functools
import math
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from tada_jax.data import arrays, extras, named_arrays
from tada_jax.data.base import Dataset, Options
from tada_jax.data.cache import digest
from tada_jax.data.manifest import digest_of_file
from tada_jax.data.named_arrays import NoArray
from tada_jax.system.errors import UserError

ENDINGS = (".h5", ".hdf5", ".hdf", ".he5")

_PIECE = 2**26  # bytes to read at once
_CHUNKS = 2**30  # bytes that whole chunks of the file may take instead
_MOST = 10_000  # arrays in a file; with one for each image there are more
_HDF4 = b"\x0e\x03\x13\x01"


def find(path: pathlib.Path) -> pathlib.Path | None:
    """The file of training images in a folder that has one, as cat_train_x.h5."""
    found = []
    with contextlib.suppress(OSError):
        found = [file for file in path.glob("*train_x.*") if file.suffix.lower() in ENDINGS]
    return found[0] if len(found) == 1 else None


def load(options: Options) -> Dataset:
    """Loads the named arrays of an HDF5 file as `arrays.load` does those of a .npz.

    Groups count: "train/images" are training images, "test/images" test images. If "train" is in
    the name of the file, the one beside it that has "test" instead holds the test split, and
    train_x.h5 has its labels in train_y.h5.

    Raises:
      UserError: naming the file and what is wrong with it.
    """
    path = arrays.file_of(options)
    return of_files(path, options, _arrays, functools.partial(named_arrays.choose, path))


def of_files(path: pathlib.Path, options: Options, read: Callable, choose: Callable) -> Dataset:
    """The Dataset of a file of named arrays and those beside it.

    Args:
      path: of the file.
      options: `Options`.
      read: (file, an ExitStack that closes it) -> its arrays by name.
      choose: (all arrays by name, labelled=...) -> `named_arrays.Chosen`.

    Raises:
      UserError: naming the file and what is wrong with it.
    """
    files, found = named_arrays.beside(path), {}
    at = path
    with contextlib.ExitStack() as stack:
        try:
            for group, at in files.items():
                found |= {f"{group}{name}": array for name, array in read(at, stack).items()}
            at = path
            chosen = choose(found, labelled=options.labels != "none")
            held_out = files.get("test/")
            if held_out and chosen.test_images is not None:
                if (chosen.labels is None) == (chosen.test_labels is None):
                    made = arrays.of_named(path, options, chosen)
                    return arrays.with_clause(made, f"held out: those of {held_out.name}")
                chosen = chosen.without_test(f"{held_out.name} (its labels are not there)")
            return arrays.of_named(path, options, chosen)
        except UserError:
            raise
        except Exception as error:  # damaged files raise almost anything
            reason = " ".join(str(error).split()) or type(error).__name__
            where = "" if at == path else f"{at.name}: "
            raise UserError(
                f"data.path={path} cannot be read ({where}{reason[:200]}): it must be a whole "
                f"{path.suffix} file of plain numbers"
            ) from error


def opened(path: pathlib.Path, stack: contextlib.ExitStack):
    """An h5py.File, and a function that gives the digest of its bytes.

    Raises:
      UserError: if there is no h5py.
      OSError: if it is no HDF5 file.
    """
    try:
        h5py = extras.library("h5py")
    except ValueError as error:
        raise UserError(f"data.path={path} {error}") from error
    with path.open("rb") as file:
        if file.read(4) == _HDF4:
            raise UserError(f"data.path={path} is HDF4: turn it into HDF5 by h4toh5")
    # Whoever reads needs no lock, and many file systems of clusters have none.
    file = stack.enter_context(h5py.File(path, "r", locking="best-effort"))
    return file, functools.cache(functools.partial(digest_of_file, path))


def _arrays(path, stack):
    file, content = opened(path, stack)
    return {
        name: item if isinstance(item, NoArray) else of_dataset(item, content)
        for name, item in members(file)
    }


def members(file, known: Callable = lambda group: None) -> Iterator[tuple]:
    """Yields (name, h5py.Dataset or `NoArray`) of a file and its groups, the outer ones first.

    An object with several names has the first alone. Groups that begin with "#" are not entered:
    MATLAB keeps there what it refers to.

    Args:
      file: h5py.File.
      known: the `NoArray` that a group is, or None of one to enter.

    Raises:
      ValueError: if there are too many.
    """
    h5py = extras.library("h5py")
    groups, seen, count = [("", file)], {h5py.h5o.get_info(file["/"].id).addr}, 0
    while groups:
        prefix, group = groups.pop(0)
        for name in group:
            link, full = group.get(name, getlink=True), f"{prefix}{name}"
            if not isinstance(link, h5py.HardLink):
                yield full, NoArray("a link")
                continue
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen or (name.startswith("#") and not prefix):
                continue
            seen.add(address)
            if isinstance(item, h5py.Group) and known(item):
                yield full, known(item)
            elif isinstance(item, h5py.Group):
                groups.append((f"{full}/", item))
            elif isinstance(item, h5py.Dataset):
                count += 1
                if count > _MOST:
                    raise ValueError(f"it holds more than {_MOST:,} arrays, not one of all images")
                yield full, item


def of_dataset(item, content: Callable[[], str]):
    """A `Stored` of an h5py.Dataset; `NoArray` where that holds no plain values of its own."""
    h5py = extras.library("h5py")
    try:
        dtype = item.dtype
    except TypeError:  # of a type that numpy does not have
        return NoArray("of an unknown type")
    if item.shape is None:
        return NoArray("empty")
    if item.is_virtual or item.external:
        return NoArray("kept in other files")
    if h5py.check_string_dtype(dtype) is None and dtype.kind not in "buifc":
        return NoArray("compound values" if dtype.names else f"values of type {dtype}"[:60])
    settings = item.id.get_create_plist()
    for number, _, _, name in map(settings.get_filter, range(settings.get_nfilters())):
        if not h5py.h5z.filter_avail(number):
            known = name.decode("utf-8", "replace") or "unnamed"
            return NoArray(f"packed by a filter that h5py does not have ({known[:40]}, {number})")
    return Stored(item, content)


class Stored:
    """An array in an HDF5 file, of which some rows are read when a slice of them is asked for.

    Its axes may be in another order than in the file, with one of length 1 at the end.

    Attributes:
      shape, ndim, dtype: of what is read; text is numpy's.
    """

    def __init__(self, source, content, axes=None, dtype=None):
        self._source, self._content = source, content
        self._axes = tuple(range(source.ndim)) if axes is None else tuple(axes)
        self.shape = tuple(1 if a is None else source.shape[a] for a in self._axes)
        self.ndim = len(self.shape)
        self._is_text = extras.library("h5py").check_string_dtype(source.dtype) is not None
        own = np.dtype("U") if self._is_text else np.dtype(source.dtype.str).newbyteorder("=")
        if source.dtype == bool:  # in the file it is a list of the names of two numbers
            own = np.dtype(bool)
        self.dtype = np.dtype(dtype or own)

    def __len__(self):
        return self.shape[0]

    @property
    def content(self) -> str:
        """What stands for the values, without reading all of them."""
        return digest(self._content(), self._source.name, repr(self._axes), self.dtype.str)

    @functools.cached_property
    def step(self) -> int:
        """How many rows to read at once: whole chunks of the file, if these are not too large."""
        axis = self._axes[0]
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        rows = max(1, _PIECE // max(1, row))
        chunk = self._source.chunks[axis] if self._source.chunks else 1
        if chunk <= rows:
            return rows - rows % chunk
        return chunk if chunk * row <= _CHUNKS else rows  # the latter unpacks it several times

    def transpose(self, *axes: int) -> "Stored":
        """The same with its axes in another order."""
        return Stored(self._source, self._content, [self._axes[a] for a in axes], self.dtype)

    def __getitem__(self, index):
        """Rows, by a slice; with `[..., None]` the same array with one axis more."""
        if index == (Ellipsis, None):
            return Stored(self._source, self._content, (*self._axes, None), self.dtype)
        there = [a for a in self._axes if a is not None]
        where = [slice(None)] * len(there)
        if where:
            where[there[0]] = index
        try:
            source = self._source.asstr("utf-8") if self._is_text else self._source
            values = np.asarray(source[tuple(where)])
        except OSError as error:  # by this name it would be the cache that cannot be written
            raise RuntimeError(str(error)) from error
        values = values.transpose(there)
        values = values[..., None] if None in self._axes else values
        return values.astype(str if self._is_text else self.dtype, copy=False)

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[:], dtype)
