"""LMDB databases of images."""

import sys

import lmdb
import numpy as np
import pytest

from tests.data.pictures import encode, error, load, noise, write


def database(folder, values):
    with lmdb.open(str(folder), map_size=2**24) as opened, opened.begin(write=True) as writing:
        for key, value in values.items():
            writing.put(key, value)
    return folder


def test_lsuns(tmp_path):
    """Keys are digests, values WebP files; the folder or its file may be named."""
    pictures = [noise(8, 8) for _ in range(3)]
    files = {f"{i:040x}".encode(): encode(p, "WEBP", lossless=True) for i, p in enumerate(pictures)}
    root = database(tmp_path / "church_train_lmdb", files)
    for path in (root, root / "data.mdb"):
        found = load(path)
        np.testing.assert_array_equal(found.train.images[:], np.stack(pictures))
        assert not found.num_classes and "a database of images does not tell" in found.source


def test_of_pictures_in_several_sizes_the_largest_are_read(tmp_path):
    files = {
        f"{size}-{i:05}".encode(): encode(noise(size, size), "JPEG")
        for size in (8, 16, 32)
        for i in range(3)
    }
    found = load(database(tmp_path / "a", files | {b"length": b"3"}))
    assert found.train.images.shape == (3, 32, 32, 3)
    assert "left out: 6 smaller forms of the same pictures (sizes 8, 16, 32)" in found.source
    del files[b"32-00001"]  # which is there at 16 pixels, and not in every size
    found = load(database(tmp_path / "b", files))
    assert len(found.train.images) == 3
    np.testing.assert_array_equal(np.unique(found.reading.sizes), [16, 32])


def test_a_database_that_was_cut_is_refused(tmp_path):
    root = database(tmp_path / "a", {f"{i}".encode(): encode(noise(64, 64)) for i in range(9)})
    content = (root / "data.mdb").read_bytes()
    write(root, {"data.mdb": content[: len(content) - 4096]})
    assert "is a database that is cut short" in error(root)


def test_what_lies_beside_a_database_is_named(tmp_path):
    root = database(tmp_path / "a", {b"0": encode(noise(8, 8))})
    write(root, {"labels.csv": b"id,label\n0,cat\n"})
    assert load(root).reading.other_files == ".csv 1"


def test_keys_that_are_no_text(tmp_path):
    found = load(
        database(tmp_path / "a", {b"\xff\x01": encode(noise(8, 8)), b"a/b": b"P5 1 1 255 x"})
    )
    assert len(found.train.images) == 2


def test_values_that_are_no_image_files_are_refused(tmp_path):
    root = database(tmp_path / "a", {b"0": encode(noise(8, 8)), b"1": b"\x80\x04pickled"})
    assert "holds 1 values that are no image files, as 1 (it begins with 80 04 70 69)" in error(
        root
    )
    assert "holds no images" in error(database(tmp_path / "b", {b"length": b"0"}))
    assert "is no LMDB database" in error(write(tmp_path / "c", {"data.mdb": b"no database" * 999}))


def test_without_the_library_it_is_named(tmp_path, monkeypatch):
    root = database(tmp_path / "a", {b"0": encode(noise(8, 8))})
    monkeypatch.setitem(sys.modules, "lmdb", None)
    assert "is read by lmdb, which is not installed: pip install" in error(root)


@pytest.mark.parametrize("image", [True, False])
def test_beside_images_it_is_passed_over(image, tmp_path):
    root = database(tmp_path / "a", {b"0": encode(noise(8, 8), "JPEG")})
    if image:
        write(root, {"1.png": encode(noise(8, 8))})
        found = load(root)
        assert found.reading.other_files == ".mdb 2"
        assert "not what lies in .mdb 2 beside them: name such a file as data.path" in found.source
    else:
        assert len(load(root).train.images) == 1
