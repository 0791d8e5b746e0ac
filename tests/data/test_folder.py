"""Images in folders and zips: order, classes, sizes, and what goes wrong."""

import os
import shutil
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from tada_jax import data
from tada_jax.data import names
from tada_jax.system.errors import UserError
from tests.data.pictures import (
    NAMES,
    assert_equal,
    encode,
    error,
    exif,
    forbid_decoding,
    load,
    noise,
    png_header,
    pngs,
    smooth,
    truth,
    write,
    write_zip,
)


@pytest.mark.parametrize("prefix", ["", "mydata/", "./", "a/b/"])
def test_a_folder_and_a_zip_hold_the_same(tmp_path, prefix):
    files = pngs(*NAMES)
    wrapped = {prefix + name: content for name, content in files.items()}
    clutter = dict.fromkeys(
        ("__MACOSX/dog/10.png", ".DS_Store", "dog/._9.png", ".git/x.png", "a.txt", "dog/b.heic"),
        b"not an image",
    )
    packed = write_zip(tmp_path / "pets.v1.zip", wrapped | clutter)
    loaded = [load(write(tmp_path / "pets.v1", wrapped | clutter)), load(packed)]
    assert_equal(*loaded)
    for dataset, name, shown in zip(loaded, ("pets.v1", "pets.v1"), ("pets.v1", "pets.v1.zip")):
        np.testing.assert_array_equal(dataset.train.images[:], truth(files))
        assert dataset.train.labels.dtype == np.int32
        np.testing.assert_array_equal(dataset.train.labels, [0, 1, 1, 2, 2])
        assert dataset.class_names == ("Zebra", "cat", "dog") and dataset.num_classes == 3
        assert dataset.reading.other_files == ".heic 1, .txt 1" and dataset.reading.modes == {
            "RGB": 5
        }
        assert dataset.name == name
        assert dataset.source == (
            f"{shown}: 5 training + 0 held-out images, 8x8x3, 3 classes; classes by folders "
            "(data.labels=none: no classes)"
        )


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["1.png", "2.png"], None),
        (["cat/1.png", "cat/2.png"], None),
        (["1.png", "cat/1.png", "dog/1.png"], None),
        (["my/1.png", "my/cat/1.png"], None),
        (["cat/1.png", "dog/1.png"], [0, 1]),
        (["my/cat/1.png", "my/dog/1.png"], [0, 1]),
        (["cat/a/1.png", "cat/b/1.png", "dog/1.png"], [0, 0, 1]),
        (["cats/1.png", "cat/1.png"], [0, 1]),
    ],
)
def test_classes(tmp_path, names, labels):
    dataset = load(write(tmp_path / "a", pngs(*names)))
    if labels is None:
        assert dataset.train.labels is None and dataset.test.labels is None
        assert dataset.num_classes == 0 and dataset.class_names == ()
    else:
        np.testing.assert_array_equal(dataset.train.labels, labels)
        assert dataset.num_classes == len(dataset.class_names) == 2


@pytest.mark.parametrize(
    "ordered",
    [
        [str(n) for n in range(12)],
        ["a1b2", "a1b10", "a2", "a10", "b"],
        ["01", "1", "1a", "2", "10", "cat"],
        ["class 9", "class 10", "class 100"],
    ],
)
def test_classes_are_in_natural_order(tmp_path, ordered):
    dataset = load(write(tmp_path / "a", pngs(*(f"{name}/x.png" for name in ordered))))
    assert dataset.class_names == tuple(ordered)
    of_images = [dataset.class_names[number] for number in dataset.train.labels]
    assert of_images == sorted(ordered)  # that of the files


def test_folders_that_are_no_classes_are_named(tmp_path):
    files = pngs("cat/1.png", "cat/2.png", "dog/1.png")
    root = write(tmp_path / "a", files | {"bird/1.png": b"torn"})
    dataset = load(root, unreadable="skip")
    assert dataset.class_names == ("cat", "dog")
    assert "no image can be read: 'bird'" in dataset.source
    beside = load(write(tmp_path / "b", pngs("1.png", "cat/1.png", "dog/1.png")))
    assert beside.source.endswith("no classes, since an image lies beside the sub-folders")
    alone = write(tmp_path / "c", pngs("cat/1.png", "cat/2.png") | {"bird/1.png": b"torn"})
    dataset = load(alone, unreadable="skip")
    assert dataset.num_classes == 0 and "no image can be read: 'bird'" in dataset.source


def test_the_file_system_does_not_order(tmp_path, monkeypatch):
    files = pngs(*(f"{n}.png" for n in range(12)), "b/1.png", "a/1.png", "a-/1.png")
    root = write(tmp_path / "a", files)
    scandir = os.scandir
    for step in (1, -1):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        with monkeypatch.context() as patch:
            patch.setattr(
                os, "scandir", lambda path, step=step: sorted(scandir(path), key=str)[::step]
            )
            images_found = load(root).train.images[:]
        np.testing.assert_array_equal(images_found, truth(files))


def test_links_are_followed_but_not_in_circles(tmp_path):
    files = pngs("cat/1.png", "dog/1.png")
    elsewhere = write(tmp_path / "elsewhere", pngs("x.png", "deep/y.png"))
    root = write(tmp_path / "a", files)
    (root / "cat" / "2.png").symlink_to(elsewhere / "x.png")
    (root / "dog" / "more").symlink_to(elsewhere / "deep")
    (root / "dog" / "all").symlink_to(root)
    (root / "dog" / "self").symlink_to("self")
    dataset = load(root)
    np.testing.assert_array_equal(dataset.train.labels, [0, 0, 1, 1])
    assert dataset.reading.other_files == "no ending 1"
    (root / "cat" / "3.png").symlink_to("nowhere")
    os.mkfifo(root / "cat" / "4.png")
    message = error(root)
    assert "2 of 6" in message and "cat/3.png: No such file" in message
    assert "cat/4.png: is no regular file" in message


def test_sources_are_left_alone(tmp_path):
    root = write(tmp_path / "a", pngs("1.png", "2.png"))
    before = {file: file.stat().st_mtime_ns for file in [root, *root.iterdir()]}
    load(root)
    assert before == {file: file.stat().st_mtime_ns for file in [root, *root.iterdir()]}


# Resolution and channels


@pytest.mark.parametrize(
    ("sizes", "options", "shape"),
    [
        ([(9, 12)] * 2, {}, (9, 9)),
        ([(9, 12)] * 2, {"fit": "pad"}, (12, 12)),
        ([(9, 12)] * 2, {"fit": "keep"}, (9, 12)),
        ([(9, 12)] * 2, {"fit": "keep", "resolution": 18}, (18, 24)),
        ([(20, 40), (40, 80), (30, 60)], {}, (16, 16)),
        ([(20, 40), (40, 80), (30, 60)], {"fit": "pad"}, (32, 32)),
        ([(20, 40), (40, 80), (30, 60)], {"fit": "keep"}, (16, 32)),
        ([(32, 32), (33, 33)], {}, (32, 32)),
        ([(2, 3), (3, 2), (3, 3)], {}, (8, 8)),
        ([(9, 12), (50, 60)], {"resolution": 11}, (11, 11)),
    ],
)
def test_resolution(tmp_path, sizes, options, shape):
    files = {f"{i}.png": encode(noise(*size)) for i, size in enumerate(sizes)}
    dataset = load(write(tmp_path / "a", files), **options)
    assert dataset.train.images.shape == (len(sizes), *shape, 3)
    np.testing.assert_array_equal(dataset.reading.sizes, sizes)
    assert dataset.reading.sizes.dtype == np.int32
    assert f"images, {shape[0]}x{shape[1]}x3" in dataset.source
    assert ("fitted to" in dataset.source) == (set(sizes) != {shape})


def test_the_source_tells_of_sizes(tmp_path):
    files = {f"{i}.png": encode(noise(9 + i, 12)) for i in range(3)}
    root = write(tmp_path / "a", files)
    assert "; sizes 9x12 .. 11x12 fitted to 8 by 'crop' (data.resolution" in load(root).source
    assert load(root, fit="pad", resolution=9).source.endswith("11x12 fitted to 9 by 'pad'")


def test_upright_sizes_count(tmp_path):
    files = {
        "1.png": encode(noise(9, 12)),
        "2.png": encode(noise(12, 9), exif=exif(6)),
        "3.tif": encode(noise(12, 9), "TIFF", exif=exif(8)),
    }
    dataset = load(write(tmp_path / "a", files), fit="keep")
    assert dataset.train.images.shape == (3, 9, 12, 3)


def test_keep_needs_one_aspect(tmp_path):
    files = pngs("1.png", "2.png", size=(8, 16)) | pngs("odd.png", size=(8, 12))
    message = error(write(tmp_path / "a", files), fit="keep")
    assert "odd.png would become 8x12" in message and "2 others 8x16" in message
    assert "--config.data.fit=crop" in message


def test_channels(tmp_path):
    grey, colour = noise(8, 8, 1), noise(8, 8)
    files = {
        "1.png": encode(grey),
        "2.png": encode(Image.fromarray(grey).convert("LA")),
        "3.png": encode(grey.astype(np.uint16) * 257),
        "4.gif": encode(grey, "GIF"),
        "5.png": encode(np.full((8, 8), True)),
    }
    root = write(tmp_path / "a", files)
    assert load(root).train.images.shape == (5, 8, 8, 1)
    np.testing.assert_array_equal(load(root).train.images[:4][..., 0], [grey] * 4)
    replicated = load(root, channels=3).train.images[:]
    np.testing.assert_array_equal(replicated[:4], np.repeat(grey[None, ..., None], 3, -1)[[0] * 4])

    write(root, {"6.png": encode(colour)})
    mixed = load(root)
    np.testing.assert_array_equal(mixed.train.images[-1], colour)
    assert mixed.reading.modes == {"L": 1, "P": 1, "LA": 1, "I;16": 1, "1": 1, "RGB": 1}
    luma = load(root, channels=1).train.images[-1][..., 0]
    np.testing.assert_allclose(luma, colour @ (0.299, 0.587, 0.114), atol=0.51)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("channels", 2),
        ("resolution", 0),
        ("fit", "stretch"),
        ("unreadable", "ignore"),
        ("background", (1, 2)),
        ("background", (1, 2, 256)),
    ],
)
def test_mistakes_in_options(tmp_path, field, value):
    with pytest.raises(UserError, match=f"data.{field}="):
        data.load("images", path=str(tmp_path), **{field: value})


# What goes wrong


def test_nothing_there(tmp_path):
    missing = error(tmp_path / "nowhere")
    assert "does not exist; a run whose data have moved goes on with --config.data.path" in missing
    (tmp_path / "empty").mkdir()
    assert "holds no images, nothing at all; " in error(tmp_path / "empty")
    assert "only other files (.txt 1)" in error(
        write(tmp_path / "text", {"a.txt": b"", ".b.png": b""})
    )
    assert "holds no images" in error(write_zip(tmp_path / "a.zip", {"a.txt": b""}))
    (tmp_path / "not.zip").write_bytes(b"neither a zip nor an image")
    assert "is no zip: pass a folder" in error(tmp_path / "not.zip")
    (tmp_path / "not.zip").write_bytes(encode(noise(8, 8)))
    assert "is a single image: pass a folder" in error(tmp_path / "not.zip")
    os.mkfifo(tmp_path / "pipe")
    assert "neither a folder nor a file" in error(tmp_path / "pipe")


def test_forbidden(tmp_path, monkeypatch):
    root = write(tmp_path / "a", pngs("b/1.png", "c/1.png"))
    scandir = os.scandir

    def forbid(path):
        if str(path).endswith("c"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbid)
    assert f"{root / 'c'} cannot be read (Permission denied)" in error(root)


BAD = {
    "bad/empty.png": b"",
    "bad/text.jpg": b"hello",
    "bad/cut.png": encode(noise(16, 16))[:-200],
    "bad/large.png": png_header(100_000, 100_000),
}


@pytest.mark.parametrize("pack", [write, write_zip])
def test_unreadable_images_are_refused_or_skipped(tmp_path, pack, recwarn):
    good = pngs("cat/1.png", "dog/1.png", "dog/2.png")
    path = pack(tmp_path / "a.zip", good | BAD)
    for _ in range(2):
        message = error(path)
        assert "4 of 7 images" in message and "--config.data.unreadable=skip" in message
        assert "bad/empty.png: is empty" in message and "bad/text.jpg: is no image" in message
    for _ in range(2):
        dataset = load(path, unreadable="skip")
        np.testing.assert_array_equal(dataset.train.images[:], truth(good))
        assert dataset.class_names == ("cat", "dog")
        assert "4 unreadable ones skipped" in dataset.source
        assert [line.split(": ")[0] for line in dataset.reading.skipped] == sorted(BAD)
        assert len(dataset.reading.sizes) == 3
    path = pack(tmp_path / "b.zip", BAD)
    assert "4 of 4 images" in error(path, unreadable="skip")
    assert not recwarn.list


def test_damage_behind_a_sound_header_is_refused_too_and_remembered(tmp_path, monkeypatch):
    good = pngs(*(f"{n}.png" for n in range(9)))
    bad = {f"{n}x.png": BAD["bad/cut.png"] for n in range(9)}
    root = write(tmp_path / "a", good | bad)
    message = error(root, resolution=8)
    assert "9 of 18 images cannot be read: 0x.png: image file is truncated" in message
    assert "; and 4 more." in message
    forbid_decoding(monkeypatch)
    assert error(root, resolution=8) == message
    dataset = load(root, resolution=8, unreadable="skip")
    np.testing.assert_array_equal(dataset.train.images[:], truth(good))


def test_extensions_do_not_matter(tmp_path):
    files = {"1.png": encode(smooth(16, 16), "JPEG"), "2.jpg": encode(noise(16, 16))}
    np.testing.assert_array_equal(load(write(tmp_path / "a", files)).train.images[:], truth(files))


@pytest.mark.parametrize(
    "name",
    ["../1.png", "a/../../1.png", "/etc/1.png", "C:/1.png", "c:1.png", "..\\1.png", "a\\1.png"],
)
def test_archives_with_suspicious_names_are_refused(tmp_path, name):
    path = write_zip(tmp_path / "a.zip", pngs("1.png", name))
    message = error(path, unreadable="skip")
    assert repr(name) in message and "pack the images again" in message
    dots = load(write_zip(tmp_path / "b.zip", pngs("a..b.png", "..c/d..png", "c.png")))
    assert len(dots.train.images) == 2  # "..c" is a hidden folder


def patched(path, places):
    """Overwrites fields of the last member: {(signature, offset): bytes}."""
    content = bytearray(path.read_bytes())
    for (signature, offset), value in places.items():
        start = content.rindex(signature) + offset
        content[start : start + len(value)] = value
    path.write_bytes(content)
    return path


LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"


def test_damaged_members_are_named(tmp_path, monkeypatch):
    files = pngs("1.png", "2.png")
    stored = zipfile.ZIP_STORED
    sizes = {(LOCAL, 22): struct.pack("<I", 50), (CENTRAL, 24): struct.pack("<I", 50)}
    bomb = {"1.png": files["1.png"], "2.png": bytes(5_000_000)}
    cases = {
        "encrypted": (files, {(LOCAL, 6): b"\1", (CENTRAL, 8): b"\1"}),
        "Bad CRC": (files, {(LOCAL, 60): b"!!!!"}),
        "Bad CRC-32": (bomb, sizes),
        "neither stored nor deflated": (files, {(LOCAL, 8): b"\x09", (CENTRAL, 10): b"\x09"}),
        "5,000,000 bytes, more than": (bomb, {}),
    }
    monkeypatch.setattr(names, "MAX_FILE_BYTES", 1_000_000)
    for number, (expected, (members, places)) in enumerate(cases.items()):
        compression = stored if members is files else zipfile.ZIP_DEFLATED
        path = write_zip(tmp_path / f"{number}.zip", members, compression)
        message = error(patched(path, places))
        assert "1 of 2 images cannot be read: 2.png: " in message and expected in message
        dataset = load(path, unreadable="skip")
        np.testing.assert_array_equal(dataset.train.images[:], truth({"1": files["1.png"]}))


def test_truncated_archives_are_refused(tmp_path):
    whole = write_zip(tmp_path / "a.zip", pngs("1.png", "2.png")).read_bytes()
    for size in range(2, len(whole), len(whole) // 9):
        path = tmp_path / "cut.zip"
        path.write_bytes(whole[:size])
        assert "is a zip that is damaged or cut short" in error(path)


def test_large_files_are_refused(tmp_path, monkeypatch):
    root = write(tmp_path / "a", pngs("1.png") | {"2.png": bytes(2000)})
    monkeypatch.setattr(names, "MAX_FILE_BYTES", 1000)
    assert "2.png: has 2,000 bytes, more than 1,000" in error(root)
