"""Tables of Hugging Face's datasets: `tests/files/huggingface.zip`, and what pyarrow writes."""

import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tada_jax.data.formats import huggingface
from tests import tiny
from tests.data.pictures import encode, error, forbid_decoding, load, noise, write
from tests.files.write_with_others import picture


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What datasets 5.2.0 wrote."""
    folder = tmp_path_factory.mktemp("huggingface")
    shutil.unpack_archive(tiny.FILES / "huggingface.zip", folder)
    return folder


def assert_pictures(split, numbers):
    np.testing.assert_array_equal(split.images[:], np.stack([picture(i) for i in numbers]))


def parquet(file, columns, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file, **options)
    return file


def rows(count):
    """A column of images as struct {bytes, path}, with no paths."""
    return [{"bytes": encode(noise(8, 8)), "path": None} for _ in range(count)]


@pytest.mark.parametrize("kind", ["saved", "parquet", "parquet/data"])
def test_splits_classes_and_pixels(kind, written):
    """Classes have the numbers that the library gives them."""
    found = load(written / kind)
    assert_pictures(found.train, range(5))
    assert_pictures(found.test, range(5, 8))
    assert found.class_names == ("dog", "cat")
    np.testing.assert_array_equal(found.train.labels, [1, 0, 1, 0, 1])
    np.testing.assert_array_equal(found.test.labels, [0, 1, 0])
    assert "classes by the column 'label'; trained on 'train', held out is 'test'" in found.source
    assert "left out: columns text" in found.source and not found.reading.other_files
    whole = load(written / kind, labels="none")
    assert whole.train.labels is None and len(whole.test.images) == 3


def test_a_single_file(written):
    file = written / "saved" / "train" / "data-00001-of-00002.arrow"
    assert_pictures(load(file).train, (3, 4))
    file = written / "parquet" / "data" / "train-00000-of-00001.parquet"
    found = load(file, labels="file")
    assert_pictures(found.train, range(5))
    assert found.num_classes == 2 and found.name == "train-00000-of-00001"


def test_a_split_without_labels_cannot_be_held_out_beside_one_with(written, tmp_path):
    shutil.copytree(written / "parquet" / "data", tmp_path / "set")
    shutil.copy(written / "unlabelled" / "test.parquet", tmp_path / "set")
    (tmp_path / "set" / "test-00000-of-00001.parquet").unlink()
    found = load(tmp_path / "set")
    assert found.num_classes == 2 and len(found.train.images) == 5 and not len(found.test.images)
    assert "but without classes: its 3 are left out" in found.source
    alone = load(written / "unlabelled")
    assert alone.train.labels is None and "no classes" in alone.source


def test_the_first_reading_is_kept(written, monkeypatch):
    first = load(written / "saved")
    forbid_decoding(monkeypatch)
    np.testing.assert_array_equal(load(written / "saved").train.images[:], first.train.images[:])


def test_what_is_no_column_of_image_files_is_refused_by_its_type(written, tmp_path):
    message = error(written / "arrays.parquet")
    assert "no image files in its column 'image' but list<" in message
    assert "numpy.save('images.npy'" in message
    file = parquet(tmp_path / "a.parquet", {"text": ["a"], "label": [1]})
    assert "a.parquet has no column of images (it has text, label)" in error(file)
    two = {"left": [encode(noise(8, 8))], "right": [encode(noise(8, 8))]}
    assert "several columns of images (left, right)" in error(parquet(file, two))
    assert "no rows" in error(parquet(file, {"image": pa.array([], pa.binary())}))


def test_other_columns_of_images_are_named(tmp_path):
    columns = {"image": rows(2), "depth": rows(2), "n": [1, 2]}
    found = load(parquet(tmp_path / "a.parquet", columns))
    assert "left out: columns depth, n" in found.source and not found.num_classes


def test_plain_binary_groups_of_rows_and_text_as_labels(tmp_path):
    pictures = [noise(8, 8) for _ in range(23)]
    columns = {
        "img": [encode(p) for p in pictures],
        "label": [("b", "a")[i % 2] for i in range(23)],
    }
    found = load(parquet(tmp_path / "a.parquet", columns, row_group_size=5))
    np.testing.assert_array_equal(found.train.images[:], np.stack(pictures))
    assert found.class_names == ("a", "b") and found.train.labels[0] == 1
    file = tmp_path / "b.arrow"
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, pa.table(columns).schema) as out:
        out.write_table(pa.table(columns), max_chunksize=4)
    np.testing.assert_array_equal(load(file).train.images[:], np.stack(pictures))


def test_at_most_two_groups_of_rows_are_in_memory(tmp_path, monkeypatch):
    """And each is read once for every pass over the images."""
    read = []
    opened = huggingface._parquet

    def counted(file):
        table = opened(file)

        def group(i, columns):
            read.append((i, tuple(columns)))
            return table.read(i, columns)

        return huggingface.Table(table.schema, table.lengths, group, table.holds)

    monkeypatch.setattr(huggingface, "_parquet", counted)
    load(parquet(tmp_path / "a.parquet", {"image": rows(64)}, row_group_size=32))
    assert set(read) == {(0, ("image",)), (1, ("image",))}
    assert len(read) <= 2 * 4  # hashed, inspected, measured, decoded


def test_paths_in_place_of_bytes(tmp_path):
    """As `to_parquet` writes what was loaded from a folder."""
    content = encode(noise(8, 8))
    write(tmp_path / "set", {"pictures/1.png": content})
    absolute = str(tmp_path / "set" / "pictures" / "1.png")
    for path in (absolute, "pictures/1.png"):
        column = [{"bytes": None, "path": path}, {"bytes": content, "path": "2.png"}]
        found = load(parquet(tmp_path / "set" / "a.parquet", {"image": column}))
        np.testing.assert_array_equal(found.train.images[0], found.train.images[1])
    gone = parquet(tmp_path / "b.parquet", {"image": [{"bytes": None, "path": "/gone/1.png"}] * 2})
    message = error(gone)
    assert "b.parquet:0000000: is not in the table, which names /gone/1.png" in message
    outside = write(tmp_path, {"2.png": content}) / "2.png"
    table = tmp_path / "set" / "b.parquet"
    parquet(table, {"image": [{"bytes": None, "path": str(outside)}] * 2})
    assert "no such file below its folder" in error(table)
    assert "save_to_disk or push_to_hub" in message
    nothing = parquet(
        gone, {"image": pa.array([{"bytes": None, "path": None}], huggingface_type())}
    )
    assert "has neither bytes nor a path" in error(nothing)


def huggingface_type():
    return pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def test_labels_that_are_numbers_of_images_are_no_classes(tmp_path):
    columns = {"image": rows(8), "label": list(range(8))}
    found = load(parquet(tmp_path / "a.parquet", columns))
    assert not found.num_classes and "8 values in 8 rows: numbers, no classes" in found.source
    assert "data.labels=file" in error(tmp_path / "a.parquet", labels="file")
    columns = {"image": rows(8), "label": [None, *range(2), *range(2), *range(2), 0]}
    found = load(parquet(tmp_path / "b.parquet", columns))
    assert "no classes, since 1 of 8 images have no label, as b.parquet:0000000" in found.source


def test_of_several_splits_the_known_are_taken(tmp_path):
    for name in ("train-00000-of-00001", "validation-00000-of-00001", "extra-00000-of-00001"):
        parquet(tmp_path / "set" / f"{name}.parquet", {"image": rows(2)})
    found = load(tmp_path / "set")
    assert len(found.train.images) == len(found.test.images) == 2
    assert "left out: extra-00000-of-00001.parquet, of no split that is known" in found.source


def test_several_sets_are_refused_naming_them(tmp_path):
    for name in ("full/train.parquet", "small/train.parquet", "full/test.parquet"):
        parquet(tmp_path / "set" / name, {"image": rows(1)})
    assert "holds several sets (full, small): name the folder of one" in error(tmp_path / "set")


def test_intermediate_results_beside_saved_files_are_none(written, tmp_path):
    root = shutil.copytree(written / "saved" / "train", tmp_path / "set")
    shutil.copy(root / "data-00000-of-00002.arrow", root / "cache-1234.arrow")
    assert len(load(root).train.images) == 5
    (root / "data-00001-of-00002.arrow").unlink()
    assert "state.json names data-00001-of-00002.arrow, which is not there" in error(root)
    (root / "state.json").write_text("{}")
    assert "state.json lists no files of a data set" in error(root)


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_damaged_tables_are_refused(ending, tmp_path):
    file = parquet(tmp_path / "a.parquet", {"image": rows(2)})
    content = file.read_bytes() if ending == "parquet" else stream({"image": rows(2)})
    for damaged in (b"", b"no table at all", content[: len(content) // 2]):
        broken = write(tmp_path / "broken", {f"a.{ending}": damaged}) / f"a.{ending}"
        assert f"a.{ending} is damaged, cut short or no table" in error(broken)


def stream(columns):
    """The bytes of an arrow stream of a batch for each row, and of what marks its end."""
    table, sink = pa.table(columns), io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table, max_chunksize=1)
    return sink.getvalue()


def test_a_stream_that_was_cut_between_two_batches_is_no_whole_one(tmp_path):
    content = stream({"image": rows(3)})
    root = write(tmp_path / "set", {"a.arrow": content})
    assert len(load(root / "a.arrow").train.images) == 3
    write(root, {"a.arrow": content[:-8]})
    assert len(list(pa.ipc.open_stream(content[:-8]))) == 3  # read without a word
    assert "a.arrow is damaged, cut short or no table (no mark of its end)" in error(root)


def labelled(names, labels, count=4):
    told = json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}})
    columns = {"image": rows(count), "label": labels}
    return pa.table(columns).replace_schema_metadata({"huggingface": told})


def test_tables_of_a_set_agree_on_their_columns_and_classes(tmp_path):
    train, root = labelled(["zebra", "ant", "bee"], [0, 2, 0, 2]), tmp_path / "set"
    root.mkdir()
    pq.write_table(train, root / "train.parquet")
    found = load(root)
    assert found.class_names == ("zebra", "ant", "bee")  # also that without an image
    np.testing.assert_array_equal(found.train.labels, [0, 2, 0, 2])
    pq.write_table(pa.table({"image": rows(2), "n": [1, 2]}), root / "validation.parquet")
    found = load(root)
    assert found.num_classes == 3 and not len(found.test.images)
    assert "left out: columns n" in found.source and "its 2 are left out" in found.source
    pq.write_table(labelled(["zebra", "ant"], [0, 1, 0, 1]), root / "validation.parquet")
    assert "train.parquet and validation.parquet have different names of classes" in error(root)
    pq.write_table(pa.table({"img": [encode(noise(8, 8))]}), root / "validation.parquet")
    assert "have different columns of images (image and img)" in error(root)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (pa.array(["b", "a", "b"], pa.large_string()), ("a", "b")),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ("a", "b")),
        (pa.array([3.0, 1.0, 3.0]), ("1", "3")),
        (pa.array([True, False, True]), ("False", "True")),
    ],
)
def test_labels_of_other_types(labels, names, tmp_path):
    found = load(parquet(tmp_path / "a.parquet", {"image": rows(3), "label": labels}))
    assert found.class_names == names
    np.testing.assert_array_equal(found.train.labels, [1, 0, 1])


@pytest.mark.parametrize(
    "column",
    [
        pa.array([{"bytes": [1, 2], "path": "a"}]),
        pa.array([{"bytes": None, "path": 3}], pa.struct([("bytes", pa.binary()), ("path", "i8")])),
        pa.array([[1.0]]),
    ],
)
def test_columns_of_other_things_are_a_line(column, tmp_path):
    assert error(parquet(tmp_path / "a.parquet", {"image": column}))


def test_class_names_that_are_none_are_a_line(tmp_path):
    for names in ([1, 2, 3], ["a", "a"], 7):
        pq.write_table(labelled(names, [0, 1, 0, 1]), tmp_path / "a.parquet")
        assert "a.parquet" in error(tmp_path / "a.parquet")


def test_bytes_are_views_too(tmp_path):
    picture = noise(8, 8)
    table = pa.table({"image": pa.array([encode(picture)], pa.binary_view())})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as out, pa.ipc.new_file(out, table.schema) as f:
        f.write_table(table)
    np.testing.assert_array_equal(load(tmp_path / "a.arrow").train.images[0], picture)
