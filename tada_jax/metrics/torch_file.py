"""Arrays from files that PyTorch has saved, without PyTorch and without running what they pickle.

Both layouts are read: the zip of torch 1.6 and later, and the older one, a row of pickles followed
by the raw numbers. Only the few names that a dict of tensors needs are admitted, and they stand for
classes of this module: nothing in the file is ever called.
"""

import collections
import io
import math
import pathlib
import pickle
import zipfile

import ml_dtypes
import numpy as np

from tada_jax.errors import UserError

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # how the older layout begins
_DTYPES = {
    "Float": np.float32,
    "Double": np.float64,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
}


def read_state_dict(path):
    """The tensors of a file, by name.

    Args:
      path: of a .pth or .pt file with a dict of tensors, or one under the key "state_dict".

    Returns:
      {name: array}; what is no tensor is left out. bfloat16 becomes float32.

    Raises:
      UserError: if there is no such file, it is another kind of file, or it is damaged.
    """
    path = pathlib.Path(path).expanduser()
    try:
        content = path.read_bytes()
    except OSError as e:
        raise UserError(f"{path} cannot be read ({e.strerror}): name a file of PyTorch's") from e
    try:
        is_zip = content.startswith(b"PK")
        tree, storages = (_read_zip if is_zip else _read_older)(io.BytesIO(content))
        if isinstance(tree, dict) and isinstance(tree.get("state_dict"), dict):
            tree = tree["state_dict"]
        if not isinstance(tree, dict):
            raise ValueError("it holds no dict of tensors")
        return {
            str(name): tensor.array(storages)
            for name, tensor in tree.items()
            if isinstance(tensor, _Tensor)
        }
    except Exception as e:  # damaged files make pickle and zipfile raise almost anything
        reason = " ".join(f"{e}".split())[:200] or type(e).__name__
        raise UserError(
            f"{path} is no file of PyTorch tensors that can be read ({reason}): download it again"
        ) from e


def _read_zip(file):
    with zipfile.ZipFile(file) as archive:
        (pickled,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
        folder = pickled[: -len("data.pkl")]
        order = "<"
        if f"{folder}byteorder" in archive.namelist():
            order = {b"little": "<", b"big": ">"}[archive.read(f"{folder}byteorder")]
        storages = {}
        for info in archive.infolist():
            name = info.filename.removeprefix(f"{folder}data/")
            if name != info.filename:
                if info.compress_type != zipfile.ZIP_STORED:  # could unpack to any size
                    raise ValueError(f"{info.filename} is compressed")
                storages[name] = (archive.read(info), order)
        tree = _Unpickler(io.BytesIO(archive.read(pickled))).load()
    return tree, storages


def _read_older(file):
    if _Unpickler(file).load() != _MAGIC or _Unpickler(file).load() != _PROTOCOL:
        raise ValueError("it does not begin as one")
    order = "<" if _Unpickler(file).load().get("little_endian", True) else ">"
    unpickler = _Unpickler(file)
    tree = unpickler.load()
    storages = {}
    for key in _Unpickler(file).load():
        count = int.from_bytes(file.read(8), "little" if order == "<" else "big", signed=True)
        size = count * unpickler.storages[key].dtype.itemsize
        content = file.read(size) if size >= 0 else b""
        if len(content) != size:
            raise ValueError("it ends too early")
        storages[key] = (content, order)
    return tree, storages


class _Storage:
    """A row of numbers, to be found in the file by its key."""

    def __init__(self, dtype, key):
        self.dtype, self.key = dtype, key


class _Tensor:
    """A strided view of a storage."""

    def __init__(self, storage, offset, shape, strides, *_):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self, storages):
        content, order = storages[self.storage.key]
        dtype = self.storage.dtype
        whole = np.frombuffer(content, dtype.newbyteorder(order))
        numbers = (self.offset, *self.shape, *self.strides)
        if any(not isinstance(n, int) or n < 0 for n in numbers):
            raise ValueError("a tensor has a negative shape")
        if len(self.shape) != len(self.strides) or math.prod(self.shape) > len(whole):
            raise ValueError("a tensor is larger than its numbers")
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides))
        if math.prod(self.shape) and last >= len(whole):
            raise ValueError("a tensor reaches beyond its numbers")
        strides = [s * dtype.itemsize for s in self.strides]
        view = np.lib.stride_tricks.as_strided(whole[self.offset :], self.shape, strides)
        return np.array(view, np.float32 if dtype == ml_dtypes.bfloat16 else dtype)


def _rebuild_parameter(tensor, *_):
    return tensor


# The one in Python: that in C fills a memo of any size that a damaged file asks for.
class _Unpickler(pickle._Unpickler):
    _ADMITTED = {
        "collections.OrderedDict": collections.OrderedDict,
        "torch._utils._rebuild_tensor_v2": _Tensor,
        "torch._utils._rebuild_parameter": _rebuild_parameter,
        **{f"torch.{name}Storage": np.dtype(dtype) for name, dtype in _DTYPES.items()},
    }

    def __init__(self, file):
        super().__init__(file, encoding="utf-8")
        self.storages = {}

    def find_class(self, module, name):
        if f"{module}.{name}" not in self._ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, refused as unsafe")
        return self._ADMITTED[f"{module}.{name}"]

    def persistent_load(self, pid):
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError("it refers to something other than numbers")
        self.storages[key] = _Storage(dtype, key)
        return self.storages[key]
