"""The two published file formats of CIFAR-10, from .tar.gz or extracted folder, without trust.

Archives are read in memory, member by member; nothing is extracted to disk. Pickles are read by an
unpickler that knows no class or function but the few stand-ins below.
"""

import gzip
import io
import pathlib
import pickle
import re
import tarfile
import zlib
from collections.abc import Iterator

import numpy as np

from tada_jax.data.base import Split

_BATCH_FILE = re.compile(r"(test_batch|data_batch_\d+)(\.bin)?")
_PIXELS = 3 * 32 * 32
_RECORD = 1 + _PIXELS  # of the binary format: the label, then the pixels


def read(path: pathlib.Path) -> tuple[Split, Split]:
    """Reads the training and test split from an archive or folder in either published format.

    Args:
      path: cifar-10-python.tar.gz, cifar-10-binary.tar.gz, or a folder extracted from one of
        them, with or without the inner cifar-10-batches-py or cifar-10-batches-bin.

    Returns:
      (train, test), images uint8 [N,32,32,3], in file order. Any number of whole records will do.

    Raises:
      ValueError: one line naming the file and what is wrong with it.
    """
    batches = {}
    try:
        for name, content in _batch_files(path):
            try:
                parse = _parse_binary if name.endswith(".bin") else _parse_pickle
                batches[name.removesuffix(".bin")] = _to_split(*parse(content))
            except ValueError as error:
                raise ValueError(f"{path}: {name} {error}") from error
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ValueError(f"{path} cannot be read to its end ({_one_line(error)})") from error
    test = batches.pop("test_batch", None)
    if test is None or not batches:
        missing = "data_batch_*" if test is not None else "test_batch"
        raise ValueError(f"{path} holds no {missing} file of CIFAR-10")
    train = [batches[name] for name in sorted(batches, key=lambda name: int(name.split("_")[-1]))]
    images = np.concatenate([batch.images for batch in train])
    return Split(images, np.concatenate([batch.labels for batch in train])), test


def _batch_files(path: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    """Yields the name and content of each batch file in a folder or .tar.gz."""
    if path.is_dir():
        for folder in (path, path / "cifar-10-batches-bin", path / "cifar-10-batches-py"):
            files = [file for file in folder.glob("*_batch*") if _BATCH_FILE.fullmatch(file.name)]
            yield from ((file.name, file.read_bytes()) for file in files)
            if files:
                return
    else:
        with gzip.open(path) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    name = pathlib.PurePosixPath(member.name).name
                    if member.isfile() and _BATCH_FILE.fullmatch(name):
                        yield name, tar.extractfile(member).read()
            while stream.read(1 << 20):  # gzip verifies length and checksum only at the very end
                pass


def _parse_binary(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    if not content or len(content) % _RECORD:
        raise ValueError(f"has {len(content):,} bytes, no multiple of the {_RECORD} of a record")
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    return records[:, 1:], records[:, 0]


def _parse_pickle(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    try:
        # Bytes, because the published files were written by Python 2.
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        batch = {_text(key): value for key, value in batch.items()}
        return np.asarray(batch["data"]), np.asarray(batch["labels"])
    except Exception as error:  # damaged pickles raise almost anything
        raise ValueError(f"is no CIFAR-10 pickle ({_one_line(error)})") from error


def _to_split(pixels: np.ndarray, labels: np.ndarray) -> Split:
    """From pixels [N,3072] in channel, row, column order to images [N,32,32,3]."""
    if pixels.dtype != np.uint8 or pixels.shape != (labels.size, _PIXELS) or not labels.size:
        raise ValueError(f"holds {pixels.dtype} {list(pixels.shape)}, not uint8 [N, {_PIXELS}]")
    if labels.ndim != 1 or not np.isin(labels, range(10)).all():
        raise ValueError("has labels other than 0 to 9")
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Split(np.ascontiguousarray(images), labels.astype(np.int32))


# Admitting numpy's own names would not be safe: ndarray(shape, object, buffer) makes Python objects
# of arbitrary addresses. These stand-ins build arrays of plain numbers and nothing else.


class _Dtype:
    def __init__(self, code, *_):
        self.code = _text(code)

    def __setstate__(self, state):
        self.code = _text(state[1]) + self.code  # the byte order

    def numpy(self) -> np.dtype:
        if not re.fullmatch(r"[|<>]?[iu][1248]", self.code):
            raise pickle.UnpicklingError(f"an array of type {self.code}")
        return np.dtype(self.code)


class _Array:
    def __init__(self, *_):
        self.value = np.zeros(0)

    def __setstate__(self, state):
        _, shape, dtype, is_fortran, content = state
        self.value = _from_buffer(content, dtype, shape, "F" if is_fortran else "C")

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.value, dtype)


def _from_buffer(content, dtype, shape, order):
    return np.frombuffer(content, dtype.numpy()).reshape(shape, order=order)


def _scalar(dtype, content):
    return np.frombuffer(content, dtype.numpy())[0]


def _encode(text, encoding):  # how Python 3 writes bytes in protocols 0 to 2
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    _ADMITTED = {
        "numpy.dtype": _Dtype,
        "numpy.ndarray": "ndarray",  # only ever an argument of _reconstruct
        "numpy.core.multiarray._reconstruct": _Array,
        "numpy.core.multiarray.scalar": _scalar,
        "numpy.core.numeric._frombuffer": _from_buffer,
        "_codecs.encode": _encode,
    }

    def find_class(self, module, name):
        full_name = f"{module}.{name}".replace("numpy._core.", "numpy.core.", 1)
        if full_name not in self._ADMITTED:
            raise pickle.UnpicklingError(f"it names {full_name}, refused as unsafe")
        return self._ADMITTED[full_name]


def _text(value: str | bytes) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
