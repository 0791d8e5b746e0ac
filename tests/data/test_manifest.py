"""Files that have not changed since they were read are not read again; all others are."""

import functools
import os

import numpy as np
import pytest

from tada_jax.data import listing, manifest
from tests.data.pictures import (
    assert_equal,
    encode,
    error,
    forbid_decoding,
    load,
    noise,
    pngs,
    write,
    write_zip,
)


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled at once."""
    monkeypatch.setattr(manifest, "_SETTLED_NS", -(10**9))


@pytest.fixture
def read(monkeypatch):
    """The names of the files that were read."""
    names = []
    for function in ("_read_file", "_read_member"):

        def noted(inner, *arguments):
            names.append(getattr(arguments[-1], "filename", None) or arguments[-1].name)
            return inner(*arguments)

        inner = getattr(listing, function)
        monkeypatch.setattr(listing, function, functools.partial(noted, inner))
    return names


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_second_load_reads_nothing(tmp_path, settled, read, monkeypatch, kind):
    files = pngs("1.png", "2.png")
    path = (
        write(tmp_path / "a", files) if kind == "folder" else write_zip(tmp_path / "a.zip", files)
    )
    first = load(path)
    assert set(read) == {"1.png", "2.png"}
    read.clear()
    forbid_decoding(monkeypatch)
    assert_equal(first, load(path))
    assert read == []


def test_a_file_of_the_same_size_that_was_written_anew_is_noticed(tmp_path, settled):
    one, other = (encode(noise(8, 8), compress_level=0) for _ in range(2))
    assert len(one) == len(other)
    root = write(tmp_path / "a", {"1.png": one, "2.png": one})
    load(root)
    before = (root / "2.png").stat()
    write(root, {"2.png": other})
    expected = load(write(tmp_path / "b", {"2.png": other})).train.images[:]
    np.testing.assert_array_equal(load(root).train.images[1:], expected)
    # With its old date as well, which the disk knows better.
    write(root, {"2.png": one})
    os.utime(root / "2.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    found = load(root).train.images
    np.testing.assert_array_equal(found[0], found[1])


def test_a_zip_that_was_written_anew_is_noticed(tmp_path, settled):
    path = write_zip(tmp_path / "a.zip", pngs("1.png", "2.png"))
    load(path)
    files = pngs("1.png", "2.png")
    write_zip(path, files)
    expected = load(write(tmp_path / "b", files))
    np.testing.assert_array_equal(load(path).train.images[:], expected.train.images[:])


def test_files_that_were_written_just_before_are_read_again(tmp_path, read):
    root = write(tmp_path / "a", pngs("1.png", "2.png"))
    load(root)
    read.clear()
    load(root)
    assert sorted(read) == ["1.png", "2.png"]


def test_files_that_come_and_go(tmp_path, settled, read):
    root = write(tmp_path / "a", pngs("1.png", "2.png"))
    load(root)
    write(root, pngs("3.png"))
    (root / "1.png").unlink()
    assert len(load(root).train.images) == 2
    read.clear()
    load(root)
    assert read == []


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"1.png": 3}', '{"1.png": ["", 3]}'])
def test_a_damaged_manifest_is_none(tmp_path, settled, text):
    root = write(tmp_path / "a", pngs("1.png"))
    first = load(root)
    (kept,) = (tmp_path / "cache" / "manifests").iterdir()
    kept.write_text(text)
    assert_equal(first, load(root))


def test_a_manifest_that_is_wrong_is_forgotten(tmp_path, settled):
    root = write(tmp_path / "a", pngs("1.png"))
    load(root)
    (kept,) = (tmp_path / "cache" / "manifests").iterdir()
    kept.write_text(kept.read_text().replace('", "', '", "0'))
    assert "1.png changed while it was read" in error(root)
    assert len(load(root).train.images) == 1
