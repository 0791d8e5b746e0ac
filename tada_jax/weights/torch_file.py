"""Arrays from files that PyTorch has saved, without PyTorch and without running what they pickle.

Both layouts are read: the zip of torch 1.6 and later, and the older one, a row of pickles followed
by the raw numbers. Only the few names that a dict of tensors needs are admitted, and they stand for
classes of this module: nothing in the file is ever called. Tensors are views of the file, of which
nothing is in memory until it is looked at.
"""

import collections
import concurrent.futures
import io
import math
import mmap
import os
import pickletools
import struct
import zipfile
import zlib

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


class StateDict(dict):
    """Tensors by name, views of a file that is mapped.

    Attributes:
      release: gives back the memory in which an array of these has been looked at.
    """

    def __init__(self, tensors, release):
        super().__init__(tensors)
        self.release = release


def _release_of(content):
    """What lets go of the pages of an array; they are read again where they are looked at."""
    base = _ends(np.frombuffer(content, np.uint8))[0] if content else 0

    def release(array):
        start, end = (at - base for at in _ends(array))
        # Whole pages within it: others may be looking at its neighbours.
        start, end = -(-start // mmap.PAGESIZE), end // mmap.PAGESIZE
        mapped = 0 <= start < end <= len(content) // mmap.PAGESIZE  # and no copy
        if mapped and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            size = (end - start) * mmap.PAGESIZE
            content.madvise(mmap.MADV_DONTNEED, start * mmap.PAGESIZE, size)

    return release


_ends = np.lib.array_utils.byte_bounds


def read_state_dict(path):
    """The tensors of a file, by name.

    Args:
      path: of a .pth or .pt file with a dict of tensors, or one under the key "state_dict".

    Returns:
      A `StateDict`, of views of the file that cannot be written; what is no tensor is left out.
      bfloat16 becomes float32.

    Raises:
      UserError: if there is no such file, it is another kind of file, or it is damaged.
    """
    path = expanded(path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except OSError as e:
        raise UserError(f"{path} cannot be read ({e.strerror}): name a file of PyTorch's") from e
    try:
        is_zip = content[:2] == b"PK"
        release = _release_of(content)
        tree, storages, order = (_read_zip if is_zip else _read_older)(content, release)
        if isinstance(tree, dict) and isinstance(tree.get("state_dict"), dict):
            tree = tree["state_dict"]
        if not isinstance(tree, dict):
            raise ValueError("it holds no dict of tensors")
        tensors = {str(name): x for name, x in tree.items() if isinstance(x, _Tensor)}
        inside = [str(name) for name, x in tree.items() if isinstance(x, dict) and _count(x)]
        if inside and sum(_count(tree[name]) for name in tree if str(name) in inside) > len(
            tensors
        ):
            raise ValueError(f"its tensors lie under {', '.join(inside)}: save one of these alone")
        # Tensors may share numbers and repeat them (stride 0), but not fill the memory with them.
        if sum(x.nbytes for x in tensors.values()) > 4 * len(content) + 2**20:
            raise ValueError("its tensors are much larger than the file")
        arrays = {name: x.array(storages, order) for name, x in tensors.items()}
        return StateDict(arrays, release)
    except Exception as e:  # damaged files make pickletools and zipfile raise almost anything
        reason = " ".join(f"{e}".split())[:200] or type(e).__name__
        raise UserError(
            f"{path} is no file of PyTorch tensors that can be read ({reason}): download it again, "
            "or write it by torch.save(model.state_dict(), path)"
        ) from e


def _count(tree):
    """How many tensors are in a dict."""
    return sum(isinstance(x, _Tensor) for x in tree.values())


def _read_zip(content, release):
    whole = memoryview(content)
    with zipfile.ZipFile(io.BufferedReader(_Raw(whole))) as archive:

        def read(name):
            info = archive.getinfo(name)
            if info.compress_type != zipfile.ZIP_STORED:  # could unpack to any size
                raise ValueError(f"{name} is compressed")
            start = info.header_offset
            name_length, extra_length = struct.unpack("<HH", whole[start + 26 : start + 30])
            start += 30 + name_length + extra_length
            member = whole[start : start + info.file_size]
            if len(member) != info.file_size or zlib.crc32(member) != info.CRC:
                raise ValueError(f"{name} is damaged")
            if member:
                release(np.frombuffer(member, np.uint8))
            return member

        folders = [
            n.removesuffix("data.pkl") for n in archive.namelist() if n.endswith("/data.pkl")
        ]
        if len(folders) != 1:
            raise ValueError("it is a zip without a data.pkl of its own")
        has_order = f"{folders[0]}byteorder" in archive.namelist()
        order = bytes(read(f"{folders[0]}byteorder")) if has_order else b"little"
        tree, dtypes = _unpickled(io.BytesIO(read(f"{folders[0]}data.pkl")))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            found = pool.map(read, [f"{folders[0]}data/{key}" for key in dtypes])
            storages = dict(zip(dtypes, found))
    return tree, storages, {b"little": "<", b"big": ">"}[order]


class _Raw(io.RawIOBase):
    """A file in memory that is not copied, as io.BytesIO would."""

    def __init__(self, content):
        self._content, self._place = content, 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=0):
        self._place = offset + (0, self._place, len(self._content))[whence]
        return self._place

    def readinto(self, buffer):
        part = self._content[self._place : self._place + len(buffer)]
        buffer[: len(part)] = part
        self._place += len(part)
        return len(part)


def _read_older(content, release):
    del release  # nothing but the beginning is looked at
    whole = memoryview(content)
    file = io.BufferedReader(_Raw(whole))
    if [_unpickled(file)[0] for _ in range(2)] != [_MAGIC, _PROTOCOL]:
        raise ValueError("it does not begin as one")
    _unpickled(file)  # about the machine that wrote it
    tree, dtypes = _unpickled(file)
    keys, _ = _unpickled(file)
    storages, place = {}, file.tell()
    for key in keys:
        # Machines of either byte order write these numbers as little-endian.
        count = int.from_bytes(whole[place : place + 8], "little", signed=True)
        size, place = count * dtypes[key].itemsize, place + 8
        storages[key] = whole[place : place + max(0, size)]
        if size < 0 or len(storages[key]) != size:
            raise ValueError("it ends too early")
        place += size
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
        """The numbers, of the tensor's shape; `storages`, {key: memoryview}, have this `order`."""
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
        view.flags.writeable = False
        return view.astype(np.float32) if self.dtype == ml_dtypes.bfloat16 else view


def _rebuild_parameter(tensor, *_):
    return tensor


_ADMITTED = {
    "collections.OrderedDict": collections.OrderedDict,
    "torch._utils._rebuild_tensor_v2": _Tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    **{f"torch.{name}Storage": np.dtype(dtype) for name, dtype in _DTYPES.items()},
    **{f"torch.{np.dtype(dtype).name}": np.dtype(dtype) for dtype in _DTYPES.values()},
}


def _named(name):
    if name not in _ADMITTED:
        raise ValueError(f"it names {name}, refused as unsafe")
    return _ADMITTED[name]


def _storage(pid):
    """(dtype, key) of what a pickle refers to outside of itself."""
    kind, dtype, key, _, _, *view = pid
    if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str):
        raise ValueError("it refers to something other than numbers")
    if any(part is not None for part in view):
        raise ValueError("it holds parts of storages, as PyTorch before 0.4 did")
    return dtype, key


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING"),
}


def _unpickled(file):
    """Reads one pickle by the few instructions that tensors need.

    Returns:
      (the object, with tuples as lists; {key: dtype} of the storages it refers to).

    Raises:
      ValueError: for any other instruction.
    """
    stack, below, memo, dtypes = [], [], {}, {}
    for instruction, argument, _ in pickletools.genops(file):
        match instruction.name:
            case "PROTO" | "FRAME":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append(_CONSTANTS[instruction.name])
            case name if name in _VALUES:
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append([])
            case "MARK":
                below.append(stack)
                stack = []
            case "LIST" | "TUPLE":
                items, stack = stack, below.pop()
                stack.append(items)
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                count = int(name[-1])
                stack[-count:] = [stack[-count:]]
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items, stack = stack, below.pop()
                stack[-1].extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                stack[-1][key] = value
            case "SETITEMS":
                items, stack = stack, below.pop()
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "GLOBAL":
                stack.append(_named(argument.replace(" ", ".")))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_named(f"{module}.{name}"))
            case "REDUCE":
                arguments = stack.pop()
                stack[-1] = stack[-1](*arguments)
            case "BUILD":  # sets attributes: here only the versions of modules
                stack.pop()
            case "BINPERSID":
                dtype, key = _storage(stack.pop())
                dtypes[key] = dtype
                stack.append((dtype, key))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "STOP":
                return stack.pop(), dtypes
            case name:
                raise ValueError(f"it holds {name}, which no tensor needs")
    raise ValueError("it ends too early")
