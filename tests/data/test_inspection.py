"""The data report, on data with known faults."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from tada_jax.data import Dataset, Reading, Split, inspection


def smooth(count, seed=0, channels=3):
    """Random images of 32x32 pixels with structure at 8x8."""
    coarse = np.random.default_rng(seed).normal(128, 15, (count, 8, 8, channels))
    return np.clip(coarse.repeat(4, 1).repeat(4, 2), 0, 255).astype(np.uint8)


def dataset(images, held_out=0, **fields):
    count = len(images) - held_out
    fields = {"num_classes": 0, "source": "made up", "labels": None} | fields
    labels = fields.pop("labels")
    parts = (slice(None, count), slice(count, None))
    train, test = (Split(images[p], None if labels is None else labels[p]) for p in parts)
    return Dataset("set", train, test, **fields)


def jpeg(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=85)
    return np.asarray(Image.open(file))


def test_planted_duplicates_are_found_and_nothing_else():
    images = smooth(300)
    images[250] = images[17]
    images[251] = images[17]
    images[260] = jpeg(images[30])
    images[290] = np.clip(images[40].astype(int) + 6, 0, 255)  # held out
    images[291] = images[41]  # held out
    found = inspection.inspect(dataset(images, held_out=30), batch_size=8)
    assert found.exact.tolist() == [[17, 250], [17, 251], [41, 291]]
    assert found.near.tolist() == [[30, 260], [40, 290]]
    assert not found.crowded
    text = "\n".join(found.lines())
    assert "270 training, 30 held out, 32x32x3" in text
    assert "3 pairs, 1 of them between" in text and "2 pairs, 1 of them between" in text
    assert any("2 pairs" in a and "held-out" in a for a in found.advice)


def test_faint_images_are_alike_only_if_they_differ_by_little_of_their_contrast():
    """A few bright pixels on black, or shades of one grey: thumbnails of any two are close."""
    rng = np.random.default_rng(0)
    stars = np.full((200, 64, 64, 1), 8, np.uint8)
    for i, image in enumerate(stars):
        y, x = 8 + 3 * (i // 14), 8 + 3 * (i % 14)
        image[y : y + 4, x : x + 4] = rng.integers(60, 250)
    shades = (smooth(200, channels=1) - 128.0) / 4 + 60  # standard deviation 4
    for images in (stars, shades.round().astype(np.uint8)):
        assert not len(inspection.alike(images, mirrored=False))
        noisy = images[:20] + rng.integers(-1, 2, images[:20].shape)
        both = np.concatenate([images, noisy.astype(np.uint8)])
        planted = [[i, 200 + i] for i in range(20)]
        assert inspection.alike(both, mirrored=False).tolist() == planted


@pytest.mark.parametrize("shape", [(7, 5, 1), (8, 8, 1), (33, 20, 3)])
def test_small_and_odd_images(shape):
    images = np.random.default_rng(0).integers(0, 256, (40, *shape), np.uint8)
    images[39] = images[3]
    found = inspection.inspect(dataset(images, held_out=20), batch_size=8)
    assert found.exact.tolist() == [[3, 39]] and not len(found.near)


def test_mirrored_copies_are_told_apart():
    images = smooth(300)
    images[280] = images[20][:, ::-1]
    images[281] = jpeg(images[21][:, ::-1])
    images[50] = images[50][:, ::-1] // 2 + images[50] // 2  # symmetric
    images[282] = jpeg(images[50])
    found = inspection.inspect(dataset(images, held_out=30), batch_size=8)
    assert found.mirrored.tolist() == [[20, 280], [21, 281]]
    assert found.near.tolist() == [[50, 282]]
    assert not len(found.exact)
    assert "mirrored" in "\n".join(found.lines())
    assert any("2 images are the mirror images" in advice for advice in found.advice)


@pytest.mark.parametrize("value", [10, 255])
def test_statistics_of_many_equal_pixels_are_exact(value):
    # Sums of so many values in float32 are wrong by per cents.
    images = np.full((70, 300, 300, 3), value, np.uint8)
    images[:, :, :150, 1] = 0
    line = dict(inspection.inspect(dataset(images), batch_size=8).facts)["values"]
    half = f"{value / 2:.0f}"
    assert f"mean {value}/{half}/{value}, standard deviation 0/{half}/0" in line


def test_large_images_are_read_in_small_pieces():
    class Watched(np.ndarray):
        most = 0

        def __getitem__(self, index):
            taken = np.asarray(super().__getitem__(index))
            Watched.most = max(Watched.most, taken.nbytes)
            return taken

    images = np.zeros((200, 256, 256, 3), np.uint8).view(Watched)
    split = Split(images, None)
    empty = Split(np.zeros((0, 256, 256, 3), np.uint8), None)
    inspection.inspect(Dataset("set", split, empty, 0, "made up"), batch_size=8)
    assert 0 < Watched.most <= inspection.CHUNK_BYTES


def test_a_few_alike_are_no_advice_however_many_pairs_they_make():
    images = smooth(300)
    images[:15] = images[0]
    images[:15, 0, 0, 0] = np.arange(15)  # 105 pairs
    found = inspection.inspect(dataset(images, held_out=30), batch_size=8)
    assert len(found.near) == 105 and not found.advice


def test_memory_mapped_images_give_the_same_report(tmp_path):
    images = smooth(60)
    np.save(tmp_path / "images.npy", images)
    mapped = dataset(images)
    order = np.arange(60)
    rows = Split(np.load(tmp_path / "images.npy", mmap_mode="r"), None).take(order)
    on_disk = Dataset("set", rows, Split(rows.images[:0], None), 0, "made up")
    a, b = (inspection.inspect(d, batch_size=8) for d in (mapped, on_disk))
    assert a.lines() == b.lines() and a.advice == b.advice


def test_thousands_that_look_the_same_do_not_take_forever():
    images = np.full((3000, 16, 16, 1), 128, np.uint8)
    images[:, 0, 0, 0] = np.arange(3000) % 251
    images[:, 0, 1, 0] = np.arange(3000) // 251
    found = inspection.inspect(dataset(images), batch_size=8)
    assert found.crowded and len(found.near) > 1000
    assert "more than could all be compared" in "\n".join(found.lines())


def advice(images, batch_size=8, **fields):
    return " | ".join(inspection.inspect(dataset(images, **fields), batch_size=batch_size).advice)


def test_a_sound_set_needs_no_advice():
    assert advice(smooth(300), held_out=30) == ""


GREY = smooth(300, channels=1).repeat(3, 3)
FLAT = smooth(300)
FLAT[:10] = np.arange(10)[:, None, None, None] * 20
LABELS = np.array([0] * 250 + [1] * 20 + [0, 1] * 15)
SIZES = np.full((300, 2), 20)
NARROW = np.full((300, 2), 32)
NARROW[:9] = 32, 65


@pytest.mark.parametrize(
    ("message", "images", "fields"),
    [
        ("20 training images will be memorised", smooth(40), {"held_out": 20}),
        ("a batch of 512", smooth(300), {"held_out": 30, "batch_size": 512}),
        ("test_fraction", smooth(300), {}),
        ("5 held-out images are few", smooth(300), {"held_out": 5}),
        ("channels=1", GREY, {"held_out": 30}),
        ("10 images are of a single colour", FLAT, {"held_out": 30}),
        ("order=balanced", smooth(300), {"held_out": 30, "num_classes": 2, "labels": LABELS}),
        (
            "if these are splits",
            smooth(300),
            {"held_out": 30, "num_classes": 2, "labels": LABELS, "class_names": ("test", "train")},
        ),
        ("resolution=64", np.zeros((60, 300, 300, 1), np.uint8), {"held_out": 20}),
        ("enlarged", smooth(300), {"held_out": 30, "reading": Reading(SIZES, {"RGB": 300})}),
        (
            "3% .* so long or narrow that more than half of each is cropped: .*fit=pad",
            smooth(300),
            {"held_out": 30, "reading": Reading(NARROW, {"RGB": 300})},
        ),
        (
            "more than half of each is padded: cut them by hand( |$)",
            smooth(300),
            {"held_out": 30, "reading": Reading(NARROW, {"RGB": 300}, fit="pad")},
        ),
        ("equal or alike", smooth(150).repeat(2, 0), {"held_out": 30}),
    ],
)
def test_advice(message, images, fields):
    assert re.search(message, advice(images, **fields))


def test_what_was_read_is_told():
    sizes = np.array([[32, 32]] * 298 + [[64, 48], [10, 90]])
    reading = Reading(
        sizes, {"RGB": 290, "P": 10}, tuple(f"{i}.png: torn" for i in range(7)), ".heic 2, .txt 1"
    )
    found = inspection.inspect(
        dataset(
            smooth(300),
            held_out=30,
            reading=reading,
            num_classes=2,
            labels=LABELS,
            class_names=("cat", "dog"),
        ),
        batch_size=8,
    )
    text = "\n".join(found.lines())
    for part in (
        "290 RGB, 10 P",
        "heights 10 to 64, widths 32 to 90, median 32x32 (height x width), 1 enlarged, 2 cropped",
        "4.png: torn",
        "and 2 more",
        ".heic 2, .txt 1: passed over",
        "2, as number: name (training images)",
        "0: 'cat' (250), 1: 'dog' (20)",
    ):
        assert part in text, text


def classes_of(sizes, held_out, names=()):
    """A data set with so many training and held-out images of each class."""
    labels = np.concatenate([np.repeat(np.arange(len(n)), n) for n in (sizes, held_out)])
    fields = {"num_classes": len(sizes), "labels": labels, "class_names": names}
    return dataset(smooth(len(labels)), held_out=sum(held_out), **fields)


def report(*args):
    found = inspection.inspect(classes_of(*args), batch_size=8)
    return "\n".join(found.lines()), " | ".join(found.advice)


def test_classes_are_counted_on_training_images():
    text, advised = report([120, 0, 110, 0], [10, 11, 9, 0], ("1", "2", "3", "x"))
    assert "4, as number: name (training images)" in text
    assert "0: '1' (120), 1: '2' (0), 2: '3' (110), 3: 'x' (0)" in text
    assert "2 of 4 classes have no training image ('2', 'x')" in advised
    assert "train_size" in advised
    assert "no held-out image" not in advised  # what cannot be learnt need not be measured
    assert "balanced" not in advised  # two classes of about the same size


def test_the_numbers_of_classes_are_not_named_twice():
    text, advised = report([60, 70, 50], [10, 10, 10])
    assert "0 (60), 1 (70), 2 (50)" in text and not advised


def test_imbalance_is_of_training_images():
    _, advised = report([200, 10], [10, 100])  # 210 and 110 in all
    assert "the largest class has 200 training images, the smallest 10: " in advised
    assert "balanced" not in report([95, 10], [105, 10])[1]  # 200 and 20 in all


def test_classes_without_a_held_out_image_are_named_with_the_remedy():
    _, advised = report([100, 5, 7, 90], [20, 0, 0, 10], ("a", "b", "c", "d"))
    assert "2 of 4 classes have no held-out image ('b', 'c')" in advised
    assert "raise config.data.test_fraction (1 of 5 is held out from 0.2 on)" in advised
    _, advised = report([100, 1], [20, 0])
    assert "('1')" in advised and "add images" in advised and "test_fraction" not in advised
    _, advised = report([60, 60], [0, 0])  # which has a line already
    assert "no image is held out" in advised and "held-out image (" not in advised


def test_a_hundred_and_more_classes_are_shortened():
    text, _ = report([3] * 120, [1] * 120)
    assert "98 (3), ... 119 (3)" in text and "99 (3)" not in text
