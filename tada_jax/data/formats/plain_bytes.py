"""Data sets that are published as plain bytes: MNIST's idx files, STL-10, CIFAR-100.

MNIST, Fashion-MNIST, KMNIST and EMNIST come as idx (LeCun): two zeros, a code of the type, the
number of axes, their lengths in big-endian 32 bits, the values. STL-10 (Coates et al. 2011) has no
header: channel after channel, each column after column, labels from 1. CIFAR-100 (Krizhevsky 2009)
has a byte of the coarse and one of the fine label before each image.
"""

import contextlib
import gzip
import math
import os
import pathlib
import re
import zlib

import numpy as np

from tada_jax.data import arrays
from tada_jax.data.base import Dataset, files_alone
from tada_jax.data.cache import cached, digest, digest_of_rows
from tada_jax.data.labels import of_folders_alone
from tada_jax.system.errors import UserError

_IDX = re.compile(r"(.*?)(train|t10k|test)([-_])images([-.])idx3-ubyte(\.gz)?")
_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_STL10, _CIFAR100 = 3 * 96 * 96, 3 * 32 * 32  # bytes of an image


def find(path: pathlib.Path):
    """What reads the data set at a path, a function of `Options`; None if it is none of these.

    Args:
      path: of its folder; of idx files, also of the training images.
    """
    if path.is_file():
        match = _IDX.fullmatch(path.name)
        return (lambda options: _idx(path.parent, match[1], options)) if match else None
    if not path.is_dir():
        return None
    try:
        names = {entry.name for entry in os.scandir(path) if entry.is_file()}
    except OSError:
        return None  # whoever reads images in it will say why
    prefixes = {match[1] for name in names if (match := _IDX.fullmatch(name))}
    if prefixes:
        return lambda options: _idx(path, _only(path, prefixes), options)
    if {"train_X.bin", "test_X.bin"} & names:
        return lambda options: _stl10(path, names, options)
    if {"train.bin", "test.bin", "fine_label_names.txt"} <= names:
        return lambda options: _cifar100(path, options)
    return None


def _only(path, prefixes):
    if len(prefixes) == 1:
        return prefixes.pop()
    raise UserError(
        f"data.path={path} holds {len(prefixes)} data sets ({', '.join(sorted(prefixes))}): name "
        "the file of the training images of one"
    )


def _dataset(path, options, parts, names=None):
    """The Dataset of {"train": (images, labels), "test": ...}; the latter may be missing."""
    if "train" not in parts:
        raise UserError(f"data.path={path} has no training images: fetch them too")
    test = parts.get("test", (None, None))
    if options.labels not in ("auto", "none"):
        raise of_folders_alone(options.labels)
    files_alone(options, path)
    if options.labels == "none":
        parts, test = {"train": (parts["train"][0], None)}, (test[0], None)
    return arrays.dataset(path, options, *parts["train"], *test, names)


# idx


def _idx(folder, prefix, options) -> Dataset:
    parts = {}
    for name in sorted(file.name for file in folder.iterdir()):
        match = _IDX.fullmatch(name)
        if match is None or match[1] != prefix:
            continue
        images = _read_idx(folder / name)
        if prefix.startswith("emnist"):  # published with rows and columns exchanged
            images = images.transpose(0, 2, 1)
        beside = f"{prefix}{match[2]}{match[3]}labels{match[4]}idx1-ubyte"
        labels = None
        for file in (folder / f"{beside}.gz", folder / beside):
            labels = _read_idx(file) if file.is_file() else labels
        parts["train" if match[2] == "train" else "test"] = images, labels
    return _dataset(folder / prefix if prefix else folder, options, parts)


def _read_idx(file: pathlib.Path) -> np.ndarray:
    """The array in an idx file, perhaps compressed by gzip.

    Raises:
      UserError: if it is none, or cut short.
    """
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as stream:
            zeros, kind, axes = stream.read(2), *stream.read(2)
            shape = np.frombuffer(stream.read(4 * axes), ">u4").astype(int)
            dtype = np.dtype(_TYPES[kind])
            size = math.prod(shape.tolist()) * dtype.itemsize
            content = stream.read(size + 1)
        if zeros != b"\0\0" or len(shape) != axes or len(content) != size:
            raise ValueError(f"{len(content):,} bytes of values, not {size:,}")
        return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))
    except (OSError, EOFError, ValueError, KeyError, zlib.error) as error:
        raise UserError(
            f"{file} is no whole idx file ({' '.join(str(error).split())}): fetch it again"
        ) from error


# Without a header


def _rows(file: pathlib.Path, length: int) -> np.ndarray:
    """The bytes of a file in rows, uint8 [N,length], memory-mapped.

    Raises:
      UserError: if there is a rest.
    """
    try:
        size = file.stat().st_size
        if not size or size % length:
            raise ValueError(f"has {size:,} bytes, which are no multiple of {length:,}")
        return np.memmap(file, np.uint8, "r", shape=(size // length, length))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: {error}: fetch it again") from error


def _images(rows: np.ndarray, shape: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray:
    """Rows of bytes as images uint8 [N,H,W,C], memory-mapped from the cache.

    Args:
      rows: uint8 [N,H W C].
      shape: of a row, as it lies.
      axes: which of its axes are height, width, channels.
    """

    def make(folder):
        made = (np.asarray(row).reshape(shape).transpose(axes) for row in rows)
        arrays.write(folder / "images.npy", made, len(rows))

    key = digest("plain bytes 1", str((shape, axes)), digest_of_rows(rows))
    return arrays.read(cached(key, make))


def _lines(file: pathlib.Path):
    """Names of classes, an array of text; None if the file is not there."""
    with contextlib.suppress(OSError):
        lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
        return np.array([line for line in lines if line])
    return None


def _stl10(folder, names, options) -> Dataset:
    parts, classes = {}, _lines(folder / "class_names.txt")
    for part in ("train", "test"):
        if f"{part}_X.bin" not in names:
            continue
        images = _images(_rows(folder / f"{part}_X.bin", _STL10), (3, 96, 96), (2, 1, 0))
        labels = None
        if f"{part}_y.bin" in names:
            labels = _rows(folder / f"{part}_y.bin", 1)[:, 0].astype(np.int32) - 1  # from 1
        parts[part] = images, labels
    made = _dataset(folder, options, parts, classes)
    if "unlabeled_X.bin" in names:
        left = len(_rows(folder / "unlabeled_X.bin", _STL10))
        made = arrays.with_clause(made, f"left out: the {left:,} images of unlabeled_X.bin")
    return made


def _cifar100(folder, options) -> Dataset:
    parts = {}
    for part in ("train", "test"):
        rows = _rows(folder / f"{part}.bin", 2 + _CIFAR100)
        images = _images(rows[:, 2:], (3, 32, 32), (1, 2, 0))
        parts[part] = images, rows[:, 1].astype(np.int32)
    made = _dataset(folder, options, parts, _lines(folder / "fine_label_names.txt"))
    if options.labels != "none":
        made = arrays.with_clause(made, "the 100 fine labels; the 20 coarse ones are left out")
    return made
