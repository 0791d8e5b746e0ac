"""CIFAR-10: both published formats, archives, copies found, and its download."""

import hashlib
import http.server
import io
import json
import os
import pathlib
import pickle
import socket
import sys
import tarfile
import threading
import time

import numpy as np
import pytest
from PIL import Image

from tada_jax import data
from tada_jax.data import cifar10, download
from tests.data.cifar10_copies import (
    ENCODERS,
    TRAIN,
    assert_holds,
    binary,
    one_line_error,
    python2,
    rows,
    write_archive,
    write_folder,
)

# The two published formats


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
