"""Files of PyTorch are read without it, and nothing in them is run."""

import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from tada_jax.system.errors import UserError
from tada_jax.weights.torch_file import read_state_dict
from tests import tiny


@pytest.mark.parametrize("name", ["zip.pth", "older.pth"])
def test_both_layouts_are_read(name):
    found = read_state_dict(tiny.FILES / name)
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = {
        "whole": base,
        "transposed": base.T,
        "part": base[1:3, ::2],
        "parameter": base[0],
        "half": np.array([1.5, -2], np.float16),
        "brain": np.array([1.5, -2, 3e38], np.float32),
        "double": np.array([1 / 3]),
        "count": np.array(7),
        "signs": np.array([[True, False]]),
        "empty": np.zeros((0, 3), np.float32),
        "repeated": np.tile(base[0, 1:3], (4, 1)),
    }
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype and found[key].shape == value.shape
        np.testing.assert_allclose(found[key], value, rtol=0.01 if key == "brain" else 0)


class Harmful:
    def __reduce__(self):
        return os.system, ("touch harmed",)


def zipped(content, path, compression=zipfile.ZIP_STORED, **others):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)
        for name, data in others.items():
            archive.writestr("archive/" + name.replace("__", "/"), data)


def older(content, path, about=None, rest=b""):
    start = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, about or {})]
    path.write_bytes(b"".join(start) + content + rest)


def tensor(shape, strides, dtype="Float", view=b"N", key=None):
    """The pickle, without its end, of a tensor with the numbers of storage 0."""

    def text(s):
        return b"X" + struct.pack("<I", len(s)) + s

    def tail(value):
        return pickle.dumps(value, 2)[2:-1]

    kind = b"ctorch\n" + dtype.encode() + b"Storage\n"
    start, end = b"(" + text(b"storage") + kind, text(b"cpu") + b"K\x04" + view + b"tQ"
    storage = start + (key or text(b"0")) + end
    numbers = b"".join(b"(" + b"".join(tail(n) for n in ns) + b"t" for ns in (shape, strides))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + numbers + b"tR"


def dict_of(*values):
    return b"}" + b"".join(pickle.dumps(f"w{i}", 2)[2:-1] + v + b"s" for i, v in enumerate(values))


@pytest.mark.parametrize("layout", ["zip", "older"])
def test_pickled_code_is_not_run(layout, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({"weight": Harmful()})
    if layout == "zip":
        zipped(content, tmp_path / "bad.pth")
    else:
        older(content, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=r"names (posix|nt)\.system, refused"):
        read_state_dict(tmp_path / "bad.pth")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (dict_of(b"\x96" + struct.pack("<Q", 1 << 40)), "bytearray8"),
        (dict_of(*[tensor((1 << 18,), (0,))] * 64), "larger than the file"),
        (dict_of(tensor((1 << 30, 1 << 30), (0, 0))), "larger than the file"),
        (dict_of(tensor((4,), (2,))), "reaches beyond"),
        (dict_of(tensor((4,), (1, 1))), "one stride"),
        (dict_of(tensor((2,), (-1,))), "negative"),
        (dict_of(tensor((2,), (1,), view=b"(K\x01K\x02K\x02t")), "before 0.4"),
        (dict_of(tensor((2,), (1,), key=b"K\x00")), "other than numbers"),
    ],
)
def test_files_that_ask_for_too_much(content, message, tmp_path):
    zipped(content + b".", tmp_path / "bad.pth", data__0=bytes(16))
    with pytest.raises(UserError, match=message):
        read_state_dict(tmp_path / "bad.pth")


def test_what_is_compressed_is_refused(tmp_path):
    zipped(bytes(1 << 20), tmp_path / "bad.pth", zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="data.pkl is compressed"):
        read_state_dict(tmp_path / "bad.pth")


def test_a_file_cannot_change_the_reader(tmp_path):
    """BUILD would set an attribute of the stand-in for tensors, for all files to come."""
    changes = b"ctorch._utils\n_rebuild_tensor_v2\nN}X\x05\x00\x00\x00arrayNs\x86b"
    zipped(changes + dict_of(tensor((4,), (1,))) + b".", tmp_path / "a.pth", data__0=bytes(16))
    assert read_state_dict(tmp_path / "a.pth")["w0"].tolist() == [0, 0, 0, 0]
    assert len(read_state_dict(tiny.FILES / "zip.pth")) == 11


def test_a_key_that_is_no_name_is_refused(tmp_path):
    older(b"})\x85Ns.", tmp_path / "odd.pth")
    with pytest.raises(UserError, match="odd.pth .*unhashable"):
        read_state_dict(tmp_path / "odd.pth")


@pytest.mark.parametrize(("dtype", "code"), [("Float", "f"), ("Double", "d"), ("BFloat16", None)])
def test_byte_orders(dtype, code, tmp_path):
    def numbers(order):
        if code:
            return struct.pack(f"{order}2{code}", 1.5, -2)
        return struct.pack(f"{order}2H", 0x3FC0, 0xC000)

    content = dict_of(tensor((2,), (1,), dtype)) + b"."
    for order, name in (("<", b"little"), (">", b"big")):
        zipped(content, tmp_path / "zip.pth", byteorder=name, data__0=numbers(order))
        np.testing.assert_array_equal(read_state_dict(tmp_path / "zip.pth")["w0"], [1.5, -2])
    # The older layout is little-endian wherever it was written.
    rest = pickle.dumps(["0"], 2) + struct.pack("<q", 2) + numbers("<")
    older(content, tmp_path / "older.pth", {"little_endian": False}, rest)
    np.testing.assert_array_equal(read_state_dict(tmp_path / "older.pth")["w0"], [1.5, -2])


@pytest.mark.parametrize("name", ["zip.pth", "older.pth"])
def test_damaged_files_are_one_line(name, tmp_path):
    content, rng = (tiny.FILES / name).read_bytes(), np.random.default_rng(0)
    path, refused = tmp_path / "damaged.pth", 0
    for trial in range(400):
        changed = bytearray(content)
        if trial % 2:
            for place in rng.integers(len(content), size=rng.integers(1, 4)):
                changed[place] = rng.integers(256)
        else:
            del changed[rng.integers(len(content)) :]
        path.write_bytes(changed)
        try:
            read_state_dict(path)
        except UserError as e:
            refused += 1
            assert "\n" not in str(e) and "damaged.pth" in str(e)
    assert refused > 200


def test_what_is_no_file_of_tensors(tmp_path):
    text = tmp_path / "notes.pth"
    text.write_text("hello")
    zipped(pickle.dumps([1, 2]), tmp_path / "list.pth")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("picture.png", b"")
    for path, message in (
        (tmp_path / "nowhere.pth", "cannot be read"),
        (tmp_path, "cannot be read"),
        (text, "no file of PyTorch"),
        (tmp_path / "list.pth", "holds no dict"),
        (tmp_path / "other.zip", "without a data.pkl"),
    ):
        with pytest.raises(UserError, match=message):
            read_state_dict(path)
