""".mat files of versions 5, 7 (by scipy) and 7.3 (byte for byte as MATLAB lays out HDF5)."""

import sys

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse

from tada_jax import data
from tada_jax.system.errors import UserError

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (20, 8, 6, 3), np.uint8), np.arange(20)[:, None] % 3 + 1
LAST = IMAGES.transpose(1, 2, 3, 0)  # as MATLAB has them
CLASSES = {"float64": "double", "float32": "single", "bool": "logical"}
VERSIONS = ("5", "7", "7.3")


def cell(*texts):
    made = np.empty((len(texts), 1), object)
    made[:, 0] = texts
    return made


def write(path, version="7", **variables):
    """Variables as MATLAB saves them: arrays, text, cells of text, dicts as structures."""
    if version != "7.3":
        scipy.io.savemat(path, variables, do_compression=version == "7")
        return path
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            put(file, name, value)
    with path.open("r+b") as file:
        text = (
            "MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Sat Nov 28 2026 HDF5 schema 1.00 ."
        )
        file.write(text.encode().ljust(116) + bytes(8) + b"\x00\x02IM")
    return path


def put(group, name, value):
    if isinstance(value, dict):
        made = group.create_group(name)
        made.attrs["MATLAB_class"] = np.bytes_("struct")
        for field, part in value.items():
            put(made, field, part)
        return
    value = np.asarray(value)
    kind = CLASSES.get(value.dtype.name, value.dtype.name)
    if value.dtype.kind == "U":
        kind = "char"
        width = max(len(text) for text in value.ravel().tolist())
        rows = [list(text.ljust(width).encode("utf-16-le")) for text in value.ravel().tolist()]
        value = np.array(rows, np.uint8).view("<u2")
    elif value.dtype == object:
        kind = "cell"
        refs = group.file.require_group("#refs#")
        for text in value.ravel():
            put(refs, f"r{len(refs)}", text)
        names = [f"r{i}" for i in range(len(refs) - value.size, len(refs))]
        value = np.array([refs[ref].ref for ref in names], h5py.ref_dtype).reshape(value.shape)
    elif kind == "logical":
        value = value.astype(np.uint8)
    value = value.reshape(1, -1) if value.ndim < 2 else value
    large = {"chunks": True, "compression": "gzip"} if value.size > 1000 else {}
    made = group.create_dataset(name, data=value.T, **large)
    made.attrs["MATLAB_class"] = np.bytes_(kind)
    if kind == "logical":
        made.attrs["MATLAB_int_decode"] = np.int32(1)


def load(path, **options):
    return data.load("images", path=str(path), **{"test_fraction": 0.0, **options})


def refused(path, **options):
    with pytest.raises(UserError) as caught:
        load(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("axes", [(1, 2, 3, 0), (0, 1, 2, 3), (0, 3, 1, 2), (3, 1, 2, 0)])
def test_labels_tell_which_axis_is_that_of_the_images(folder, version, axes):
    images = IMAGES.transpose(axes)
    found = load(write(folder / "set.mat", version, images=images, labels=LABELS))
    np.testing.assert_array_equal(found.train.images[:], IMAGES)
    np.testing.assert_array_equal(found.train.labels, LABELS[:, 0] - 1)
    assert found.class_names == ("1", "2", "3")
    same = load(folder / "set.mat", labels="none")
    np.testing.assert_array_equal(same.train.images[:], IMAGES)
    assert not same.num_classes and "left out: its arrays labels [20, 1]" in same.source


@pytest.mark.parametrize("version", VERSIONS)
def test_grey_images(folder, version):
    for images in (LAST[..., 0, :], IMAGES[..., 0]):
        found = load(write(folder / "set.mat", version, x=images, y=LABELS.T))
        np.testing.assert_array_equal(found.train.images[:][..., 0], IMAGES[..., 0])
    message = refused(write(folder / "set.mat", version, x=LAST[..., 0, :]))
    assert "which axis of its images uint8 [8, 6, 20] counts them?" in message
    assert "reshape(x, height, width, 1, [])" in message
    found = load(write(folder / "set.mat", version, x=LAST[..., :1, :]))
    np.testing.assert_array_equal(found.train.images[:], IMAGES[..., :1])


@pytest.mark.parametrize("version", VERSIONS)
def test_without_labels_the_channels_tell(folder, version):
    for images in (LAST, IMAGES):
        found = load(write(folder / "set.mat", version, faces=images))
        np.testing.assert_array_equal(found.train.images[:], IMAGES)
    for images in (IMAGES[..., :2], LAST[..., :3]):
        message = refused(write(folder / "set.mat", version, faces=images))
        assert f"which axis of its images uint8 {list(images.shape)} counts them?" in message


@pytest.mark.parametrize("version", VERSIONS)
def test_svhn(folder, version):
    y = np.arange(20, dtype=np.uint8)[:, None] % 10 + 1
    for part, rows in (("train", slice(12)), ("test", slice(12, 20)), ("extra", slice(4))):
        write(folder / f"{part}_32x32.mat", version, X=LAST[..., rows], y=y[rows])
    for path in (folder, folder / "train_32x32.mat"):
        found = load(path)
        np.testing.assert_array_equal(found.train.images[:], IMAGES[:12])
        np.testing.assert_array_equal(found.test.images[:], IMAGES[12:])
        np.testing.assert_array_equal(found.train.labels, y[:12, 0] % 10)
        np.testing.assert_array_equal(found.test.labels, y[12:, 0] % 10)
        assert found.class_names == tuple("0123456789")
        assert "label 10 is the digit 0; left out: its arrays extra/X [8, 6, 3, 4]" in found.source
        assert "held out: those of test_32x32.mat" in found.source
    (folder / "test_32x32.mat").unlink()
    assert len(load(folder, test_fraction=0.25).test.images) == 2  # two classes have two images


@pytest.mark.parametrize(
    "images",
    [
        LAST[..., 0, :] > 127,
        LAST.astype(float),
        LAST // 2.0,  # whole numbers up to 127, which MATLAB keeps as bytes
        LAST / np.float32(255),
        LAST.astype(np.uint16) * 16,
        LAST.astype(np.int16) - 100,
    ],
    ids=lambda images: f"{images.dtype}, to {images.max():.0f}",
)
def test_every_version_gives_the_same_pixels(folder, images):
    for values in ("auto", "full"):
        made = []
        for version in VERSIONS:
            path = write(folder / "set.mat", version, images=images, labels=LABELS.astype(float))
            made.append(load(path, range=values))
        for other in made[1:]:
            np.testing.assert_array_equal(made[0].train.images[:], other.train.images[:])
            assert made[0].source == other.source
        np.testing.assert_array_equal(made[0].train.labels, LABELS[:, 0] - 1)


def test_numbers_have_the_type_they_have_in_matlab(folder):
    # Doubles that are whole numbers are kept as bytes, which scipy does not do, and gives as such.
    path = write(folder / "set.mat", "5", x=LAST // 2.0, y=LABELS)
    content, plain = path.read_bytes(), (LAST // 2.0).astype("<f8").tobytes("F")
    header = content.index(plain) - 8
    kept = (LAST // 2).tobytes("F")
    kept = np.array([2, len(kept)], "<u4").tobytes() + kept + bytes(-len(kept) % 8)
    shorter = len(plain) + 8 - len(kept)
    # The length of the whole variable stands before its flags.
    at = content.rindex(np.array([14], "<u4").tobytes(), 0, header)
    size = int.from_bytes(content[at + 4 : at + 8], "little") - shorter
    content = content[: at + 4] + np.uint32(size).tobytes() + content[at + 8 :]
    header = content.index(plain) - 8
    path.write_bytes(content[:header] + kept + content[header + 8 + len(plain) :])
    assert scipy.io.loadmat(path)["x"].dtype == np.uint8
    found = load(path)
    write(path, "7.3", x=LAST // 2.0, y=LABELS)
    same = load(path)
    assert found.source == same.source and "values of float64 from 0 to 127" in found.source
    np.testing.assert_array_equal(found.train.images[:], same.train.images[:])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("names", [cell("cat", "dogs", "ä"), np.array(["cat ", "dogs", "ä   "])])
def test_names_of_classes_count_as_labels_do(folder, version, names):
    for first, note in ((1, True), (0, False)):
        labels = LABELS - 1 + first
        path = write(folder / "set.mat", version, images=LAST, labels=labels, classes=names)
        found = load(path)
        assert found.class_names == ("cat", "dogs", "ä")
        assert ("names of classes are those of the labels from 1" in found.source) is note


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("form", [lambda t: cell(*t), lambda t: cell(*t).T, np.array])
def test_labels_that_are_text(folder, version, form):
    text = ["b10", "b2", "a", "a"] * 5
    found = load(write(folder / "set.mat", version, images=LAST, labels=form(text)))
    assert found.class_names == ("a", "b2", "b10")
    np.testing.assert_array_equal(found.train.labels, [2, 1, 0, 0] * 5)


@pytest.mark.parametrize("version", VERSIONS)
def test_fields_of_structures_as_of_matconvnet(folder, version):
    imdb = {
        "images": {"data": LAST, "labels": LABELS.T.astype(float), "set": np.ones((1, 20))},
        "meta": {"classes": cell("cat", "dog", "ant")},
    }
    found = load(write(folder / "imdb.mat", version, imdb=imdb))
    np.testing.assert_array_equal(found.train.images[:], IMAGES)
    assert found.class_names == ("cat", "dog", "ant")
    assert "left out: its arrays imdb/images/set [1, 20]" in found.source


@pytest.mark.parametrize("version", VERSIONS)
def test_a_test_split_lies_as_the_training_images_do(folder, version):
    path = write(
        folder / "set.mat",
        version,
        train_x=LAST[..., :15],
        train_y=LABELS[:15],
        test_x=LAST[..., 15:],
        test_y=LABELS[15:],
    )
    found = load(path)
    np.testing.assert_array_equal(found.test.images[:], IMAGES[15:])


@pytest.mark.parametrize("version", ["5", "7"])
def test_other_variables_are_named(folder, version):
    path = write(
        folder / "set.mat",
        version,
        images=LAST,
        labels=LABELS,
        sparse=scipy.sparse.eye_array(3).tocsc(),
        photos=cell("a", "b"),
        complicated={"z": np.array([1j])},
        mean=LAST.mean(),
    )
    found = load(path)
    left = found.source.partition("left out: its arrays ")[2]
    assert left == (
        "sparse (a MATLAB sparse), photos (a MATLAB cell), complicated (complex numbers), "
        "mean [1, 1]"
    )


def test_other_variables_of_version_7_3_are_named(folder):
    path = write(folder / "set.mat", "7.3", images=LAST, labels=LABELS, photos=cell("a", "b"))
    with h5py.File(path, "a") as file:
        sparse = file.create_group("sparse")
        sparse.attrs["MATLAB_sparse"] = np.uint64(3)
        sparse["data"] = np.ones(3)
        for name, kind in (("names", "string"), ("target", "categorical")):
            file[name] = np.zeros((1, 6), np.uint32)
            file[name].attrs["MATLAB_class"] = np.bytes_(kind)
            file[name].attrs["MATLAB_object_decode"] = np.int32(3)
        file["none"] = np.zeros(2, np.uint64)
        file["none"].attrs["MATLAB_empty"] = np.uint8(1)
        file["z"] = np.zeros((2, 2), [("real", "f8"), ("imag", "f8")])
        file["#subsystem#/MCOS"] = np.zeros(3, np.uint32)
    found = load(path)
    np.testing.assert_array_equal(found.train.labels, LABELS[:, 0] - 1)
    left = sorted(found.source.partition("left out: its arrays ")[2].split(", "))
    assert left == [
        *("names (a MATLAB string)", "none (empty)", "photos (a MATLAB cell)"),
        *("sparse (a MATLAB sparse)", "target (a MATLAB categorical)", "z (complex numbers)"),
    ]


@pytest.mark.parametrize("version", ["5", "7"])
def test_complex_images_are_refused(folder, version):
    path = write(folder / "set.mat", version, images=LAST * 1j, labels=LABELS)
    assert "cannot be read" in refused(path)


@pytest.mark.parametrize("version", VERSIONS)
def test_damage_is_a_line_or_harmless(folder, version):
    path = write(folder / "set.mat", version, images=LAST, labels=LABELS)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for cut in (0, 5, 90, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        refused(path)
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[rng.integers(min(2000, len(whole)))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            load(path)
        except UserError as error:
            assert "\n" not in str(error)


def test_without_h5py_versions_5_and_7_are_read(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    path = write(folder / "set.mat", "7", images=LAST, labels=LABELS)
    np.testing.assert_array_equal(load(path).train.images[:], IMAGES)


def test_without_h5py_version_7_3_names_the_extra(folder, monkeypatch):
    path = write(folder / "set.mat", "7.3", images=LAST)
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "set.mat is read by h5py, which is not installed: pip install" in refused(path)
