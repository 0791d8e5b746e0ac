"""Tars: WebDataset's, of which `tests/files/webdataset.tar` is one, and any others of images."""

import io
import shutil
import tarfile

import numpy as np
import pytest

from tada_jax.data import names
from tests import tiny
from tests.data.pictures import encode, error, load, noise, pngs, truth, write
from tests.files.write_with_others import picture


def tar(path, files, mode="w", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, **options) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_webdataset():
    """Classes, the masks beside pictures, and keys with dots."""
    found = load(tiny.FILES / "webdataset.tar")
    pictures = np.stack([picture(i) for i in range(6)])
    np.testing.assert_array_equal(found.train.images[:], pictures)
    np.testing.assert_array_equal(found.train.labels, np.arange(6) % 2)
    assert found.class_names == ("0", "1") and found.name == "webdataset"
    assert "left out: what lies beside images (.mask.png 4)" in found.source
    assert "2 images share 1 keys up to the first dot, as old.v4.png" in found.source
    assert "classes by .cls files beside the images" in found.source
    assert found.reading.other_files == ".json 4"
    assert load(tiny.FILES / "webdataset.tar", labels="none").train.labels is None


def samples(keys, label=lambda key: str(len(key))):
    """A picture and a `.cls` for each key."""
    made = {}
    for key in keys:
        made[f"{key}.cls"], made[f"{key}.png"] = label(key).encode(), encode(noise(8, 8))
    return made


def test_shards_with_splits_and_keys_that_begin_anew_in_each(tmp_path):
    content = [samples(["00", "01"], lambda key: f"{key}x") for _ in range(4)]
    for files in content:
        files["00.mask.png"] = encode(noise(8, 8))
    shards = ("v1.0-train-000", "v1.0-train-001", "v1.0-val-000", "odd")
    for shard, files in zip(shards, content):
        tar(tmp_path / "set" / f"{shard}.tar", files)
    found = load(tmp_path / "set")
    assert len(found.train.images) == 4 and len(found.test.images) == 2
    assert found.class_names == ("00x", "01x")
    np.testing.assert_array_equal(found.train.labels, [0, 0, 1, 1])
    pictures = [truth({n: files[n] for n in ("00.png", "01.png")}) for files in content]
    by_key = np.stack(pictures[:2], 1).reshape(-1, 8, 8, 3)
    np.testing.assert_array_equal(found.train.images[:], by_key)
    np.testing.assert_array_equal(found.test.images[:], pictures[2])
    assert "left out: odd.tar, of no split that is known" in found.source
    assert "left out: what lies beside images (.mask.png 3)" in found.source


def test_shards_without_splits_are_one_set_and_not_classes(tmp_path):
    tar(tmp_path / "set" / "a-0.tar", samples(["1", "2"]))
    tar(tmp_path / "set" / "a-1.tar", samples(["3", "44"]))
    found = load(tmp_path / "set")
    np.testing.assert_array_equal(found.train.labels, [0, 0, 0, 1])
    tar(tmp_path / "plain" / "a.tar", pngs("1.png"))
    tar(tmp_path / "plain" / "b.tar", pngs("1.png"))
    assert not load(tmp_path / "plain").num_classes


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz", "tar.bz2", "tar.xz"])
def test_folders_in_a_tar_are_classes_however_it_is_compressed(ending, tmp_path):
    files = pngs("set/cat/1.png", "set/dog/2.png", "set/dog/3.png")
    mode = {"tar": "w", "tgz": "w:gz"}.get(ending, f"w:{ending.rpartition('.')[2]}")
    found = load(tar(tmp_path / f"a.{ending}", files, mode))
    np.testing.assert_array_equal(found.train.images[:], truth(files))
    assert found.class_names == ("cat", "dog")


def test_labels_in_json_and_in_folders_too(tmp_path):
    files = pngs("a.png", "b.png", "c.png")
    labels = {f"{key}.json": f'{{"label": "{key > "a"}"}}'.encode() for key in "abc"}
    for root in (tar(tmp_path / "a.tar", files | labels), write(tmp_path / "a", files | labels)):
        found = load(root)
        np.testing.assert_array_equal(found.train.labels, [0, 1, 1])
        assert found.class_names == ("False", "True") and not found.reading.other_files
    without = {name: b'{"caption": "a cat"}' for name in labels}
    found = load(write(tmp_path / "b", files | without))
    assert not found.num_classes and found.reading.other_files == ".json 3"


def test_labels_of_some_images_alone_are_said_and_refused_if_asked_for(tmp_path):
    files = samples(["a", "b", "cc"])
    del files["b.cls"]
    root = write(tmp_path / "a", files)
    found = load(root)
    assert not found.num_classes and found.reading.other_files == ".cls 2"
    assert "no classes, since 1 of 3 images have no label, as b.png" in found.source
    assert "1 of 3 images have no label, as b.png" in error(root, labels="file")
    write(root, {"b.cls": b"\xff\xfe\0"})
    assert "b.cls is no label" in error(root)
    assert load(root, labels="none").train.labels is None


def test_damaged_tars_are_refused_and_never_read_in_part(tmp_path):
    whole = tar(tmp_path / "a.tar", pngs("1.png", "2.png", "3.png")).read_bytes()
    second = whole.index(b"2.png")  # where its header is
    other = bytearray(whole)
    other[second + 150] ^= 1  # its checksum
    unfinished = whole[: second - second % 512]
    for damaged in (
        whole[: second + 600],
        bytes(other),
        whole + whole,
        b"no tar" * 200,
        unfinished,
    ):
        file = write(tmp_path, {"b.tar": damaged}) / "b.tar"
        assert "b.tar is a tar that is damaged or cut short" in error(file)
    packed = tar(tmp_path / "c.tar.gz", pngs("1.png"), "w:gz").read_bytes()
    file = write(tmp_path, {"c.tar.gz": packed[: len(packed) // 2]}) / "c.tar.gz"
    assert "c.tar.gz is a tar that is damaged or cut short" in error(file)


def test_links_and_large_members_are_named(tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("1.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(info)
    assert "1.png: is a link, or no plain file, in its tar" in error(tmp_path / "a.tar")
    monkeypatch.setattr(names, "MAX_FILE_BYTES", 50)
    assert "more than 50" in error(tar(tmp_path / "b.tar", pngs("1.png")))


@pytest.mark.parametrize("name", ["/etc/1.png", "../1.png", "a/../../1.png"])
def test_names_that_point_outside_are_refused(name, tmp_path):
    assert "points outside" in error(tar(tmp_path / "a.tar", pngs(name)))


def test_a_full_cache_has_no_room_for_a_compressed_tar(tmp_path, monkeypatch):
    file = tar(tmp_path / "a.tar.gz", pngs("1.png"), "w:gz")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    assert "no room in the cache" in error(file)


def test_a_tar_of_the_folder_of_a_split_is_that_split(tmp_path):
    """As `tar cf train.tar train` makes it."""
    for split, keys in (("train", "ab"), ("val", "cd")):
        files = pngs(*(f"{split}/{kind}/{n}.png" for kind in ("cat", "dog") for n in keys))
        tar(tmp_path / "set" / f"{split}.tar", files)
    found = load(tmp_path / "set")
    assert found.class_names == ("cat", "dog")
    np.testing.assert_array_equal(found.train.labels, [0, 0, 1, 1])
    np.testing.assert_array_equal(found.test.labels, [0, 0, 1, 1])


def test_words_that_mean_the_same_are_one_split(tmp_path):
    for i, shard in enumerate(("train-0", "training-0", "validation-0", "dev-0")):
        tar(tmp_path / "set" / f"{shard}.tar", pngs(f"{i}.png", f"{i}{i}.png"))
    found = load(tmp_path / "set")
    assert len(found.train.images) == 4 and len(found.test.images) == 4 and not found.num_classes


def test_names_that_several_shards_have_stay_names(tmp_path):
    for shard in "ab":
        tar(tmp_path / "set" / f"{shard}.tar", pngs("cat_0.png", "dog_0.png") | {"README": b"x"})
    found = load(tmp_path / "set", labels="prefix")
    assert found.class_names == ("cat", "dog")
    np.testing.assert_array_equal(found.train.labels, [0, 0, 1, 1])
    write(tmp_path / "set", {"notes.txt": b"of the set"})
    assert load(tmp_path / "set").reading.other_files == "no ending 2, .txt 1"
    for shard in "ab":
        tar(tmp_path / "two" / f"{shard}.tar", pngs(f"{shard}.png") | {"dataset.json": b"{}"})
    assert "several of its tars have a dataset.json" in error(tmp_path / "two")


def test_a_picture_and_another_of_one_key_are_said(tmp_path):
    found = load(
        tar(tmp_path / "a.tar", pngs("0.png", "1.png") | {"0.bmp": encode(noise(8, 8), "BMP")})
    )
    assert "2 images share 1 keys up to the first dot, as 0.bmp" in found.source


def test_a_label_nested_without_end_is_a_line(tmp_path):
    files = pngs("a.png", "b.png") | {"a.json": b"[" * 100_000}
    assert "a.json is no label (nested too deeply)" in error(tar(tmp_path / "a.tar", files))
