"""Arrays from files that PyTorch has saved, without PyTorch and without running what they pickle.

Both layouts are read: the zip of torch 1.6 and later, and the older one, a row of pickles followed
by the raw numbers. Only the few names that a dict of tensors needs are admitted, and they stand for
classes of this module: nothing in the file is ever called.
"""

import collections
import functools
import io
import math
import pickle
import zipfile

import ml_dtypes
import numpy as np

from tada_jax.system.errors import UserError
from tada_jax.system.paths import expanded

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
    path = expanded(path)
    try:
        content = path.read_bytes()
    except OSError as e:
        raise UserError(f"{path} cannot be read ({e.strerror}): name a file of PyTorch's") from e
    try:
        is_zip = content.startswith(b"PK")
        tree, storages, order = (_read_zip if is_zip else _read_older)(io.BytesIO(content))
        if isinstance(tree, dict) and isinstance(tree.get("state_dict"), dict):
            tree = tree["state_dict"]
        if not isinstance(tree, dict):
            raise ValueError("it holds no dict of tensors")
        tensors = {str(name): x for name, x in tree.items() if isinstance(x, _Tensor)}
        # Tensors may share numbers and repeat them (stride 0), but not fill the memory with them.
        if sum(x.nbytes for x in tensors.values()) > 4 * len(content) + 2**20:
            raise ValueError("its tensors are much larger than the file")
        return {name: x.array(storages, order) for name, x in tensors.items()}
    except Exception as e:  # damaged files make pickle and zipfile raise almost anything
        reason = " ".join(f"{e}".split())[:200] or type(e).__name__
        raise UserError(
            f"{path} is no file of PyTorch tensors that can be read ({reason}): download it again, "
            "or write it by torch.save(model.state_dict(), path)"
        ) from e


def _read_zip(file):
    with zipfile.ZipFile(file) as archive:

        def read(name):
            info = archive.getinfo(name)
            if info.compress_type != zipfile.ZIP_STORED:  # could unpack to any size
                raise ValueError(f"{name} is compressed")
            return archive.read(info)

        folders = [
            n.removesuffix("data.pkl") for n in archive.namelist() if n.endswith("/data.pkl")
        ]
        if len(folders) != 1:
            raise ValueError("it is a zip without a data.pkl of its own")
        has_order = f"{folders[0]}byteorder" in archive.namelist()
        order = read(f"{folders[0]}byteorder") if has_order else b"little"
        unpickler = _Unpickler(io.BytesIO(read(f"{folders[0]}data.pkl")))
        tree = unpickler.load()
        storages = {key: read(f"{folders[0]}data/{key}") for key in unpickler.dtypes}
    return tree, storages, {b"little": "<", b"big": ">"}[order]


def _read_older(file):
    if _Unpickler(file).load() != _MAGIC or _Unpickler(file).load() != _PROTOCOL:
        raise ValueError("it does not begin as one")
    _Unpickler(file).load()  # about the machine that wrote it
    unpickler = _Unpickler(file)
    tree = unpickler.load()
    storages = {}
    for key in _Unpickler(file).load():
        # Machines of either byte order write these numbers as little-endian.
        count = int.from_bytes(file.read(8), "little", signed=True)
        size = count * unpickler.dtypes[key].itemsize
        content = file.read(size) if size >= 0 else b""
        if len(content) != size:
            raise ValueError("it ends too early")
        storages[key] = content
    return tree, storages, "<"


class _Tensor:
    """A strided view of a storage, which is a row of numbers in the file: (dtype, key)."""

    def __init__(self, storage, offset, shape, strides, *_):
        if any(not isinstance(n, int) or n < 0 for n in (offset, *shape, *strides)):
            raise ValueError("a tensor has a negative shape")
        if len(shape) != len(strides):
            raise ValueError("a tensor has not one stride a dimension")
        self.dtype, self.key = storage
        self.offset, self.shape, self.strides = offset, shape, strides
        self.nbytes = math.prod(shape) * self.dtype.itemsize

    def array(self, storages, order):
        if self.key not in storages:
            raise ValueError("the numbers of a tensor are missing")
        size = self.dtype.itemsize  # bits first, because bfloat16 knows no byte order
        bits = np.frombuffer(storages[self.key], f"{order}u{size}").astype(f"u{size}", copy=False)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides))
        if self.nbytes and last >= len(bits):
            raise ValueError("a tensor reaches beyond its numbers")
        strides = [s * size for s in self.strides]
        view = np.lib.stride_tricks.as_strided(
            bits.view(self.dtype)[self.offset :], self.shape, strides
        )
        return np.array(view, np.float32 if self.dtype == ml_dtypes.bfloat16 else self.dtype)


def _rebuild_parameter(tensor, *_):
    return tensor


# The one in Python: that in C fills a memo of any size that a damaged file asks for.
class _Unpickler(pickle._Unpickler):
    _ADMITTED = {
        "collections.OrderedDict": collections.OrderedDict,
        "torch._utils._rebuild_tensor_v2": _Tensor,
        "torch._utils._rebuild_parameter": _rebuild_parameter,
        **{f"torch.{name}Storage": np.dtype(dtype) for name, dtype in _DTYPES.items()},
        **{f"torch.{np.dtype(dtype).name}": np.dtype(dtype) for dtype in _DTYPES.values()},
    }

    def __init__(self, file):
        super().__init__(file, encoding="utf-8")
        self.dtypes = {}  # of the storages, by key

    def find_class(self, module, name):
        if f"{module}.{name}" not in self._ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, refused as unsafe")
        return self._ADMITTED[f"{module}.{name}"]

    def persistent_load(self, pid):
        kind, dtype, key, _, _, *view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError("it refers to something other than numbers")
        if any(part is not None for part in view):
            raise pickle.UnpicklingError("it holds parts of storages, as PyTorch before 0.4 did")
        self.dtypes[key] = dtype
        return dtype, key

    def _refuse(self):
        raise pickle.UnpicklingError("it holds a bytearray")

    def _skip(self):
        self.stack.pop()

    def _list(self, length):
        self.stack[-length:] = [self.stack[-length:]]

    dispatch = pickle._Unpickler.dispatch | {
        pickle.BYTEARRAY8[0]: _refuse,  # allocates whatever size the file claims
        pickle.BUILD[0]: _skip,  # sets attributes, even those of a class; here only _metadata
        # Tuples as lists, which are no keys: hashing a deep tuple overflows the stack of C.
        pickle.TUPLE[0]: pickle._Unpickler.load_list,
        pickle.TUPLE1[0]: functools.partial(_list, length=1),
        pickle.TUPLE2[0]: functools.partial(_list, length=2),
        pickle.TUPLE3[0]: functools.partial(_list, length=3),
    }
