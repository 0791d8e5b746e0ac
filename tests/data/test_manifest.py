"""Files that have not changed since they were read are not read again; all others are."""

import dataclasses
import os

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tada_jax.data import cache, files, manifest
from tada_jax.data import folder as folder_reader
from tada_jax.data.base import Options
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
from tests.data.test_databases import database
from tests.data.test_tars import tar


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled at once."""
    monkeypatch.setattr(manifest, "_SETTLED_NS", -(10**9))


@pytest.fixture
def read(monkeypatch):
    """The names of the files that were read."""
    names = []
    listed = folder_reader.list_files

    def noted(path, stack):
        files = listed(path, stack)

        def read(name):
            names.append(name)
            return files.read(name)

        return dataclasses.replace(files, read=read)

    monkeypatch.setattr(folder_reader, "list_files", noted)
    return names


def as_table(file, files, ending):
    rows = pa.table({"image": [{"bytes": c, "path": n} for n, c in files.items()]})
    if ending == "parquet":
        pq.write_table(rows, file)
        return file
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, rows.schema) as out:
        out.write_table(rows)
    return file


WRITERS = {
    "folder": lambda root, files: write(root / "a", files),
    "zip": lambda root, files: write_zip(root / "a.zip", files),
    "tar": lambda root, files: tar(root / "a.tar", files),
    "shards": lambda root, files: tar(root / "a" / "b-0.tar", files).parent,
    "parquet": lambda root, files: as_table(root / "a.parquet", files, "parquet"),
    "arrow": lambda root, files: as_table(root / "a.arrow", files, "arrow"),
    "lmdb": lambda root, files: database(root / "a", {n.encode(): c for n, c in files.items()}),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_second_load_reads_nothing(tmp_path, settled, read, monkeypatch, kind):
    path = WRITERS[kind](tmp_path, pngs("1.png", "2.png"))
    first = load(path)
    assert len(set(read)) == 2
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


def test_a_table_of_paths_is_read_each_time(tmp_path, settled, read):
    """Since it tells nothing of the files that it names."""
    write(tmp_path, pngs("1.png", "2.png"))
    rows = [{"bytes": None, "path": "1.png"}, {"bytes": None, "path": "2.png"}]
    pq.write_table(pa.table({"image": rows}), tmp_path / "a.parquet")
    before = load(tmp_path / "a.parquet").train.images[:]
    read.clear()
    write(tmp_path, pngs("1.png"))
    after = load(tmp_path / "a.parquet").train.images[:]
    assert len(set(read)) == 2 and (before[0] != after[0]).any()


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


def test_an_hdf5_file_is_read_once(tmp_path, settled, monkeypatch):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["images"] = np.stack([noise(8, 8) for _ in range(3)])
    first = files.load(Options(path=str(path)))
    monkeypatch.setattr(cache, "digest_of_file", lambda path: 1 / 0)
    again = files.load(Options(path=str(path)))
    np.testing.assert_array_equal(first.train.images[:], again.train.images[:])
