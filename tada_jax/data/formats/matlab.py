"""Images in .mat files: of versions 5 and 7, read by scipy, and of 7.3, which is HDF5.

MATLAB counts from 1 and has the axis of the images last, as in SVHN's [H,W,C,N]; HDF5 lists the
axes in reverse. Shapes here are MATLAB's, whichever version a file has.
"""

import dataclasses
import functools
import math
import pathlib
import warnings
from collections.abc import Callable

import numpy as np

from tada_jax.data import arrays, named_arrays
from tada_jax.data.base import Dataset, Options
from tada_jax.data.formats import hdf5
from tada_jax.data.named_arrays import NoArray
from tada_jax.system.errors import UserError

_SVHN = "train_32x32.mat"
_NUMBERS = {
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{"double": "float64", "single": "float32", "logical": "bool"},
}
_HDF5 = b"\x89HDF\r\n\x1a\n"
_OF_LABELS = ("labels", "test labels", "names of classes")  # where cells of text are read


def find(path: pathlib.Path) -> pathlib.Path | None:
    """The file of training images in SVHN's folder; None if it is another folder."""
    return path / _SVHN if (path / _SVHN).is_file() else None


def load(options: Options) -> Dataset:
    """Loads the variables of a .mat as `arrays.load` does the arrays of a .npz.

    Images are [H,W,C,N], [H,W,N] or [N,H,W,C], ...: their number is that of the labels, else a
    third or fourth axis of 1 or 3 is that of the channels. Fields of structures count, as
    imdb.images.data. Names of classes are those of the labels from 1, unless there is a label 0.
    Test splits in files of their own are found as by `hdf5.load`.

    Raises:
      UserError: naming the file and what is wrong with it.
    """
    path = arrays.file_of(options)
    return hdf5.of_files(path, options, _variables, functools.partial(_choose, path))


def _variables(path, stack):
    with path.open("rb") as file:
        head = file.read(520)
    if _HDF5 in (head[:8], head[512:]):
        return _of_version_7_3(*hdf5.opened(path, stack))
    return _of_version_5(path)


def _choose(path, found, *, labelled):
    """The `Chosen` of variables, images [N,...] and labels [N]."""
    choose = functools.partial(
        named_arrays.choose, path, found, along=lambda shape: (shape[0], shape[-1])
    )
    chosen = choose(labelled=True)
    axes = _axes(path, chosen.images, chosen.labels)
    if not labelled:
        chosen = choose(labelled=False)
    labels, test_labels = _column(chosen.labels), _column(chosen.test_labels)
    names, notes = _column(chosen.class_names), []
    counted = isinstance(labels, np.ndarray) and labels.dtype.kind in "uif" and labels.size
    if counted and labels.min() >= 1 and isinstance(names, np.ndarray):
        names = np.array(["", *names.ravel()])
        notes.append("names of classes are those of the labels from 1")
    if counted and path.name == _SVHN and labels.max() == 10:
        labels, test_labels = (
            np.where(part == 10, 0, part) if isinstance(part, np.ndarray) else part
            for part in (labels, test_labels)
        )
        notes.append("label 10 is the digit 0")
    test_images = chosen.test_images
    if test_images is not None and test_images.ndim == len(axes):
        test_images = test_images.transpose(*axes)
    return dataclasses.replace(
        chosen,
        images=chosen.images.transpose(*axes),
        test_images=test_images,
        labels=labels,
        test_labels=test_labels,
        class_names=names,
        notes=tuple(notes),
    )


def _axes(path, images, labels):
    """The axes of images in MATLAB's order as [N,...], by their shape and that of their labels."""
    shape, last = images.shape, images.ndim - 1
    if last not in (2, 3):
        return tuple(range(images.ndim))  # whoever checks them will say why
    lengths = set() if labels is None else {n for n in labels.shape if n > 1} or {1}
    fit = [axis for axis in (0, last) if shape[axis] in lengths]
    channels = [axis for axis in (2, 3) if last == 3 and shape[axis] in (1, 3, 4)]
    if len(fit) == 1:
        first = fit[0]
    elif len(channels) == 1:
        first = last if channels[0] == 2 else 0
    else:
        raise UserError(
            f"data.path={path}: which axis of its images {images.dtype} {list(shape)} counts them? "
            "Save as many labels beside them, or save them as [H,W,C,N] with C of 1 or 3, grey "
            "ones by reshape(x, height, width, 1, [])"
        )
    return (first, *(axis for axis in range(images.ndim) if axis != first))


def _column(array):
    """The values of a row or column as [N]; others as they are, not read."""
    if array is None or array.ndim > 2 or (array.ndim == 2 and 1 not in array.shape):
        return array
    return arrays.text(np.asarray(array)).ravel()


@dataclasses.dataclass(frozen=True)
class _Variable:
    """An array that is read as a whole when its values are asked for."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def ndim(self):
        return len(self.shape)

    def transpose(self, *axes):
        return np.ascontiguousarray(self.read().transpose(axes))

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.read(), dtype)


# Versions 5 and 7


def _of_version_5(path):
    import scipy.io  # here, because it takes a while to import

    found = {}
    for name, shape, kind in scipy.io.whosmat(path):
        if name.startswith("__"):  # that of functions
            continue
        if kind in _NUMBERS or kind == "char":
            dtype = np.dtype(_NUMBERS.get(kind, "U"))
            found[name] = _Variable(tuple(shape), dtype, functools.partial(_read, path, name))
        elif kind == "struct" or (kind == "cell" and named_arrays.role(name) in _OF_LABELS):
            try:
                found |= _of_value(name, _read(path, name))
            except np.exceptions.ComplexWarning:
                found[name] = NoArray("complex numbers")
        else:
            found[name] = NoArray(f"a MATLAB {kind}")
    return found


def _read(path, name):
    """The value of a variable, of the type that it has in MATLAB."""
    import scipy.io

    with warnings.catch_warnings():
        # Complex numbers would lose their imaginary parts.
        warnings.simplefilter("error", np.exceptions.ComplexWarning)
        return _unpadded(scipy.io.loadmat(path, variable_names=[name], mat_dtype=True)[name])


def _unpadded(value):
    return (
        np.char.rstrip(value, " ") if getattr(value, "dtype", np.dtype(int)).kind == "U" else value
    )


def _of_value(name, value):
    """What scipy makes of a variable as arrays by name, those of its fields where it has some."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "buifU":
        value = _unpadded(value)
        return {name: _Variable(value.shape, value.dtype, lambda: value)}
    if isinstance(value, np.ndarray) and value.dtype.names and value.size == 1:
        fields = value.ravel()[0]
        parts = [_of_value(f"{name}/{field}", fields[field]) for field in value.dtype.names]
        return functools.reduce(dict.__or__, parts, {})
    if isinstance(value, np.ndarray) and value.dtype == object and value.size:
        cells = value.ravel()
        if all(isinstance(cell, np.ndarray) and cell.dtype.kind == "U" for cell in cells):
            texts = np.array([str(cell[0]) if cell.size else "" for cell in cells])
            return {name: _Variable(texts.shape, texts.dtype, lambda: texts)}
    return {name: NoArray("no array of numbers")}


# Version 7.3


def _of_version_7_3(file, content):
    found = {}
    for name, item in hdf5.members(file, _group):
        found[name] = item if isinstance(item, NoArray) else _of_item(name, item, content)
    return found


def _class(item):
    return bytes(item.attrs.get("MATLAB_class", b"")).decode("ascii", "replace")


def _group(group):
    """What a group is that is no structure."""
    return NoArray("a MATLAB sparse") if "MATLAB_sparse" in group.attrs else None


def _of_item(name, item, content):
    kind = _class(item)
    if item.attrs.get("MATLAB_empty", 0):
        return NoArray("empty")
    if "MATLAB_object_decode" in item.attrs:
        return NoArray(f"a MATLAB {kind}")
    if kind == "char" and item.ndim == 2:
        return _Variable((item.shape[1],), np.dtype("U"), functools.partial(_rows_of_text, item))
    if kind == "cell":
        if named_arrays.role(name) not in _OF_LABELS or not _all_text(item):
            return NoArray("a MATLAB cell")
        shape = (math.prod(item.shape),)
        return _Variable(shape, np.dtype("U"), functools.partial(_cells_of_text, item))
    stored = hdf5.of_dataset(item, content)
    if isinstance(stored, NoArray):
        return NoArray("complex numbers") if item.dtype.names == ("real", "imag") else stored
    reverse = range(item.ndim)[::-1]
    return hdf5.Stored(item, content, reverse, bool if kind == "logical" else None)


def _rows_of_text(item):
    """The rows of characters, which MATLAB pads with spaces, as text [N]."""
    rows = item[()].astype("<u2").T
    return np.array([row.tobytes().decode("utf-16-le").rstrip(" ") for row in rows])


def _all_text(item):
    return all(_class(item.file[cell]) == "char" for cell in item[()].ravel())


def _cells_of_text(item):
    cells = (item.file[cell] for cell in item[()].T.ravel())
    return np.array(
        ["" if "MATLAB_empty" in cell.attrs else "".join(_rows_of_text(cell)) for cell in cells]
    )
