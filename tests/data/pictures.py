"""Pictures in the making, for the tests of images, folders and zips."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from tada_jax.data import folder, images
from tada_jax.data.base import Options
from tada_jax.system.errors import UserError

RNG = np.random.default_rng(0)


def noise(height, width, channels=3):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return RNG.integers(0, 256, shape, np.uint8)


def smooth(height, width):
    """Nearly what a lossy format gives back."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 2], axis=-1).astype(np.uint8)


def encode(image, kind="PNG", **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name, content):
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def raw_png(width, height, *, depth, colour, rows, before=b"", behind=b""):
    """A PNG chunk by chunk, for what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + before
        + pixels
        + behind
        + chunk(b"IEND", b"")
    )


def decode(content, resolution=None, channels=3, fit="keep", **options):
    """Decoded at its own size, unless asked for another."""
    if resolution is None:
        header = images.inspect(content)
        resolution = min(header.height, header.width)
    return images.decode(content, resolution=resolution, channels=channels, fit=fit, **options)


def reason(content, function=decode, **options):
    with pytest.raises(ValueError) as caught:
        function(content, **options)
    message = str(caught.value)
    assert "\n" not in message and "object at" not in message and len(message) <= 200
    return message


def exif(orientation):
    note = Image.Exif()
    note[0x112] = orientation
    return note


RGB = (200, 100, 50)


def png_header(height, width):
    content = bytearray(encode(noise(8, 8)))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


# Folders and zips


def write(root, files):
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return root


def write_zip(path, files, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def load(path, **options):
    options = {"test_fraction": 0} | options
    return folder.load(Options(path=str(path), **options))


def error(path, **options):
    with pytest.raises(UserError) as caught:
        load(path, **options)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


def pngs(*names, size=(8, 8)):
    return {name: encode(noise(*size)) for name in names}


def truth(files):
    return np.stack([np.asarray(Image.open(io.BytesIO(files[name]))) for name in sorted(files)])


def assert_equal(a, b):
    np.testing.assert_array_equal(a.train.images[:], b.train.images[:])
    np.testing.assert_array_equal(a.test.images[:], b.test.images[:])
    np.testing.assert_array_equal(a.train.labels, b.train.labels)
    np.testing.assert_array_equal(a.reading.sizes, b.reading.sizes)
    assert a.class_names == b.class_names and a.num_classes == b.num_classes
    assert a.reading.modes == b.reading.modes and a.reading.skipped == b.reading.skipped
    assert a.reading.other_files == b.reading.other_files


NAMES = ("dog/10.png", "dog/9.PNG", "cat/b.png", "cat/a/1.png", "Zebra/1.png")


# Cache


def forbid_decoding(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("decoded again")

    monkeypatch.setattr(images, "decode", fail)
    monkeypatch.setattr(images, "inspect_and_open", fail)
