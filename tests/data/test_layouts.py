"""Folders and zips as the tools of the field lay them out: which image is of which class."""

import json
import zipfile

import numpy as np
import pytest

from tests.data.pictures import encode, error, load, noise, pngs, truth, write, write_zip


def edm(count, label):
    """What EDM's dataset tool puts into a zip: chunks of 1,000, stored, and `dataset.json`."""
    files = {
        f"{i // 1000:05}/img{i:08}.png": encode(np.full((2, 2), i % 256, np.uint8))
        for i in range(count)
    }
    listed = None if label is None else [[name, label(i)] for i, name in enumerate(files)]
    return files | {"dataset.json": json.dumps({"labels": listed}).encode()}


@pytest.mark.parametrize("packed", [True, False])
def test_edms_labels_are_those_of_its_file(packed, tmp_path):
    files = edm(1100, lambda i: i % 2)
    pack = (lambda p, f: write_zip(p, f, zipfile.ZIP_STORED)) if packed else write
    found = load(pack(tmp_path / "set.zip", files))
    assert found.class_names == ("0", "1")
    np.testing.assert_array_equal(np.bincount(found.train.labels), [550, 550])
    values = found.train.images[:][:, 0, 0, 0]
    np.testing.assert_array_equal(found.train.labels, values.astype(int) % 2)
    assert "classes by dataset.json" in found.source and not found.reading.other_files


def test_edms_file_below_a_folder_and_labels_with_gaps(tmp_path):
    files = edm(30, lambda i: (7, 12, 3)[i % 3])
    found = load(write_zip(tmp_path / "a.zip", {f"set/{n}": c for n, c in files.items()}))
    assert found.class_names == ("3", "7", "12")
    np.testing.assert_array_equal(found.train.labels[:6], [1, 2, 0, 1, 2, 0])


def test_one_hot_labels_are_classes_and_other_vectors_are_said_to_be_none(tmp_path):
    one_hot = edm(12, lambda i: [float(i % 3 == k) for k in range(3)])
    found = load(write_zip(tmp_path / "a.zip", one_hot))
    np.testing.assert_array_equal(found.train.labels, np.arange(12) % 3)
    attributes = load(write_zip(tmp_path / "b.zip", edm(12, lambda i: [1, 0, 1])))
    assert attributes.train.labels is None and not attributes.num_classes
    assert "dataset.json has 3 numbers an image, which name no class" in attributes.source


def test_a_file_without_labels_and_chunks_alone_are_no_classes(tmp_path):
    found = load(write_zip(tmp_path / "a.zip", edm(1100, None)))
    assert not found.num_classes and "dataset.json has no labels: no classes" in found.source
    ffhq = {f"{i // 1000 * 1000:05}/{i:05}.png": encode(noise(2, 2)) for i in range(900, 1100)}
    for files in (ffhq, {n: c for n, c in edm(1100, None).items() if n != "dataset.json"}):
        root = write(tmp_path / str(len(files)), files)
        found = load(root)
        assert not found.num_classes and found.train.labels is None
        assert "1,000 consecutive images each (data.labels=folders" in found.source
        assert load(root, labels="folders").num_classes == 2


def test_folders_of_digits_that_are_no_chunks_are_classes(tmp_path):
    found = load(write(tmp_path / "a", pngs("0/00001.png", "0/00007.png", "1/00002.png")))
    assert found.class_names == ("0", "1")
    assert "classes by folders (data.labels=none: no classes)" in found.source
    long = load(write(tmp_path / "b", pngs("00000/1.png", "00001/2.png", "00002/3.png")))
    assert long.num_classes == 3


def test_prefixes_are_those_of_guided_diffusion(tmp_path):
    root = write(tmp_path / "a", pngs("x/cat_2.png", "y/cat_1.png", "x/dog_a_b.png"))
    found = load(root, labels="prefix")
    assert found.class_names == ("cat", "dog")
    np.testing.assert_array_equal(found.train.labels, [0, 1, 0])
    write(root, pngs("y/bird.png"))
    assert "1 of 4 have none, as y/bird.png" in error(root, labels="prefix")


def test_no_classes_if_none_are_wanted(tmp_path):
    root = write(tmp_path / "a", pngs("cat/1.png", "dog/1.png"))
    found = load(root, labels="none")
    assert not found.num_classes and "no classes, since data.labels=none" in found.source
    assert "there is no dataset.json" in error(root, labels="file")


def test_a_stray_image_is_left_out_and_named_and_the_classes_stay(tmp_path):
    files = pngs(*(f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(20)))
    alone = load(write(tmp_path / "a", files))
    found = load(write(tmp_path / "b", pngs("cover.png") | files))
    assert found.class_names == ("cat", "dog")
    np.testing.assert_array_equal(found.train.images[:], alone.train.images[:])
    np.testing.assert_array_equal(found.train.labels, alone.train.labels)
    assert len(found.reading.sizes) == sum(found.reading.modes.values()) == 40
    assert "left out, since they lie beside the folders of classes: 'cover.png'" in found.source
    deeper = {f"set/{name}": content for name, content in files.items()} | pngs(
        "set/a.png", "b.png"
    )
    found = load(write(tmp_path / "c", deeper))
    assert found.class_names == ("cat", "dog") and "'b.png', 'set/a.png'" in found.source


def test_train_and_val_are_a_split_and_no_classes(tmp_path):
    """AFHQ's layout, packed below one more folder."""
    files = pngs(
        *(f"afhq/train/{kind}/{i}.png" for kind in ("cat", "dog", "wild") for i in range(4)),
        *(f"afhq/val/{kind}/{i}.png" for kind in ("cat", "wild") for i in range(2)),
    )
    found = load(write_zip(tmp_path / "a.zip", files), test_fraction=0.5)
    assert (len(found.train.images), len(found.test.images)) == (12, 4)
    assert found.class_names == ("cat", "dog", "wild")
    np.testing.assert_array_equal(np.bincount(found.train.labels), [4, 4, 4])
    np.testing.assert_array_equal(found.test.labels, [0, 0, 2, 2])
    for split, name in ((found.train, "train"), (found.test, "val")):
        of_split = {n: c for n, c in files.items() if f"/{name}/" in n}
        np.testing.assert_array_equal(split.images[:], truth(of_split))
    assert "trained on 'train', held out is 'val'" in found.source


def test_of_three_splits_the_test_is_held_out_and_the_third_is_named(tmp_path):
    files = pngs(*(f"{split}/{i}.png" for split in ("Train", "valid", "test") for i in range(5)))
    found = load(write(tmp_path / "a", files))
    assert (len(found.train.images), len(found.test.images), found.num_classes) == (5, 5, 0)
    np.testing.assert_array_equal(
        found.test.images[:], truth({n: c for n, c in files.items() if n.startswith("test")})
    )
    assert "left out: 5 images of 'valid'" in found.source


def test_a_flat_test_split_beside_classes_is_left_out_and_named(tmp_path):
    files = pngs(*(f"train/{kind}/{i}.png" for kind in "ab" for i in range(10)), "test/1.png")
    found = load(write(tmp_path / "a", files | pngs("test/2.png")), test_fraction=0.2)
    assert (len(found.train.images), len(found.test.images), found.num_classes) == (16, 4, 2)
    assert "held out is 'test', but without classes: its 2 are left out" in found.source


def test_train_beside_anything_else_is_a_class(tmp_path):
    assert load(write(tmp_path / "a", pngs("train/1.png", "ship/1.png"))).num_classes == 2


def test_many_images_beside_folders_are_no_strays(tmp_path):
    files = pngs(*(f"{i}.png" for i in range(9)), "cat/1.png", "dog/1.png")
    found = load(write(tmp_path / "a", files))
    assert len(found.train.images) == 11 and not found.num_classes
    assert "no classes, since 9 images lie beside the sub-folders" in found.source


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is no list of labels"),
        (b"[]", "is no list of labels"),
        (b'{"labels": [["1.png"]]}', "is no list of labels"),
        (b'{"labels": [["1.png", 0]]}', "none of 1 that lie here, as 2.png"),
        (b'{"labels": [["1.png", "cat"], ["2.png", "dog"]]}', "as 'cat'"),
        (b'{"labels": [["1.png", 1.5], ["2.png", 1]]}', "as '1.5'"),
        (b'{"labels": [["1.png", [1]], ["2.png", [1, 2]]]}', "as '[1]'"),
    ],
)
def test_a_file_of_labels_that_cannot_be_is_one_line(content, message, tmp_path):
    root = write(tmp_path / "a", pngs("1.png", "2.png") | {"dataset.json": content})
    assert message in error(root) and "dataset.json" in error(root)
    assert not load(root, labels="none").num_classes


def test_what_is_passed_over_is_named_by_its_ending(tmp_path):
    more = {f"{i}.heic": b"x" for i in range(3)} | {"list.CSV": b"x", "README": b"x"}
    found = load(write(tmp_path / "a", pngs("1.png") | more))
    assert found.reading.other_files == ".heic 3, .csv 1, no ending 1"
    message = error(write(tmp_path / "b", more))
    assert "holds no images, only other files (.heic 3, .csv 1, no ending 1)" in message


def test_what_a_synology_station_keeps_beside_images_is_none_of_them(tmp_path):
    thumbnails = pngs("cat/@eaDir/1.png/SYNOPHOTO_THUMB_M.png", "@eaDir/x.png")
    found = load(write(tmp_path / "a", pngs("cat/1.png", "dog/1.png") | thumbnails))
    assert len(found.train.images) == 2 and found.class_names == ("cat", "dog")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_repeated_names_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("1.png", "./2.png", "2.png", "3.png"):
            archive.writestr(name, encode(noise(4, 4)))
    assert "several members named 2.png" in error(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("ending", "kind", "options"),
    [
        ("j2k", "JPEG2000", {"no_jp2": True}),
        ("jpx", "JPEG2000", {}),
        ("apng", "PNG", {}),
        ("avifs", "AVIF", {"quality": 100}),
    ],
)
def test_other_endings_of_kinds_that_are_read(ending, kind, options, tmp_path):
    found = load(write(tmp_path / "a", {f"1.{ending}": encode(noise(16, 16), kind, **options)}))
    assert found.train.images.shape == (1, 16, 16, 3)


def test_a_name_in_two_unicode_forms_is_one_class(tmp_path):
    files = pngs(
        *(f"caf{e}/{i}.png" for i, e in enumerate(("\xe9", "e\u0301", "\xe9"))), "zoo/3.png"
    )
    found = load(write_zip(tmp_path / "set.zip", files))
    assert len(found.class_names) == 2 and found.class_names[1] == "zoo"
    assert sorted(found.train.labels) == [0, 0, 0, 1]
    assert "names that differ in their Unicode form alone are one class" in found.source


@pytest.mark.parametrize("name", ["caf\xe9", "\u732b", "\u043a\u043e\u0442"])
def test_names_of_zips_that_do_not_say_that_they_are_utf_8(name, tmp_path):
    file = write_zip(tmp_path / "set.zip", pngs(f"{name}/1.png", "zoo/2.png"))
    content = bytearray(file.read_bytes())
    for start, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.find(start)
        while at >= 0:
            content[at + flags + 1] &= ~8
            at = content.find(start, at + 4)
    file.write_bytes(content)
    assert sorted(load(file).class_names) == sorted([name, "zoo"])


TABLE = (
    "file_name,text,label\n",
    "\n".join(f"{i}.png,a picture,{['dog', 'cat'][i % 2]}" for i in range(8)),
)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metadata.csv", "".join(TABLE)),
        ("metadata.csv", "\ufeff" + "".join(TABLE).replace("\n", "\r\n")),
        (
            "metadata.jsonl",
            "".join(
                json.dumps({"file_name": f"{i}.png", "label": ["dog", "cat"][i % 2]}) + "\n"
                for i in range(8)
            ),
        ),
        ("train.csv", "id,label\n" + "".join(f"{i},{['dog', 'cat'][i % 2]}\n" for i in range(9))),
    ],
    ids=["csv", "csv of a spreadsheet", "jsonl", "kaggle"],
)
def test_tables_of_labels(file, content, packed, tmp_path):
    files = pngs(*(f"{i}.png" for i in range(8))) | {file: content.encode()}
    found = load((write_zip if packed else write)(tmp_path / "set", files))
    assert found.class_names == ("cat", "dog")
    np.testing.assert_array_equal(found.train.labels, [1, 0] * 4)
    assert f"classes by 'label' of {file}" in found.source and not found.reading.other_files
    assert ("names 1 more images" in found.source) == (file == "train.csv")


def test_columns_that_nothing_is_made_of_are_named(tmp_path):
    rows = "".join(f"{i}.png,{i % 2},{i},{'test' if i > 5 else 'train'}\n" for i in range(8))
    files = pngs(*(f"{i}.png" for i in range(8)))
    table = {"labels.csv": f"filename,class,age,split\n{rows}".encode()}
    found = load(write(tmp_path / "set", files | table))
    assert "classes by 'class' of labels.csv; columns passed over: age, split" in found.source
    assert "'split' holds nothing out" in found.source
    fewer = {"labels.csv": table["labels.csv"].replace(b"split", b"years")}
    assert "holds nothing out" not in load(write(tmp_path / "other", files | fewer)).source


@pytest.mark.parametrize("folder", ["train_images", "a/b"])
def test_a_table_beside_the_folder_of_its_images(folder, tmp_path):
    table = "image_id,label\n" + "".join(f"{i},{i % 2}\n" for i in range(6))
    files = pngs(*(f"{folder}/{i}.png" for i in range(6))) | {"train.csv": table.encode()}
    found = load(write_zip(tmp_path / "set.zip", files))
    np.testing.assert_array_equal(found.train.labels, [0, 1] * 3)


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ("file_name,text\n0.png,a\n", "has no column of labels (file_name, text)"),
        ("a,b\n1,2\n", "has no column of names (a, b)"),
        ("file_name,label\nx/0.png,cat\n", "names not all of the images, as y/1.png"),
        ("", "is no table that can be read"),
        ("file_name,label\nx/0.png,a\nx/0.png,b\ny/1.png,a\n", "gives an image several labels"),
    ],
)
def test_tables_that_do_not_fit_are_named_and_folders_taken(table, why, tmp_path):
    files = pngs("x/0.png", "y/1.png") | {"metadata.csv": table.encode()}
    path = write_zip(tmp_path / "set.zip", files)
    found = load(path)
    assert found.class_names == ("x", "y") and f"metadata.csv {why}" in found.source
    assert why in error(path, labels="file")


def test_a_number_for_each_image_is_no_class(tmp_path):
    table = "id,target\n" + "".join(f"{i},{i / 7}\n" for i in range(9))
    files = pngs(*(f"{i}.png" for i in range(9))) | {"train.csv": table.encode()}
    found = load(write_zip(tmp_path / "set.zip", files))
    assert not found.num_classes
    assert "train.csv has 9 labels of 9 images: numbers, no classes" in found.source


@pytest.mark.parametrize("how", ["auto", "file"])
def test_kaggles_table_beside_a_test_split_without_labels(how, tmp_path):
    table = "id,label\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(6))
    files = pngs(*(f"train/{i}.png" for i in range(6)), *(f"test/{i}.png" for i in range(6, 9)))
    path = write_zip(tmp_path / "set.zip", files | {"train.csv": table.encode()})
    found = load(path, labels=how)
    assert found.class_names == ("a", "b") and len(found.train.images) == 6
    np.testing.assert_array_equal(found.train.labels, [0, 1] * 3)
    assert "its 3 are left out" in found.source
    whole = "id,label\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(9))
    path = write_zip(tmp_path / "whole.zip", files | {"labels.csv": whole.encode()})
    found = load(path, labels=how)
    assert (len(found.train.images), len(found.test.images)) == (6, 3)
    np.testing.assert_array_equal(found.test.labels, [0, 1, 0])


def test_pictures_beside_their_masks_get_advice(tmp_path):
    root = write(tmp_path / "a", pngs("Images/1.png", "masks/1.png", "Images/2.png"))
    advice = "'masks' beside 'Images' looks like the same pictures in another form"
    assert advice in load(root).source
    assert "in another form" not in load(root, labels="folders").source
    assert not load(root / "Images").num_classes
    for how in ("auto", "folders"):  # as Kaggle's: held-out images without classes
        root = write(tmp_path / how, pngs("train/a/1.png", "train/b/2.png", "test/3.png"))
        assert "its 1 are left out" in load(root, labels=how).source
    root = tmp_path / "a"
    message = "data.labels=folders, and none holds a class: move"
    assert message in error(root / "Images", labels="folders")
    other = write(tmp_path / "b", pngs("masks/1.png", "hats/1.png"))
    assert "in another form" not in load(other).source


def test_a_table_in_the_folder_of_each_split(tmp_path):
    """As Hugging Face's imagefolder has them."""
    root = write(tmp_path / "a", pngs("train/1.png", "train/2.png", "test/1.png", "test/3.png"))
    write(root, {"train/metadata.csv": b"file_name,label\n1.png,cat\n2.png,dog\n"})
    alone = load(root)
    assert alone.class_names == ("cat", "dog") and not len(alone.test.images)
    assert "but without classes: its 2 are left out" in alone.source
    write(root, {"test/metadata.jsonl": b'{"file_name": "1.png", "label": "dog"}\n'})
    assert "names not all of the images" in load(root).source
    more = b'{"file_name": "1.png", "label": "dog"}\n{"file_name": "3.png", "label": "cat"}\n'
    write(root, {"test/metadata.jsonl": more})
    found = load(root)
    np.testing.assert_array_equal(found.train.labels, [0, 1])
    np.testing.assert_array_equal(found.test.labels, [1, 0])
    assert "'label' of train/metadata.csv" in found.source and not found.reading.other_files


def test_a_class_without_a_readable_image_is_named_in_splits_too(tmp_path):
    files = pngs("train/cat/1.png", "train/dog/2.png", "test/cat/3.png")
    root = write(tmp_path / "a", files | {"train/emu/1.png": b"no image"})
    found = load(root, unreadable="skip")
    assert found.class_names == ("cat", "dog")
    assert "no classes, since no image can be read: 'emu'" in found.source


def test_edms_file_for_each_split_and_one_for_both(tmp_path):
    def listed(names):
        return json.dumps({"labels": [[name, i % 2] for i, name in enumerate(names)]}).encode()

    names = {"train": ["00000/a.png", "00000/b.png"], "val": ["00000/c.png", "00000/d.png"]}
    files = pngs(*(f"{split}/{name}" for split, some in names.items() for name in some))
    each = {f"{split}/dataset.json": listed(some) for split, some in names.items()}
    both = {"dataset.json": listed([f"{split}/{n}" for split, some in names.items() for n in some])}
    for i, more in enumerate((each, both)):
        found = load(write(tmp_path / str(i), files | more))
        np.testing.assert_array_equal(found.train.labels, [0, 1])
        np.testing.assert_array_equal(found.test.labels, [0, 1])
        assert "trained on 'train', held out is 'val'" in found.source
        assert "classes by" in found.source and not found.reading.other_files
