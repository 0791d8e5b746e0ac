"""CIFAR-10 without TensorFlow: from a given path, a copy on this machine, or downloaded."""

import os
import pathlib
from collections.abc import Callable, Iterator

from absl import logging

from tada_jax.data import cifar10_files, download, prepared
from tada_jax.data.base import Dataset, Options, Split
from tada_jax.system.errors import UserError
from tada_jax.system.paths import cache_dir, expanded

# The binary format: the same images as the Python one, and no pickles.
_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
_SIZE = "162 MiB"
_CLASSES = (  # in the order of batches.meta
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_OFFICIAL_COUNTS = (50_000, 10_000)
_EXPECTED = (
    "expected cifar-10-binary.tar.gz or cifar-10-python.tar.gz as published, "
    "or a folder extracted from one"
)
_REMEDY = (
    "pass --config.data.path=/path/to/cifar-10-binary.tar.gz (or cifar-10-python.tar.gz), "
    "or use configs/digits_tada.py, which needs no download"
)


def load(options: Options) -> Dataset:
    """Loads CIFAR-10, uint8 [N,32,32,3], with its own test split (`test_fraction` is unused).

    Looks at `options.path` alone if it is given. Else in this order: a copy prepared by
    tensorflow-datasets (array_record only); an archive or folder in our cache, in the downloads of
    tensorflow-datasets or in those of Keras; the official page, if
    `allow_download`. A copy that
    was given may have any number of images; one that was found must be complete: the official
    50,000 + 10,000, or for tensorflow-datasets as many as it says it prepared.

    Raises:
      UserError: the given path is no readable CIFAR-10, or nothing was found and the download
        is forbidden or fails (offline, within seconds).
    """
    if options.path is not None:
        given = expanded(options.path)
        if not given.exists():
            raise UserError(f"data.path={options.path} does not exist; {_EXPECTED}")
        try:
            return _dataset(*cifar10_files.read(given), source=str(given))
        except ValueError as error:
            raise UserError(f"{error}; {_EXPECTED}") from error

    skipped = []
    for read, place in _local_copies():
        try:
            return _dataset(*read(place), source=str(place))
        except Exception as error:  # a copy nobody asked for must not end the run
            reason = str(error) if isinstance(error, ValueError) else f"{place}: {error!r}"
            skipped.append(" ".join(reason.split()))
            logging.warning("Passing over a copy of CIFAR-10: %s", skipped[-1])

    note = f" (passed over: {'; '.join(skipped)})" if skipped else ""
    if not options.allow_download:
        raise UserError(f"cifar10: no copy on this machine and downloads are off; {_REMEDY}{note}")
    try:
        archive = download.fetch(_URL, md5=_MD5, size=_SIZE)
    except OSError as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise UserError(f"cifar10: cannot download {_URL} ({reason}); {_REMEDY}{note}") from error
    return _dataset(*_read_complete(archive), source=_URL)


def _local_copies() -> Iterator[tuple[Callable, pathlib.Path]]:
    """Yields (reader, place) for each copy that may lie on this machine, best first."""
    for folder in prepared.find("cifar10"):
        yield _read_prepared, folder
    downloads = prepared.data_dir() / "downloads"
    keras = expanded(os.environ.get("KERAS_HOME", "~/.keras")) / "datasets"
    for folder, pattern in (
        (cache_dir(), "cifar-10-*.tar.gz"),
        (downloads, "*cifar-10-*.tar.gz"),
        (downloads, "*/*cifar-10-*.tar.gz"),  # downloads/extracted, downloads/manual, ...
        (keras, "cifar-10-*"),
    ):
        for place in sorted(folder.glob(pattern)):
            yield _read_complete, place


def _read_prepared(folder: pathlib.Path) -> tuple[Split, Split]:
    return prepared.read(folder, "train")[0], prepared.read(folder, "test")[0]


def _read_complete(path: pathlib.Path) -> tuple[Split, Split]:
    train, test = cifar10_files.read(path)
    counts = len(train.images), len(test.images)
    if counts != _OFFICIAL_COUNTS:
        raise ValueError(f"{path} holds {counts[0]} + {counts[1]} images, not 50000 + 10000")
    return train, test


def _dataset(train: Split, test: Split, source: str) -> Dataset:
    counts = f"{len(train.images):,} training + {len(test.images):,} test images"
    source = f"{source}, {counts}"
    return Dataset("cifar10", train, test, 10, source, _CLASSES, standard_names=True)
