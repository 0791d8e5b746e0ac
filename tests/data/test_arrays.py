"""Images that are arrays already: .npy, .npz, and what tensorflow-datasets has prepared."""

import io
import os
import pathlib
import re
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from tada_jax import data
from tada_jax.data import classes, prepared
from tada_jax.data.base import Rows
from tada_jax.system.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 8, 6, 3), np.uint8)


def together(dataset):
    """All images in the order of the file."""
    images = np.concatenate([dataset.train.images[:], dataset.test.images[:]])
    return images[np.lexsort(images.reshape(len(images), -1).T)]


def in_order(images):
    return images[np.lexsort(images.reshape(len(images), -1).T)]


def test_a_npy_stays_on_disk(tmp_path):
    np.save(tmp_path / "set.npy", IMAGES)
    dataset = data.load("images", path=str(tmp_path / "set.npy"), test_fraction=0.2)
    assert isinstance(dataset.train.images, Rows)
    assert dataset.train.images.shape == (16, 8, 6, 3) and len(dataset.test.images) == 4
    np.testing.assert_array_equal(together(dataset), in_order(IMAGES))
    assert "set.npy: 16 training + 4 held-out images, 8x6x3" in dataset.source


def test_grey_images_without_a_channel_axis(tmp_path):
    np.save(tmp_path / "set.npy", IMAGES[..., 0])
    assert data.load("images", path=str(tmp_path / "set.npy")).train.images.shape[1:] == (8, 6, 1)


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_channels_may_come_first(ending, tmp_path):
    (np.save if ending == "npy" else np.savez)(
        tmp_path / f"set.{ending}", np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2))
    )
    dataset = data.load("images", path=str(tmp_path / f"set.{ending}"))
    np.testing.assert_array_equal(together(dataset), in_order(IMAGES))
    assert dataset.source.endswith("8x6x3; its channels came first")
    resized = data.load("images", path=str(tmp_path / f"set.{ending}"), resolution=4)
    assert resized.train.images.shape[1:] == (4, 4, 3)


@pytest.mark.parametrize(
    ("names", "images"),
    [(("images", "labels"), 0), (("x", "y"), 0), (("arr_0", "arr_1"), 0), (("mine", "labels"), 0)],
)
def test_a_npz_by_its_usual_names(names, images, tmp_path):
    labels = np.array([7, 40] * 10)
    np.savez(tmp_path / "set.npz", **dict(zip(names, (IMAGES, labels))))
    dataset = data.load("images", path=str(tmp_path / "set.npz"), test_fraction=0.0)
    np.testing.assert_array_equal(dataset.train.images, IMAGES)
    np.testing.assert_array_equal(dataset.train.labels, [0, 1] * 10)
    assert dataset.class_names == ("7", "40") and dataset.num_classes == 2


def test_a_npz_with_a_test_split(tmp_path):
    np.savez(
        tmp_path / "set.npz",
        x_train=IMAGES[:15],
        y_train=np.arange(15) % 3,
        x_test=IMAGES[15:],
        y_test=np.array([2, 2, 0, 0, 2]),
    )
    dataset = data.load("images", path=str(tmp_path / "set.npz"))
    np.testing.assert_array_equal(dataset.test.images, IMAGES[15:])
    np.testing.assert_array_equal(dataset.test.labels, [2, 2, 0, 0, 2])


def test_a_test_split_need_not_have_every_class(tmp_path):
    labels, test_labels = np.array([5, 7, 9] * 5), np.array([9, 9])
    np.savez(tmp_path / "set.npz", x=IMAGES[:15], y=labels, x_test=IMAGES[:2], y_test=test_labels)
    dataset = data.load("images", path=str(tmp_path / "set.npz"))
    assert dataset.class_names == ("5", "7", "9") and dataset.test.labels.tolist() == [2, 2]


@pytest.mark.parametrize("values", [(1, 2, 3), (0, 2, 7), (2, 10, 100)])
def test_the_labels_of_a_npz_stay_the_names_of_its_classes(values, tmp_path):
    labels = np.resize(values, 20)
    np.savez(tmp_path / "set.npz", images=IMAGES, labels=labels)
    dataset = data.load("images", path=str(tmp_path / "set.npz"), test_fraction=0.3)
    assert dataset.class_names == tuple(map(str, values))
    for split in (dataset.train, dataset.test):
        for image, number in zip(split.images, split.labels):
            (row,) = np.flatnonzero((image == IMAGES).all((1, 2, 3)))
            assert values[number] == labels[row]
    for number, value in enumerate(values):
        assert classes.number_of(value, dataset.class_names) == number


def test_labels_that_are_all_the_same_are_left_out_aloud(tmp_path):
    np.savez(tmp_path / "set.npz", images=IMAGES, labels=np.full(20, 5))
    dataset = data.load("images", path=str(tmp_path / "set.npz"))
    assert dataset.num_classes == 0 and dataset.source.endswith("left out, since all are 5")


def test_a_name_of_its_own_beside_a_test_split(tmp_path):
    np.savez(tmp_path / "set.npz", mine=IMAGES[:15], x_test=IMAGES[15:])
    dataset = data.load("images", path=str(tmp_path / "set.npz"))
    np.testing.assert_array_equal(dataset.train.images, IMAGES[:15])


def test_a_single_label_in_a_column(tmp_path):
    np.savez(tmp_path / "set.npz", images=IMAGES[:1], labels=np.zeros((1, 1), int))
    assert data.load("images", path=str(tmp_path / "set.npz")).num_classes == 0


TWENTY = np.arange(20) % 3
REFUSED = {
    "floats that are none": ({"images": np.full((3, 8, 8), np.nan)}, "float64.*not finite"),
    "complex numbers": ({"images": IMAGES * 1j}, "complex128.*real numbers"),
    "two channels": ({"images": IMAGES[..., :2]}, "RGBA"),
    "a single image": ({"images": IMAGES[0]}, "single one"),
    "no images": ({"images": IMAGES[:0]}, "at least one"),
    "nothing": ({}, "none"),
    "two that may be meant": ({"a": IMAGES, "b": IMAGES}, r"\(a, b\)"),
    "two usual names": ({"images": IMAGES, "x": IMAGES}, "images and x"),
    "objects": ({"images": np.array([{}, 1], object)}, "cannot be read"),
    "too few labels": ({"images": IMAGES, "labels": TWENTY[:5]}, "labels"),
    "negative labels": ({"images": IMAGES, "labels": TWENTY - 1}, "-1"),
    "labels with fractions": ({"images": IMAGES, "labels": TWENTY / 2}, "whole numbers"),
    "test images of another size": ({"x": IMAGES, "x_test": IMAGES[:, :4]}, "another size"),
    "labels of one split": ({"x": IMAGES, "y": TWENTY, "x_test": IMAGES}, "only one of its two"),
    "a class of the test split alone": (
        {"x": IMAGES, "y": TWENTY, "x_test": IMAGES, "y_test": TWENTY + 5},
        "no training image has the label",
    ),
}


def refused(path, **options):
    with pytest.raises(UserError) as caught:
        data.load("images", path=str(path), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kind", REFUSED)
def test_an_archive_that_cannot_be_is_refused_in_one_line(kind, tmp_path):
    arrays, expected = REFUSED[kind]
    np.savez(tmp_path / "set.npz", **arrays)
    message = refused(tmp_path / "set.npz")
    assert re.search(expected, message) and "set.npz" in message


def test_a_resolution_that_no_machine_can_hold_is_refused(tmp_path):
    np.save(tmp_path / "set.npy", IMAGES)
    assert "data.resolution=100000" in refused(tmp_path / "set.npy", resolution=100_000)


def test_files_with_the_wrong_ending_are_refused(tmp_path):
    np.save(tmp_path / "set.npy", IMAGES)
    (tmp_path / "set.npy").rename(tmp_path / "single.npz")
    assert "call it .npy" in refused(tmp_path / "single.npz")
    np.savez(tmp_path / "set.npz", images=IMAGES)
    (tmp_path / "set.npz").rename(tmp_path / "several.npy")
    assert "cannot be read" in refused(tmp_path / "several.npy")
    with zipfile.ZipFile(tmp_path / "photos.npz", "w") as archive:
        archive.writestr("images.npy", b"a photo")
    assert "cannot be read" in refused(tmp_path / "photos.npz")


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_damage_is_a_line_or_harmless(ending, tmp_path):
    path, rng = tmp_path / f"set.{ending}", np.random.default_rng(0)
    np.save(path, IMAGES) if ending == "npy" else np.savez_compressed(path, x=IMAGES, y=TWENTY)
    whole = path.read_bytes()
    for cut in (0, 5, 90, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        refused(path)
    # Headers lie at the beginning of a .npy, and at the end of a .npz too.
    for trial in range(200):
        damaged = bytearray(whole)
        place = rng.integers(128) * (-1) ** (trial if ending == "npz" else 0)
        damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            data.load("images", path=str(path))
        except UserError as error:
            assert "\n" not in str(error)


def test_transparent_pixels_show_the_background(tmp_path):
    images = np.zeros((4, 8, 8, 4), np.uint8)
    images[:, :4] = (10, 20, 30, 255)
    np.savez(tmp_path / "set.npz", images=images)
    dataset = data.load(
        "images", path=str(tmp_path / "set.npz"), background=(1, 2, 3), test_fraction=0.0
    )
    made = dataset.train.images[:]
    assert made.shape == (4, 8, 8, 3)
    assert made[0, 0, 0].tolist() == [10, 20, 30] and made[0, 7, 0].tolist() == [1, 2, 3]


def test_stated_sizes(tmp_path):
    np.save(tmp_path / "set.npy", IMAGES)
    path = str(tmp_path / "set.npy")

    def shape(**options):
        return data.load("images", path=path, **options).train.images.shape[1:]

    assert shape() == (8, 6, 3)
    assert shape(channels=1) == (8, 6, 1)
    assert shape(resolution=6) == (6, 6, 3)
    assert shape(resolution=8, fit="pad") == (8, 8, 3)
    assert shape(resolution=12, fit="keep") == (16, 12, 3)
    cropped = data.load("images", path=path, resolution=6)
    np.testing.assert_array_equal(together(cropped), in_order(IMAGES[:, 1:7]))
    again = data.load("images", path=path, resolution=6)
    np.testing.assert_array_equal(together(cropped), together(again))


# tensorflow-datasets


@pytest.fixture
def prepare(tmp_path):
    """prepare(examples by split, **features) writes a prepared data set "flowers" 1.0.0."""
    import tensorflow_datasets as tfds

    def prepare(
        splits, labelled=True, file_format="array_record", label=lambda i: i % 2, config=None
    ):
        features = {"picture": tfds.features.Image()}
        if labelled:
            features["species"] = tfds.features.ClassLabel(names=["rose", "tulip"])

        with tfds.core.registered.skip_registration():  # every test has its own flowers

            class Flowers(tfds.core.GeneratorBasedBuilder):
                VERSION = tfds.core.Version("1.0.0")
                pkg_dir_path = pathlib.Path(tmp_path)
                BUILDER_CONFIGS = [  # noqa: RUF012
                    tfds.core.BuilderConfig(name=name, version=tfds.core.Version("1.0.0"))
                    for name in [config]
                    if name
                ]

                def _info(self):
                    return tfds.core.DatasetInfo(
                        builder=self, features=tfds.features.FeaturesDict(features)
                    )

                def _split_generators(self, dl_manager):
                    return {name: self._generate_examples(n) for name, n in splits.items()}

                def _generate_examples(self, examples):
                    for i, image in enumerate(examples):
                        yield (
                            i,
                            {"picture": png(image)} | ({"species": label(i)} if labelled else {}),
                        )

        builder = Flowers(data_dir=str(tmp_path / "tfds"), file_format=file_format)
        builder.download_and_prepare()
        return pathlib.Path(builder.data_dir)

    return prepare


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return io.BytesIO(file.getvalue())


def test_a_prepared_set_with_images_of_several_sizes(prepare):
    sizes = [(40, 50), (33, 70), (90, 45), (64, 64)] * 3
    examples = [RNG.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    folder = prepare({"train": examples, "validation": examples[:4]})
    dataset = data.load("tfds:flowers")
    assert dataset.train.images.shape == (12, 32, 32, 3)  # median shorter side 42.5
    assert dataset.test.images.shape == (4, 32, 32, 3)
    assert dataset.class_names == ("rose", "tulip")
    assert sorted(dataset.train.labels) == [0] * 6 + [1] * 6
    same = data.load("tfds:flowers", path=str(folder), resolution=16)
    assert same.train.images.shape == (12, 16, 16, 3)


def test_a_prepared_set_without_labels_or_test_split(prepare):
    examples = [RNG.integers(0, 256, (8, 8, 3), np.uint8) for _ in range(10)]
    prepare({"everything": examples}, labelled=False)
    dataset = data.load("tfds:flowers", test_fraction=0.2)
    assert dataset.num_classes == 0 and dataset.train.labels is None
    np.testing.assert_array_equal(together(dataset), in_order(np.stack(examples)))


def test_a_prepared_set_is_known_by_its_content_not_by_its_stamps(prepare):
    examples = [np.full((8, 8, 3), i, np.uint8) for i in range(10)]
    folder = prepare({"train": examples[:8], "test": examples[8:]})
    stamps = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    first = data.load("tfds:flowers")
    shutil.rmtree(folder)
    prepare({"train": examples[:8], "test": examples[8:]}, label=lambda i: 1 - i % 2)
    for path in folder.iterdir():
        os.utime(path, ns=(stamps[path.name], stamps[path.name]))
    second = data.load("tfds:flowers")
    np.testing.assert_array_equal(first.train.images, second.train.images)
    np.testing.assert_array_equal(first.train.labels, 1 - second.train.labels)


def refused_tfds(name="tfds:flowers", **options):
    with pytest.raises(UserError) as caught:
        data.load(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def squares(count, size=16):
    return [RNG.integers(0, 256, (size, size, 3), np.uint8) for _ in range(count)]


def test_the_training_images_settle_the_size_of_the_others(prepare):
    small = [RNG.integers(0, 256, (40, 50, 3), np.uint8), *squares(2, 45)]
    prepare({"train": small, "test": squares(3, 200)})
    dataset = data.load("tfds:flowers")
    assert dataset.train.images.shape == (3, 32, 32, 3)
    assert dataset.test.images.shape == (3, 32, 32, 3)
    assert "fit=crop" in refused_tfds(fit="keep")
    assert "data.resolution=100000" in refused_tfds(resolution=100_000)


def test_only_train_or_a_single_split_is_trained_on(prepare):
    prepare({"day": squares(3), "night": squares(3)})
    assert "splits day, night" in refused_tfds()


def test_labels_that_are_kept_secret(prepare):
    prepare({"train": squares(6), "test": squares(2)}, label=lambda i: -1 if i < 2 else 1)
    dataset = data.load("tfds:flowers")  # of both splits
    assert (
        dataset.num_classes == 0 and dataset.train.labels is None and "left out" in dataset.source
    )


def test_a_class_of_the_test_split_alone_is_a_class_without_training_images(prepare):
    names = iter([0, 0, 0, 1, 0])
    prepare({"train": squares(3), "test": squares(2)}, label=lambda i: next(names))
    dataset = data.load("tfds:flowers")
    found = [(one.name, one.train, one.held_out) for one in classes.of(dataset)]
    assert found == [("rose", 3, 1), ("tulip", 0, 1)]


def test_a_label_beyond_the_classes_is_a_line_in_either_split(prepare, monkeypatch):
    names = iter([0, 0, 0, 1, 0])
    prepare({"train": squares(3), "test": squares(2)}, label=lambda i: next(names))
    monkeypatch.setattr(prepared, "class_names", lambda folder: ["rose"])
    assert "names 1 classes, but has a label beyond them" in refused_tfds()


def test_a_test_split_without_labels_is_not_held_out(prepare):
    secret = iter([0, 1, 0, 1, -1, -1, 1, 0, 1])
    prepare(
        {"train": squares(4), "test": squares(2), "validation": squares(3)},
        label=lambda i: next(secret),
    )
    assert sorted(data.load("tfds:flowers").test.labels) == [0, 1, 1]


def test_names_with_configuration_and_version(prepare):
    prepare({"train": squares(3)}, config="small")
    for name in ("tfds:flowers/small", "tfds:flowers/small:1.0.0"):
        dataset = data.load(name, test_fraction=0.0)
        assert len(dataset.train.images) == 3 and set(dataset.name) & {"/", ":"} == set()
    assert "there is flowers/small:1.0.0" in refused_tfds()
    assert "there is flowers/small:1.0.0" in refused_tfds("tfds:flowers/small:2.0.0")
    for name in ("tfds:", "tfds:/etc", "tfds:../x"):
        assert "needs the name" in refused_tfds(name)


def test_damaged_copies_are_a_line(prepare):
    folder = prepare({"train": squares(3)})
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        # Without a file of names the classes are numbered; half of it may name only roses.
        for cut in (4,) if file.name.endswith("labels.txt") else (0, len(whole) // 2):
            file.write_bytes(whole[:cut])
            assert "tfds" in refused_tfds()
        file.unlink()
        if not file.name.endswith("labels.txt"):  # then the classes have no names
            assert "prepare it" in refused_tfds()
        file.write_bytes(whole)
    data.load("tfds:flowers")


def test_a_set_that_nobody_has_prepared():
    with pytest.raises(UserError, match="no prepared copy.*file_format='array_record'") as e:
        data.load("tfds:flowers")
    assert "\n" not in str(e.value)


def test_a_prepared_set_in_the_format_of_tensorflow(prepare, tmp_path):
    examples = [RNG.integers(0, 256, (8, 8, 3), np.uint8) for _ in range(3)]
    folder = prepare({"train": examples})
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="without TensorFlow.*prepare it again"):
        data.load("tfds:flowers")


def medmnist(channels=()):
    """MedMNIST's arrays: three splits, labels [N,1]."""
    rng = np.random.default_rng(0)
    return {
        f"{split}_{what}": rng.integers(0, high, (n, *shape), np.uint8)
        for split, n in (("train", 20), ("val", 6), ("test", 8))
        for what, high, shape in (("images", 256, (28, 28, *channels)), ("labels", 2, (1,)))
    }


def test_medmnist_is_read_and_the_split_that_is_left_out_is_named(tmp_path):
    found = load_npz(tmp_path, **medmnist((3,)))
    assert (len(found.train.images), len(found.test.images), found.num_classes) == (20, 8, 2)
    assert "left out: its arrays val_images [6, 28, 28, 3], val_labels [6, 1]" in found.source


def test_several_labels_an_image_are_refused_or_left_out(tmp_path):
    chest = medmnist() | {
        f"{split}_labels": np.zeros((n, 14), np.uint8)
        for split, n in (("train", 20), ("val", 6), ("test", 8))
    }
    with pytest.raises(UserError, match="set data.labels=none"):
        load_npz(tmp_path, **chest)
    found = load_npz(tmp_path, labels_from="none", **chest)
    assert not found.num_classes and found.train.labels is None
    assert "train_labels [20, 14]" in found.source


@pytest.mark.parametrize("name", ["target", "targets", "labels"])
@pytest.mark.parametrize("names", ["class_names", "target_names", "classes"])
def test_names_of_classes(name, names, tmp_path):
    arrays = {"data": np.zeros((9, 5, 5), np.uint8), name: np.arange(9) % 3}
    found = load_npz(tmp_path, **arrays, **{names: np.array(["cat", "dog", "ant"])})
    assert found.class_names == ("cat", "dog", "ant") and "left out" not in found.source
    np.testing.assert_array_equal(found.train.labels, np.arange(9) % 3)
    with pytest.raises(UserError, match="go up to 2"):
        load_npz(tmp_path, **arrays, **{names: np.array(["cat", "dog"])})


def test_labels_that_are_text(tmp_path):
    text = np.array(["b10", "b2", "a"])
    found = load_npz(tmp_path, images=np.zeros((6, 5, 5), np.uint8), classes=np.tile(text, 2))
    assert found.class_names == ("a", "b2", "b10")
    np.testing.assert_array_equal(found.train.labels, [2, 1, 0] * 2)


def load_npz(folder, labels_from="auto", **arrays):
    np.savez(folder / "set.npz", **arrays)
    return data.load("images", path=str(folder / "set.npz"), labels=labels_from, test_fraction=0.0)


def test_names_without_labels_are_named_as_left_out(tmp_path):
    arrays = {"images": np.zeros((6, 5, 5), np.uint8), "class_names": np.array(["cat", "dog"])}
    found = load_npz(tmp_path, **arrays)
    assert not found.num_classes and "left out: its arrays class_names [2]" in found.source


def test_where_labels_come_from_is_honoured_or_refused_by_every_source(tmp_path):
    arrays = {"images": np.zeros((6, 5, 5), np.uint8), "labels": np.arange(6) % 2}
    with pytest.raises(UserError, match="data.labels='prefix' is of folders and zips"):
        load_npz(tmp_path, labels_from="prefix", **arrays)
    with pytest.raises(UserError, match="data.labels='folders' is of folders and zips"):
        data.load("digits", labels="folders")
    found = data.load("digits", labels="none")
    assert found.train.labels is None and found.test.labels is None and not found.class_names
    assert not found.num_classes and found.source.endswith("no classes, since data.labels=none")
