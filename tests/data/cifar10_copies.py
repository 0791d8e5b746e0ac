"""Small copies of CIFAR-10 in the published formats, for its tests."""

import pickle
import shutil
import socket
import tarfile

import numpy as np
import pytest

from tada_jax import data
from tada_jax.system.errors import UserError

SIZES = {"data_batch_1": 7, "data_batch_2": 5, "data_batch_10": 3, "test_batch": 4}

TRAIN = ["data_batch_1", "data_batch_2", "data_batch_10"]


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
