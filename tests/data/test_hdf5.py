"""HDF5 files as h5py writes them: arrays, groups, published data sets, and what is refused."""

import re
import sys

import h5py
import numpy as np
import pytest

from tada_jax import data
from tada_jax.data.formats import hdf5
from tada_jax.system.errors import UserError

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (20, 8, 6, 3), np.uint8), np.arange(20) % 3
STORED = {
    "contiguous": {},
    "chunked": {"chunks": (7, 8, 3, 1)},
    "compressed": {"chunks": (3, 8, 6, 3), "compression": "gzip", "shuffle": True},
    "lzf": {"chunks": True, "compression": "lzf", "fletcher32": True},
    "growing": {"maxshape": (None, 8, 6, 3)},
}


def write(path, *, kept=None, **arrays):
    """Arrays by their names, "a/b" as "a__b"; those of several axes `kept` as h5py is told to."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            array = np.asarray(array)
            options = kept if kept and array.shape == IMAGES.shape else {}
            if array.dtype.kind == "U":
                array = array.astype(object)
            file.create_dataset(name.replace("__", "/"), data=array, **options)
    return path


def load(path, **options):
    return data.load("images", path=str(path), **{"test_fraction": 0.0, **options})


def refused(path, **options):
    with pytest.raises(UserError) as caught:
        load(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kept", STORED)
@pytest.mark.parametrize("ending", ["h5", "hdf5", "hdf", "he5", "H5"])
def test_named_arrays(folder, kept, ending):
    found = load(
        write(folder / f"set.{ending}", kept=STORED[kept], images=IMAGES, labels=LABELS + 1)
    )
    np.testing.assert_array_equal(found.train.images[:], IMAGES)
    np.testing.assert_array_equal(found.train.labels, LABELS)
    assert found.class_names == ("1", "2", "3")
    assert f"set.{ending}: 20 training + 0 held-out images, 8x6x3" in found.source


@pytest.mark.parametrize(
    ("images", "labels", "test_images", "test_labels"),
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train__images", "train__labels", "test__images", "test__labels"),
        ("training__data", "training__target", "testing__data", "testing__target"),
        ("v1__train__x", "v1__train__y", "v1__test__x", "v1__test__y"),
        ("images", "labels", "test__images", "test__labels"),
        ("train_set_x", "train_set_y", "test_set_x", "test_set_y"),
    ],
)
def test_splits_by_names_and_groups(folder, images, labels, test_images, test_labels):
    arrays = {images: IMAGES[:15], labels: LABELS[:15]}
    arrays |= {test_images: IMAGES[15:], test_labels: LABELS[15:]}
    found = load(write(folder / "set.h5", val__images=IMAGES[:2], **arrays))
    np.testing.assert_array_equal(found.train.images[:], IMAGES[:15])
    np.testing.assert_array_equal(found.test.images[:], IMAGES[15:])
    np.testing.assert_array_equal(found.test.labels, LABELS[15:])
    assert found.source.endswith("left out: its arrays val/images [2, 8, 6, 3]")


def test_images_deep_in_groups_by_a_name_of_their_own(folder):
    found = load(write(folder / "set.h5", a__b__scans=IMAGES, a__lengths=LABELS))
    np.testing.assert_array_equal(found.train.images[:], IMAGES)
    assert "left out: its arrays a/lengths [20]" in found.source
    message = refused(write(folder / "set.h5", a__scans=IMAGES, b__scans=IMAGES))
    assert "which of its arrays (a/scans, b/scans) are the images" in message
    message = refused(write(folder / "set.h5", a__images=IMAGES, b__images=IMAGES))
    assert "which of its arrays a/images and b/images are the images" in message


def test_galaxy10(folder):
    found = load(write(folder / "Galaxy10.h5", ans=LABELS.astype(np.uint8), images=IMAGES))
    np.testing.assert_array_equal(found.train.labels, LABELS)


def test_3d_shapes(folder):
    path = write(folder / "3dshapes.h5", images=IMAGES, labels=RNG.random((20, 6)))
    assert "[20, 6], not whole numbers [20]" in refused(path)
    assert "set data.labels=none" in refused(path)
    found = load(path, labels="none")
    assert not found.num_classes and "left out: its arrays labels [20, 6]" in found.source


def pcam(folder, splits=("train", "test", "valid")):
    for i, split in enumerate(splits):
        name, rows = f"camelyonpatch_level_2_split_{split}", slice(5 * i, 5 * i + 5)
        kept = {"chunks": (2, 8, 6, 3), "compression": "gzip"}
        with h5py.File(folder / f"{name}_x.h5", "w") as file:
            file.create_dataset("x", data=IMAGES[rows], **kept)
        write(folder / f"{name}_y.h5", y=LABELS[rows].reshape(-1, 1, 1, 1) % 2)
    return folder / "camelyonpatch_level_2_split_train_x.h5"


def test_patch_camelyon(folder):
    path = pcam(folder)
    for at in (path, folder):
        found = load(at)
        np.testing.assert_array_equal(found.train.images[:], IMAGES[:5])
        np.testing.assert_array_equal(found.test.images[:], IMAGES[5:10])
        np.testing.assert_array_equal(found.train.labels, LABELS[:5] % 2)
        assert "valid/x [5, 8, 6, 3], valid/labels/y [5, 1, 1, 1]" in found.source
        assert "held out: those of camelyonpatch_level_2_split_test_x.h5" in found.source
    (folder / path.name.replace("train_x", "test_y")).unlink()
    found = load(path)
    assert not len(found.test.images) and "test_x.h5 (its labels are not there)" in found.source
    (folder / path.name.replace("train_x", "test_x")).write_bytes(b"no")
    assert "cannot be read (camelyonpatch_level_2_split_test_x.h5: " in refused(path)


def test_a_file_for_each_split_with_names_of_classes(folder):
    names = np.array([b"non-cat", b"cat"])
    for split, rows in (("train", slice(15)), ("test", slice(15, 20))):
        arrays = {f"{split}_set_x": IMAGES[rows], f"{split}_set_y": LABELS[rows] % 2}
        write(folder / f"{split}_catvnoncat.h5", list_classes=names, **arrays)
    found = load(folder / "train_catvnoncat.h5")
    np.testing.assert_array_equal(found.test.images[:], IMAGES[15:])
    assert found.class_names == ("non-cat", "cat")
    np.testing.assert_array_equal(found.test.labels, LABELS[15:] % 2)


def test_channels_may_come_first(folder):
    path = folder / "set.h5"
    first = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2))
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=first, chunks=(4, 1, 8, 6), compression="gzip")
    found = load(path)
    np.testing.assert_array_equal(found.train.images[:], IMAGES)
    assert found.source.endswith("8x6x3; its channels came first")


@pytest.mark.parametrize(
    "images",
    [
        IMAGES[..., 0],
        IMAGES[..., :1],
        IMAGES[..., 0] > 127,
        IMAGES[..., 0] // 128,
        IMAGES / np.float32(255),
        (IMAGES / 127.5 - 1).astype(np.float16),
        IMAGES.astype(">u2") * 257,
        IMAGES.astype("<u2") * 16,
        IMAGES.astype(">i4") - 1000,
        RNG.integers(0, 256, (5, 8, 6, 4), np.uint8),
    ],
    ids=lambda images: f"{images.dtype.str}, {images.ndim} axes, {images.shape[-1]}",
)
def test_any_numbers_become_what_they_become_in_a_npz(folder, images):
    write(folder / "set.h5", images=images)
    np.savez(folder / "set.npz", images=images)
    for values in ("auto", "full", "0:0.5"):
        if values == "full" and images.dtype.itemsize == 4 and images.dtype.kind == "i":
            continue
        found, same = load(folder / "set.h5", range=values), load(folder / "set.npz", range=values)
        np.testing.assert_array_equal(found.train.images[:], same.train.images[:])
        assert found.source == same.source.replace(".npz", ".h5")


def test_a_test_split_has_the_levels_of_the_training_images(folder):
    images = IMAGES.astype(np.float32)
    found = load(write(folder / "set.h5", x_train=images * 8, x_test=images[:5]))
    np.testing.assert_allclose(found.test.images[:], IMAGES[:5] / 8, atol=0.51)


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["b10", "b2", "ä"] * 2),
        np.char.encode(["b10", "b2", "ä"] * 2, "utf-8"),
        np.array([["b10"], ["b2"], ["ä"]] * 2),
    ],
    ids=["text", "bytes", "in a column"],
)
def test_labels_that_are_text(folder, labels):
    found = load(write(folder / "set.h5", images=IMAGES[:6], labels=labels))
    assert found.class_names == ("b2", "b10", "ä")
    np.testing.assert_array_equal(found.train.labels, [1, 0, 2] * 2)


@pytest.mark.parametrize("labels", [LABELS.astype(float), LABELS % 2 == 1, LABELS[:, None]])
def test_labels_of_other_types(folder, labels):
    found = load(write(folder / "set.h5", images=IMAGES, labels=labels))
    np.testing.assert_array_equal(
        found.train.labels, LABELS if labels.dtype != bool else LABELS % 2
    )


def test_names_of_classes_are_text_of_any_kind(folder):
    for names in (np.array(["cat", "dog", "ant"]), np.array([b"cat", b"dog", b"ant"])):
        found = load(write(folder / "set.h5", images=IMAGES, labels=LABELS, class_names=names))
        assert found.class_names == ("cat", "dog", "ant") and "left out" not in found.source


class Counting:
    """An h5py.Dataset that notes what is read of it."""

    def __init__(self, source):
        self._source, self.name, self.read = source, source.name, []

    def __getattr__(self, name):
        return getattr(self._source, name)

    def __getitem__(self, index):
        self.read.append(index)
        return self._source[index]


@pytest.fixture
def counted(monkeypatch):
    """Every h5py.Dataset that is read, as `Counting`."""
    made, init = [], hdf5.Stored.__init__

    def counting(self, source, *rest):
        source = source if isinstance(source, Counting) else Counting(source)
        made.append(source)
        init(self, source, *rest)

    monkeypatch.setattr(hdf5.Stored, "__init__", counting)
    return made


@pytest.mark.parametrize(
    ("chunks", "rows"), [(None, 4), ((1, 8, 6, 3), 4), ((3, 4, 2, 1), 3), ((8, 1, 1, 3), 8)]
)
def test_images_are_read_a_few_whole_chunks_at_a_time(folder, monkeypatch, counted, chunks, rows):
    monkeypatch.setattr(hdf5, "_PIECE", 4 * IMAGES[0].nbytes)
    path = write(folder / "set.h5", kept={"chunks": chunks}, images=IMAGES)
    np.testing.assert_array_equal(load(path).train.images[:], IMAGES)
    read = [index[0] for source in counted for index in source.read]
    assert {(part.start % rows, part.stop - part.start) for part in read} == {(0, rows)}
    assert sorted({part.start for part in read}) == list(range(0, 20, rows))


def test_chunks_of_nearly_everything_are_not_read_as_a_whole(folder, monkeypatch, counted):
    monkeypatch.setattr(hdf5, "_PIECE", 4 * IMAGES[0].nbytes)
    monkeypatch.setattr(hdf5, "_CHUNKS", 19 * IMAGES[0].nbytes)
    path = write(folder / "set.h5", kept={"chunks": (20, 1, 1, 1)}, images=IMAGES)
    np.testing.assert_array_equal(load(path).train.images[:], IMAGES)
    assert {i[0].stop - i[0].start for source in counted for i in source.read} == {4}


@pytest.mark.parametrize("scale", [1, np.float32(0.1)])
def test_a_second_start_unpacks_nothing(folder, counted, scale):
    path = write(folder / "set.h5", kept=STORED["compressed"], images=IMAGES * scale, labels=LABELS)
    first = load(path)
    assert isinstance(first.train.images, np.memmap | data.base.Rows)
    unpacked = [source for source in counted if source.name == "/images" and source.read]
    assert unpacked
    counted.clear()
    again = load(path)
    assert not [source for source in counted if source.name == "/images" and source.read]
    assert (again.digest, again.source) == (first.digest, first.source)
    write(path, kept=STORED["compressed"], images=IMAGES[::-1] * scale, labels=LABELS)
    np.testing.assert_array_equal(load(path).train.images[:], first.train.images[:][::-1])


def test_labels_are_checked_before_images_are_read(folder, counted):
    path = write(folder / "set.h5", images=IMAGES, labels=IMAGES[..., 0])  # maps, as of segments
    assert "not whole numbers [20]" in refused(path)
    assert not [index for source in counted for index in source.read]


def test_what_is_no_array_of_its_own_is_named_and_not_followed(folder):
    write(folder / "other.h5", x=IMAGES)
    path = write(folder / "set.h5", images=IMAGES)
    with h5py.File(path, "a") as file:
        file["outside"] = h5py.ExternalLink("other.h5", "/x")
        file["x"] = h5py.SoftLink("/images")
        file["again/x"] = file["images"]
        file["pairs"] = np.zeros(3, [("a", "u1"), ("b", "f4")])
        file["to"] = np.array([file["images"].ref], h5py.ref_dtype)
        file.create_dataset("lists", (2,), h5py.vlen_dtype("u1"))
        file["nothing"] = h5py.Empty("f4")
        file["a type"] = np.dtype("f4")
        layout = h5py.VirtualLayout(IMAGES.shape, np.uint8)
        layout[:] = h5py.VirtualSource("other.h5", "x", IMAGES.shape)
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("raw", (4,), "u1", external=[("raw.bin", 0, 4)])
        file["again/file"] = file["/"]  # round in a circle
    found = load(path)
    np.testing.assert_array_equal(found.train.images[:], IMAGES)
    left = found.source.partition("left out: its arrays ")[2].split(", ")
    assert left == [
        *("lists (values of type object)", "nothing (empty)", "outside (a link)"),
        *("pairs (compound values)", "raw (kept in other files)", "to (values of type object)"),
        *("virtual (kept in other files)", "x (a link)"),
    ]


@pytest.mark.parametrize("kind", ["virtual", "compound", "link"])
def test_images_that_are_no_array_of_their_own_are_refused(folder, kind):
    path = write(folder / "set.h5", labels=LABELS)
    with h5py.File(path, "a") as file:
        if kind == "virtual":
            layout = h5py.VirtualLayout(IMAGES.shape, np.uint8)
            layout[:] = h5py.VirtualSource("none.h5", "x", IMAGES.shape)
            file.create_virtual_dataset("images", layout)
        elif kind == "compound":
            file["images"] = np.zeros((20, 8, 6), [("r", "u1"), ("g", "u1"), ("b", "u1")])
        else:
            file["images"] = h5py.ExternalLink("none.h5", "/x")
    expected = {"virtual": "kept in other files", "compound": "compound values", "link": "a link"}
    assert f"its array images is {expected[kind]}" in refused(path)


def test_a_filter_that_is_not_there_is_named(folder, monkeypatch):
    path = write(folder / "set.h5", kept=STORED["compressed"], images=IMAGES)
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda number: number != 1)
    assert "packed by a filter that h5py does not have (deflate, 1)" in refused(path)


def test_an_array_for_each_image_is_refused(folder, monkeypatch):
    path = write(folder / "set.h5", **{f"image{i}": IMAGES[i] for i in range(20)})
    assert re.search(r"which of its arrays \(image0, image1, .*, 8 more\) are", refused(path))
    monkeypatch.setattr(hdf5, "_MOST", 10)
    assert "holds more than 10 arrays" in refused(path)


@pytest.mark.parametrize("kept", ["contiguous", "compressed"])
def test_damage_is_a_line_or_harmless(folder, kept):
    path = write(folder / "set.h5", kept=STORED[kept], images=IMAGES, labels=LABELS)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for cut in (0, 5, 90, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert "cannot be read" in refused(path)
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            load(path)
        except UserError as error:
            assert "\n" not in str(error)


def test_damaged_values_are_of_the_file_and_not_of_the_cache(folder):
    path = write(folder / "set.h5", kept=STORED["lzf"], images=IMAGES)
    content = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        at = file["images"].id.get_chunk_info(0).byte_offset
    content[at + 9] ^= 255
    path.write_bytes(content)
    assert "set.h5 cannot be read" in refused(path)


def test_hdf4_is_named(folder):
    (folder / "set.hdf").write_bytes(b"\x0e\x03\x13\x01" + bytes(99))
    assert "is HDF4: turn it into HDF5 by h4toh5" in refused(folder / "set.hdf")


def test_without_h5py_the_extra_is_named(folder, monkeypatch):
    path = write(folder / "set.h5", images=IMAGES)
    monkeypatch.setitem(sys.modules, "h5py", None)
    message = refused(path)
    assert "set.h5 is read by h5py, which is not installed: pip install 'tada-jax[form" in message


def test_options_of_image_files_are_refused(folder):
    path = write(folder / "set.h5", images=IMAGES)
    assert "data.labels='folders' is of folders and zips" in refused(path, labels="folders")
    assert "data.pages=all is of image files" in refused(path, pages="all")
    assert "does not exist" in refused(folder / "none.h5")
