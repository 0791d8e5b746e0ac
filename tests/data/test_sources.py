"""Data sources on made-up files in the published layouts, and the order of batches. No network."""

import hashlib
import http.server
import io
import json
import os
import pathlib
import pickle
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time

import jax
import numpy as np
import pytest
from PIL import Image

from tada_jax import data
from tada_jax.data import cifar10, classes, download, order
from tada_jax.data.base import hold_out
from tada_jax.system.errors import UserError
from tests import tiny

SIZES = {"data_batch_1": 7, "data_batch_2": 5, "data_batch_10": 3, "test_batch": 4}
TRAIN = ["data_batch_1", "data_batch_2", "data_batch_10"]


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """No copy of CIFAR-10 anywhere, and a server that refuses connections."""
    for name in ("TFDS_DATA_DIR", "TADA_JAX_CACHE", "KERAS_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(cifar10, "_URL", f"http://127.0.0.1:{free_port()}/cifar-10-binary.tar.gz")
    monkeypatch.setattr(cifar10, "_OFFICIAL_COUNTS", (15, 4))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def one_line_error(**kwargs):
    with pytest.raises(UserError) as caught:
        data.load(**kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


# The two published formats


@pytest.fixture(scope="module")
def batches():
    """Made-up batches: file name -> (images [N,32,32,3], labels [N])."""
    rng = np.random.default_rng(0)
    return {
        name: (rng.integers(0, 256, (n, 32, 32, 3), np.uint8), rng.integers(0, 10, n))
        for name, n in SIZES.items()
    }


def rows(images):
    return images.transpose(0, 3, 1, 2).reshape(len(images), 3072)


def binary(images, labels):
    return np.concatenate([labels.astype(np.uint8)[:, None], rows(images)], axis=1).tobytes()


def python2(images, labels):
    """The opcodes of the published pickles, which Python 2 wrote and Python 3 no longer can."""
    raw = rows(images).tobytes()
    return b"".join(
        [
            b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04]",
            b"q\x05(" + b"".join(b"K" + bytes([label]) for label in labels) + b"eU\x04dataq\x06",
            b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87",
            b"Rq\t(K\x01K" + bytes([len(images)]) + b"M\x00\x0c\x86cnumpy\ndtype\nq\nU\x02u1K\x00K",
            b"\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89",
            b"T" + len(raw).to_bytes(4, "little") + raw + b"tbu.",
        ]
    )


def python3(protocol, as_list):
    def encode(images, labels):
        labels = list(labels) if as_list else labels
        return pickle.dumps({"data": rows(images), "labels": labels}, protocol)

    return encode


ENCODERS = {
    "binary": binary,
    "python2": python2,
    **{f"python3-{p}-{as_list}": python3(p, as_list) for p in (2, 4, 5) for as_list in (0, 1)},
}


def write_folder(root, batches, encode):
    inner = root / ("cifar-10-batches-bin" if encode is binary else "cifar-10-batches-py")
    inner.mkdir(parents=True)
    (inner / "readme.html").write_text("not a batch")
    for name, (images, labels) in batches.items():
        file = inner / (name + ".bin" if encode is binary else name)
        file.write_bytes(encode(images, labels))
    return inner


def write_archive(path, batches, encode=binary):
    path.parent.mkdir(parents=True, exist_ok=True)
    inner = write_folder(path.parent / f"{path.name}.source", batches, encode)
    with tarfile.open(path, "w:gz") as tar:
        tar.add(inner, inner.name)
    shutil.rmtree(inner.parent)
    return path


def assert_holds(dataset, batches):
    assert dataset.num_classes == 10
    for split, names in ((dataset.train, TRAIN), (dataset.test, ["test_batch"])):
        np.testing.assert_array_equal(split.images, np.concatenate([batches[n][0] for n in names]))
        np.testing.assert_array_equal(split.labels, np.concatenate([batches[n][1] for n in names]))
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32


@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS)
def test_formats_agree_as_archive_folder_and_inner_folder(tmp_path, batches, encode):
    inner = write_folder(tmp_path / "folder", batches, encode)
    archive = write_archive(tmp_path / "any-name.tar.gz", batches, encode)
    for path in (archive, inner, inner.parent):
        dataset = data.load("cifar10", path=str(path))
        assert_holds(dataset, batches)
        assert str(path) in dataset.source and "15 training + 4 test" in dataset.source


def test_any_truncation_of_an_archive_is_noticed(tmp_path, batches):
    whole = write_archive(tmp_path / "whole.tar.gz", batches).read_bytes()
    cut = tmp_path / "cut.tar.gz"
    for size in [0, 5, *range(20, len(whole), len(whole) // 20), len(whole) - 1]:
        cut.write_bytes(whole[:size])
        message = one_line_error(name="cifar10", path=str(cut))
        assert str(cut) in message and "expected cifar-10-binary.tar.gz" in message


def test_a_flipped_byte_in_an_archive_is_noticed(tmp_path, batches):
    archive = write_archive(tmp_path / "a.tar.gz", batches)
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 255
    archive.write_bytes(content)
    assert str(archive) in one_line_error(name="cifar10", path=str(archive))


def test_damaged_batches_are_named(tmp_path, batches):
    images, labels = batches["test_batch"]
    cases = {
        "no multiple of the 3073": (binary, lambda content: content[:-1]),
        "labels other than 0 to 9": (binary, lambda content: b"\x0a" + content[1:]),
        "is no CIFAR-10 pickle": (python2, lambda content: content[: len(content) // 2]),
        "(KeyError: 'labels')": (python2, lambda _: pickle.dumps({"data": 0, "fine_labels": 0})),
        "not uint8": (python2, lambda _: pickle.dumps({"data": rows(images)[:2], "labels": [1]})),
    }
    for number, (expected, (encode, damage)) in enumerate(cases.items()):
        folder = write_folder(tmp_path / str(number), batches, encode)
        file = next(folder.glob("test_batch*"))
        file.write_bytes(damage(file.read_bytes()))
        message = one_line_error(name="cifar10", path=str(folder))
        assert expected in message and f"{folder}: test_batch" in message


def test_missing_files_are_named(tmp_path, batches):
    folder = write_folder(tmp_path / "a", batches, binary)
    (folder / "test_batch.bin").unlink()
    assert "holds no test_batch" in one_line_error(name="cifar10", path=str(folder))
    assert "does not exist" in one_line_error(name="cifar10", path=str(tmp_path / "nowhere"))
    not_an_archive = tmp_path / "cifar10.zip"
    not_an_archive.write_bytes(b"PK\x03\x04")
    assert "Not a gzipped file" in one_line_error(name="cifar10", path=str(not_an_archive))


class Touch:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


class Forged:
    """Would make numpy treat eight bytes as the address of a Python object."""

    def __reduce__(self):
        return np.ndarray, ((1,), np.dtype(object), b"\x01" * 8)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_cannot_act(tmp_path, batches, protocol):
    folder = write_folder(tmp_path / "a", batches, python2)
    trace = tmp_path / "trace"
    for payload in (Touch(trace), eval, Forged(), np.array([None])):
        content = pickle.dumps({"data": payload, "labels": [1]}, protocol)
        (folder / "test_batch").write_bytes(content)
        message = one_line_error(name="cifar10", path=str(folder))
        assert "test_batch is no CIFAR-10 pickle" in message
        if payload is eval:
            assert "eval, refused as unsafe" in message
    assert not trace.exists()


def test_archives_write_nothing(tmp_path, batches):
    archive = tmp_path / "a" / "evil.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for name, batch in batches.items():
            content = binary(*batch)
            member = tarfile.TarInfo(f"../../{name}.bin")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("data_batch_3.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    assert_holds(data.load("cifar10", path=str(archive)), batches)
    assert sorted(tmp_path.rglob("*")) == before


# Copies found on the machine, and the download


@pytest.mark.parametrize(
    ("variable", "place", "encode"),
    [
        ("TADA_JAX_CACHE", "cifar-10-binary.tar.gz", binary),
        ("TFDS_DATA_DIR", "downloads/cs.toronto.edu_kriz_cifar-10-binaryABC.tar.gz", binary),
        ("TFDS_DATA_DIR", "downloads/manual/cifar-10-python.tar.gz", python2),
        ("KERAS_HOME", "datasets/cifar-10-batches-py.tar.gz", python2),
    ],
)
def test_archives_are_found(batches, variable, place, encode):
    archive = write_archive(pathlib.Path(os.environ[variable]) / place, batches, encode)
    dataset = data.load("cifar10", allow_download=False)
    assert_holds(dataset, batches)
    assert str(archive) in dataset.source


@pytest.mark.parametrize(
    ("variable", "place"),
    [
        ("TFDS_DATA_DIR", "downloads/extracted/TAR_GZ.cs.toronto.edu_kriz_cifar-10-binary.tar.gz"),
        ("KERAS_HOME", "datasets"),
    ],
)
def test_extracted_folders_are_found(batches, variable, place):
    write_folder(pathlib.Path(os.environ[variable]) / place, batches, python2)
    assert_holds(data.load("cifar10", allow_download=False), batches)


def test_an_incomplete_copy_is_passed_over(batches):
    keras = pathlib.Path(os.environ["KERAS_HOME"]) / "datasets"
    some = {name: batches[name] for name in ("data_batch_1", "test_batch")}
    folder = write_folder(keras, some, python2)
    message = one_line_error(name="cifar10", allow_download=False)
    assert f"passed over: {folder} holds 7 + 4 images" in message


def prepare_with_tfds(folder, batches):
    """Prepares a shuffled copy named cifar10 in `folder`, with PNG bytes, without TensorFlow."""
    import tensorflow_datasets as tfds

    def encode(image):
        png = io.BytesIO()
        Image.fromarray(image).save(png, "png")
        return io.BytesIO(png.getvalue())

    def generate(prefix, names):
        images = np.concatenate([batches[name][0] for name in names])
        labels = np.concatenate([batches[name][1] for name in names])
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield (
                index,
                {
                    "id": f"{prefix}{index:05d}",
                    "image": encode(image),
                    "label": int(label),
                },
            )

    with tfds.core.registered.skip_registration():

        class Cifar10(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("3.0.2")

            def _info(self):
                features = {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(32, 32, 3)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager):
                return {"train": generate("train_", TRAIN), "test": generate("t_", ["test_batch"])}

            def _generate_examples(self):
                raise NotImplementedError

    Cifar10(data_dir=folder, file_format="array_record").download_and_prepare()


def test_a_copy_prepared_by_tfds_is_read_in_the_published_order(batches):
    folder = pathlib.Path(os.environ["TFDS_DATA_DIR"])
    prepare_with_tfds(folder, batches)
    dataset = data.load("cifar10", allow_download=False)
    assert_holds(dataset, batches)
    assert str(folder / "cifar10" / "3.0.2") in dataset.source
    assert "tensorflow" not in sys.modules

    info = folder / "cifar10" / "3.0.2" / "dataset_info.json"
    info.write_text(info.read_text().replace('"15"', '"16"'))
    assert "cifar10/3.0.2" in one_line_error(name="cifar10", allow_download=False)


def test_a_tfrecord_copy_is_explained():
    folder = pathlib.Path(os.environ["TFDS_DATA_DIR"]) / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps({"fileFormat": "tfrecord"}))
    message = one_line_error(name="cifar10")
    assert f"{folder} is tfrecord, which cannot be read without TensorFlow" in message


def test_offline_fails_at_once_with_the_alternatives():
    start = time.monotonic()
    message = one_line_error(name="cifar10")
    assert time.monotonic() - start < 2
    assert "Connection refused" in message
    assert "--config.data.path=/path/to/cifar-10-binary.tar.gz" in message
    assert "configs/digits_tada.py" in message


def test_a_hanging_name_lookup_does_not_hang_the_run(monkeypatch):
    monkeypatch.setattr(download, "_REACH_SECONDS", 0.3)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(5))
    start = time.monotonic()
    assert "no answer" in one_line_error(name="cifar10")
    assert time.monotonic() - start < 2


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves the folder that it returns; cifar10 downloads from there."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as instance:
        url = f"http://127.0.0.1:{instance.server_address[1]}/cifar-10-binary.tar.gz"
        monkeypatch.setattr(cifar10, "_URL", url)
        threading.Thread(target=instance.serve_forever, daemon=True).start()
        yield folder
        instance.shutdown()


def test_download_is_verified_and_kept(server, batches, monkeypatch):
    archive = write_archive(server / "cifar-10-binary.tar.gz", batches)
    cache = pathlib.Path(os.environ["TADA_JAX_CACHE"])

    message = one_line_error(name="cifar10")
    assert "incomplete or altered" in message
    assert list(cache.iterdir()) == []

    monkeypatch.setattr(cifar10, "_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert_holds(data.load("cifar10"), batches)
    assert [file.name for file in cache.iterdir()] == ["cifar-10-binary.tar.gz"]

    archive.unlink()
    assert_holds(data.load("cifar10"), batches)


def test_a_missing_page_is_reported(server):
    assert "cannot download" in one_line_error(name="cifar10")


# Digits, subsets and arguments


def test_digits():
    dataset = data.load("digits")
    images = np.concatenate([dataset.train.images, dataset.test.images])
    assert images.shape == (1797, 8, 8, 1) and images.dtype == np.uint8
    assert images.min() == 0 and images.max() == 255
    assert set(np.unique(images)) <= {round(v * 255 / 16) for v in range(17)}
    assert dataset.train.labels.dtype == np.int32
    assert dataset.num_classes == 10


def test_digits_come_from_the_cache_a_second_time(tmp_path, monkeypatch):
    monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path / "cache"))
    first = data.load("digits").train.images
    (kept,) = (tmp_path / "cache").rglob("digits*.npz")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "sklearn.datasets", None)
        np.testing.assert_array_equal(data.load("digits").train.images, first)
    kept.write_bytes(b"damaged")
    np.testing.assert_array_equal(data.load("digits").train.images, first)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path / "file"))  # no place for a cache
    np.testing.assert_array_equal(data.load("digits").train.images, first)


@pytest.mark.parametrize("fraction", [0, 0.1, 0.5])
def test_held_out_digits_are_stratified(fraction):
    dataset = data.load("digits", test_fraction=fraction)
    everything = np.bincount(np.concatenate([dataset.train.labels, dataset.test.labels]))
    held_out = np.bincount(dataset.test.labels, minlength=10)
    np.testing.assert_array_less(np.abs(held_out - fraction * everything), 1)
    assert len(dataset.test.images) == round(fraction * 1797)


def test_seed_determines_the_split_and_the_subset():
    first, again, other = (data.load("digits", train_size=50, seed=s) for s in (3, 3, 4))
    for split in ("train", "test"):
        images = [getattr(d, split).images for d in (first, again, other)]
        np.testing.assert_array_equal(images[0], images[1])
        assert images[0].shape != images[2].shape or (images[0] != images[2]).any()


def test_subsets_are_nested_and_leave_the_held_out_split_alone():
    small, large, full = (data.load("digits", train_size=n) for n in (200, 1000, None))
    np.testing.assert_array_equal(small.train.images, large.train.images[:200])
    np.testing.assert_array_equal(small.train.labels, large.train.labels[:200])
    for dataset in (small, large):
        np.testing.assert_array_equal(dataset.test.images, full.test.images)
    assert "training on 200" in small.source

    every = data.load("digits", train_size=len(full.train.images))
    np.testing.assert_array_equal(np.sort(every.train.labels), np.sort(full.train.labels))
    assert len(np.unique(every.train.images, axis=0)) == len(np.unique(full.train.images, axis=0))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"name": "cifar"}, "choose one of: cifar10, digits"),
        ({"name": "digits", "path": "somewhere"}, "leave it out"),
        ({"name": "digits", "train_size": 1700}, "has 1617 training images"),
        ({"name": "digits", "train_size": 0}, "choose 1 to 1617"),
        ({"name": "digits", "test_fraction": 1}, "test_fraction=1"),
        ({"name": "digits", "seed": -1}, "seed=-1"),
    ],
)
def test_mistakes_in_arguments(arguments, expected):
    assert expected in one_line_error(**arguments)


def test_import_is_lean():
    program = (
        "import sys, tada_jax.data; heavy = {'flax', 'sklearn', 'tensorflow', "
        "'tensorflow_datasets', 'PIL'} & set(sys.modules); assert not heavy, heavy"
    )
    root = tiny.ROOT
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)


def test_a_stated_size_and_colour_hold_for_every_source():
    dataset = data.load("digits", resolution=16, channels=3, train_size=20)
    assert dataset.train.images.shape == (20, 16, 16, 3)
    assert dataset.test.images.shape[1:] == (16, 16, 3)
    plain = data.load("digits", train_size=20)
    halves = dataset.train.images.reshape(20, 8, 2, 8, 2, 3).mean((2, 4))
    assert np.abs(halves[..., :1] - plain.train.images).mean() < 20  # the same digits
    assert (halves[..., 0] == halves[..., 2]).all()
    nothing = data.load("digits", resolution=16, test_fraction=0.0)
    assert nothing.test.images.shape == (0, 16, 16, 1)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"channels": 2}, "data.channels=2"),
        ({"resolution": 0}, "data.resolution=0"),
        ({"fit": "stretch"}, "data.fit='stretch'.*crop"),
        ({"unreadable": "hide"}, "data.unreadable='hide'"),
        ({"background": (1, 2)}, "data.background"),
        ({"background": (1, 2, 256)}, "data.background"),
    ],
)
def test_options_that_cannot_be(option, message):
    assert re.search(message, one_line_error(name="digits", **option))


# The held-out split


def held_out_of_each(sizes, fraction, seed=0):
    """How many images of each class are held out, int [K]."""
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)), sizes))
    examples = data.Split(np.arange(len(labels), dtype=np.int32)[:, None], labels)
    train, test = hold_out(examples, fraction, seed)
    together = np.concatenate([train.images, test.images])[:, 0]
    assert sorted(together) == list(range(len(labels)))
    for split in (train, test):
        assert (np.diff(split.images[:, 0]) > 0).all()  # the examples' order
        np.testing.assert_array_equal(split.labels, labels[split.images[:, 0]])
    return np.bincount(test.labels, minlength=len(sizes))


@pytest.mark.parametrize(
    ("sizes", "fraction", "total"),
    [
        ([5] * 20, 0.1, 10),  # of .5 each
        ([5] * 20, 0.2, 20),
        ([30] * 7, 0.1, 21),  # .1 x 30 in floating point is more than 3
        ([100, 3, 3, 3, 3, 3], 0.1, 12),  # 11.5, to even
        ([1] * 9 + [2], 0.5, 1),  # the last image of a class stays
        ([1] * 5, 0.9, 0),
        ([2, 2], 0.9, 2),
        ([3, 40, 500], 0.0, 0),
    ],
)
def test_small_classes_share_what_is_held_out(sizes, fraction, total):
    sizes = np.array(sizes)
    taken = held_out_of_each(sizes, fraction)
    assert taken.sum() == total
    assert (taken < sizes).all()
    assert (np.abs(taken - fraction * sizes) <= 1).all()


def test_any_sizes_give_the_share_of_the_whole():
    rng = np.random.default_rng(0)
    for seed in range(50):
        sizes, fraction = rng.integers(2, 40, 12), rng.uniform(0, 0.5)
        taken = held_out_of_each(sizes, fraction, seed)
        assert taken.sum() == round(fraction * sizes.sum())
        assert (np.floor(fraction * sizes) <= taken).all()
        assert (taken <= np.minimum(np.ceil(fraction * sizes), sizes - 1)).all()


def test_which_classes_hold_out_one_more_is_drawn_by_the_seed():
    draws = [held_out_of_each([5] * 20, 0.1, seed).tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    over_seeds = np.mean([held_out_of_each([5] * 20, 0.1, seed) for seed in range(200)], axis=0)
    assert np.abs(over_seeds - 0.5).max() < 0.15  # 4.2 standard errors of .035


def test_without_labels_all_images_are_one_class():
    examples = data.Split(np.arange(10)[:, None], None)
    train, test = hold_out(examples, 0.1, 0)
    assert len(train.images) == 9 and len(test.images) == 1 and test.labels is None


def test_digits_hold_out_the_stated_share():
    dataset = data.load("digits", test_fraction=0.4)
    assert len(dataset.test.images) == 719  # 718.8
    share = np.bincount(dataset.test.labels) / np.bincount(
        np.concatenate([dataset.train.labels, dataset.test.labels])
    )
    assert np.abs(share - 0.4).max() < 1 / 174  # the smallest class has 174 images


# Classes


def test_cifar10_has_the_names_of_its_classes_in_the_digest_of_before(tmp_path, batches):
    dataset = data.load("cifar10", path=str(write_folder(tmp_path, batches, binary)))
    assert dataset.class_names[3] == "cat" and dataset.class_names[9] == "truck"
    nameless = data.Dataset("cifar10", dataset.train, dataset.test, 10, "")
    assert dataset.digest == nameless.digest
    # Names that a copy brings along belong to it.
    named = data.Dataset("x", dataset.train, dataset.test, 10, "", dataset.class_names)
    assert named.digest != nameless.digest


@pytest.mark.parametrize(
    ("names", "label", "number"),
    [
        (("0", "1", "2", "10"), "10", 3),
        (("0", "1", "2", "10"), 10, 3),
        (("1", "2", "3"), 2, 1),
        (("0", "2", "7"), "7", 2),
        (("001", "002", "010"), 2, 1),
        (("1", "01"), "01", 1),
        (("cat", "dog"), "dog", 1),
        (("cat", "dog"), 1, 1),
        (("cat", "dog"), "01", 1),
        (classes.names(10), 3, 3),
    ],
)
def test_a_class_is_addressed_by_its_name_or_else_its_number(names, label, number):
    assert classes.number_of(label, names) == number


@pytest.mark.parametrize(
    ("names", "label", "message"),
    [
        (("0", "2", "7"), 1, r"label='1' is none of the 3 classes: choose one of '0', '2', '7'$"),
        (("1", "2", "3"), 0, r"label='0'.*'1', '2', '3'$"),
        (("cat", "dog"), 2, r"label='2'.*'cat', 'dog', or its number, 0 to 1$"),
        (("cat", "dog"), -1, "label='-1'"),
        (("cat", "dog"), "Cat", "label='Cat'"),
        (("cat", "1"), "0", "'cat', '1'$"),  # which number would be meant is not clear
        (("01", "001"), "1", "'01', '001'$"),
        (("cat", "dog"), "9" * 5000, "none of the 2"),
        (tuple(f"c{i}" for i in range(99)), "x", r"'c0'.*'c5', \.\.\., 'c98', or"),
    ],
)
def test_an_unknown_class_is_refused_naming_those_there_are(names, label, message):
    with pytest.raises(UserError, match=message) as caught:
        classes.number_of(label, names)
    assert "\n" not in str(caught.value)


def test_balanced_order_passes_over_classes_without_training_images():
    labels = np.array([0] * 6 + [2] * 3 + [5])
    made = order.make("balanced", len(labels), labels)
    assert made.length == 6 * 3
    key = jax.random.key(0)
    two_epochs = jax.jit(lambda: order.batch_indices(key, 0, batch_size=36, order=made))()
    seen = labels[np.asarray(two_epochs)]
    assert np.bincount(seen).tolist() == [12, 0, 12, 0, 0, 12]
    assert (np.sort(seen.reshape(12, 3)) == [0, 2, 5]).all()  # each round has each class once


def test_the_classes_of_a_run_are_kept_and_read_again(tmp_path):
    labels = np.array([0, 0, 2, 2, 2])
    pixels = np.zeros((5, 8, 8, 1), np.uint8)
    train, test = data.Split(pixels[:3], labels[:3]), data.Split(pixels[3:], labels[3:])
    names = ("a", "\udcffb", "10")  # a file system may have such names
    dataset = data.Dataset("set", train, test, 3, "made up", names)
    assert [(one.train, one.held_out) for one in classes.of(dataset)] == [(2, 0), (0, 0), (1, 2)]
    classes.keep(dataset, tmp_path)
    assert classes.kept(tmp_path, names) == classes.of(dataset)
    bare = data.Dataset("set", data.Split(pixels, None), data.Split(pixels[:0], None), 0, "")
    classes.keep(bare, tmp_path)
    assert not list(tmp_path.iterdir())
    assert classes.kept(tmp_path, names)[2] == classes.Class(2, "10")


@pytest.mark.parametrize(
    "content",
    [
        "[",
        "{}",
        "[1]",
        "[null]",
        '[{"number": 0, "name": "cat", "train": 1, "held_out": 0, "more": 1}]',
        '[{"number": 0, "name": "cat"}]',
        '[{"number": 0, "name": "dog", "train": 1, "held_out": 0}]',
    ],
)
def test_damaged_classes_are_refused(content, tmp_path):
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(UserError, match="classes.json is damaged"):
        classes.kept(tmp_path, ("cat",))
