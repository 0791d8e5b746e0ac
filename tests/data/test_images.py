"""Images in folders and zips: every kind of image against its known pixels, and what goes wrong."""

import io
import json
import os
import shutil
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from tada_jax import data
from tada_jax.data import folder, images
from tada_jax.data.base import Options, Rows
from tada_jax.system.errors import UserError

RNG = np.random.default_rng(0)
WHITE = (255, 255, 255)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path / "cache"))


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


# One image: orientation, modes, transparency

UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def exif(orientation):
    note = Image.Exif()
    note[0x112] = orientation
    return note


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("JPEG", {"quality": 100, "subsampling": 0}, 4),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}, 4),
    ],
)
def test_orientation(orientation, kind, options, tolerance):
    stored = smooth(11, 23)
    content = encode(stored, kind, exif=exif(orientation), **options)
    truth = UPRIGHT[orientation](stored)
    header = images.inspect(content)
    assert (header.height, header.width) == truth.shape[:2]
    np.testing.assert_allclose(decode(content).astype(int), truth, atol=tolerance)


def test_orientation_behind_the_pixels_of_a_png_and_damaged_notes():
    stored = noise(3, 5)
    rows = b"".join(b"\0" + row.tobytes() for row in stored)
    behind = chunk(b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0"))
    content = raw_png(5, 3, depth=8, colour=2, rows=rows, behind=behind)
    assert images.inspect(content).height == 5
    np.testing.assert_array_equal(decode(content), np.rot90(stored, -1))
    warnings.simplefilter("ignore")
    for note in (b"nonsense", b"II*\0" + b"\xff" * 9):
        damaged = raw_png(5, 3, depth=8, colour=2, rows=rows, before=chunk(b"eXIf", note))
        np.testing.assert_array_equal(decode(damaged), stored)


def over(colour, alpha, background=WHITE):
    """The colour laid over the background."""
    return (np.multiply(colour, alpha) + np.multiply(background, 255 - alpha)) / 255


def palette_image(mode="P"):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.putpixel((1, 0), 1)
    return image.convert(mode) if mode != "P" else image


def pa_image():
    image = palette_image("PA")
    image.putalpha(Image.frombytes("L", (2, 1), bytes([255, 128])))
    assert image.mode == "PA"
    return image


def lab_image():
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    return ImageCms.applyTransform(Image.new("RGB", (2, 1), (200, 100, 50)), to_lab)


RGB = (200, 100, 50)


@pytest.mark.parametrize(
    ("image", "expected", "tolerance"),
    [
        (Image.new("1", (2, 1), 1), (255, 255, 255), 0),
        (Image.new("L", (2, 1), 77), (77, 77, 77), 0),
        (Image.new("LA", (2, 1), (77, 128)), over((77,) * 3, 128), 1),
        (Image.new("LA", (2, 1), (77, 128)).convert("La"), over((77,) * 3, 128), 1.5),
        (palette_image(), RGB, 0),
        (pa_image(), over(RGB, 128), 1),
        (Image.new("RGB", (2, 1), RGB), RGB, 0),
        (Image.new("RGBA", (2, 1), (*RGB, 255)), RGB, 0),
        (Image.new("RGBA", (2, 1), (*RGB, 0)), WHITE, 0),
        (Image.new("RGBA", (2, 1), (*RGB, 128)), over(RGB, 128), 1),
        (Image.new("RGBA", (2, 1), (*RGB, 128)).convert("RGBa"), over(RGB, 128), 1.5),
        (Image.new("RGBX", (2, 1), (*RGB, 0)), RGB, 0),
        (Image.new("CMYK", (2, 1), (55, 155, 205, 0)), RGB, 0),
        (Image.new("RGB", (2, 1), RGB).convert("YCbCr"), RGB, 2),
        (Image.new("RGB", (2, 1), RGB).convert("HSV"), RGB, 2),
        (lab_image(), RGB, 3),
        (Image.new("I;16", (2, 1), 30_000), (117,) * 3, 0),
        (Image.new("I;16B", (2, 1), 30_000), (117,) * 3, 0),
        (Image.new("I", (2, 1), 30_000), (117,) * 3, 0),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_modes(image, expected, tolerance):
    flat = images.flatten(image, channels=3)
    assert flat.mode == "RGB"
    np.testing.assert_allclose(np.asarray(flat)[0, 1], expected, atol=tolerance)
    grey = images.flatten(image, channels=1)
    luma = np.dot(expected, (0.299, 0.587, 0.114))
    assert grey.mode == "L"
    np.testing.assert_allclose(np.asarray(grey)[0, 1], luma, atol=tolerance + 1)


@pytest.mark.parametrize(
    ("kind", "mode", "options", "tolerance"),
    [
        ("PNG", "1", {}, 0),
        ("PNG", "L", {}, 0),
        ("PNG", "LA", {}, 1),
        ("PNG", "RGB", {}, 0),
        ("PNG", "RGBA", {}, 1),
        ("BMP", "RGB", {}, 0),
        ("PPM", "RGB", {}, 0),
        ("PPM", "L", {}, 0),
        ("PPM", "1", {}, 0),
        ("TGA", "RGBA", {}, 1),
        ("ICO", "RGBA", {}, 1),
        ("TIFF", "RGBA", {}, 1),
        ("TIFF", "CMYK", {}, 0),
        ("TIFF", "YCbCr", {}, 2),
        ("TIFF", "LAB", {}, 0),
        ("GIF", "L", {}, 0),
        ("GIF", "P", {}, 0),
        ("WEBP", "RGBA", {"lossless": True, "exact": True}, 1),
        ("JPEG2000", "RGB", {}, 0),
        ("JPEG", "RGB", {"quality": 100, "subsampling": 0}, 6),
        ("JPEG", "L", {"quality": 100}, 4),
        ("JPEG", "CMYK", {"quality": 100, "subsampling": 0}, 6),  # inverted, as Adobe does
        ("AVIF", "RGBA", {"quality": 100, "subsampling": "4:4:4"}, 4),
    ],
)
def test_kinds_of_files(kind, mode, options, tolerance):
    image = Image.fromarray(
        np.concatenate([smooth(24, 20), 200 * np.ones((24, 4, 3), np.uint8)], 1)
    )
    image = lab_image().resize((24, 24)) if mode == "LAB" else image.convert(mode)
    if "A" in mode and mode != "LAB":
        image.putalpha(Image.fromarray(smooth(24, 24)[..., 1]))
    content = encode(image, kind, **options)
    if image.mode in ("LA", "RGBA"):
        raw = np.asarray(image.convert("RGBA")).astype(int)
        truth = over(raw[..., :3], raw[..., 3:])
    else:
        truth = np.asarray(image.convert("RGB"))
    np.testing.assert_allclose(decode(content).astype(float), truth, atol=tolerance)
    assert images.inspect(content).grey == (mode in ("1", "L", "LA"))


def tiff(values, bits, photometric):
    """An uncompressed grey TIFF of one row, little-endian, as microscopes write them."""
    packed = int("".join(f"{v:0{bits}b}" for v in values), 2)
    length = -(-len(values) * bits // 8)
    pixels = (packed << (length * 8 - len(values) * bits)).to_bytes(length, "big")
    if bits == 16:
        pixels = np.array(values, "<u2").tobytes()
    tags = [(256, len(values)), (257, 1), (258, bits), (259, 1), (262, photometric)]
    tags += [(273, 8), (277, 1), (278, 1), (279, length)]
    start = 8 + length + length % 2
    table = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    header = b"II*\x00" + struct.pack("<I", start)
    return header + pixels.ljust(start - 8, b"\0") + struct.pack("<H", len(tags)) + table + bytes(4)


@pytest.mark.parametrize(
    ("bits", "photometric", "values", "expected"),
    [
        (16, 1, [0, 65535, 257 * 9, 257 * 200], [0, 255, 9, 200]),
        (16, 0, [0, 65535, 257 * 9, 257 * 200], [255, 0, 246, 55]),
        (12, 1, [0, 4095, 2048, 16], [0, 255, 128, 1]),
    ],
)
def test_tiffs_of_12_and_16_bits_black_and_white_either_way(bits, photometric, values, expected):
    content = tiff(values, bits, photometric)
    found = images.decode(content, resolution=1, channels=1, fit="keep")
    np.testing.assert_array_equal(found[0, :, 0], expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    content = encode(values, kind)
    assert images.inspect(content).grey
    np.testing.assert_array_equal(decode(content, channels=1)[..., 0], np.round(values / 257))


def test_numbers_without_a_range_are_refused():
    content = encode(np.array([[0, 70_000]], np.int32), "TIFF")
    assert "integers from 0 to 70,000" in reason(content)
    assert "integers from -1" in reason(encode(np.array([[0, -1]], np.int32), "TIFF"))
    assert "floating-point" in reason(encode(np.array([[0, 0.5]], np.float32), "TIFF"))


@pytest.mark.parametrize("transparency", [1, bytes([255, 0])])
def test_transparent_colours_of_palettes(transparency):
    content = encode(palette_image(), transparency=transparency)
    expected = [[(0, 0, 0), (1, 2, 3)]]
    np.testing.assert_array_equal(decode(content, background=(1, 2, 3)), expected)


def test_transparent_colours_of_pngs():
    def png(depth, colour, row, transparent):
        note = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
        return raw_png(2, 1, depth=depth, colour=colour, rows=b"\0" + row, before=note)

    hidden_then_visible = [
        (png(1, 0, b"\x40", (0,)), (255,) * 3),
        (png(2, 0, b"\x60", (1,)), (170,) * 3),
        (png(4, 0, b"\x5a", (5,)), (170,) * 3),
        (png(8, 0, b"\x05\xaa", (5,)), (170,) * 3),
        (png(16, 0, struct.pack(">2H", 1000, 30_000), (1000,)), (117,) * 3),
        (png(8, 2, bytes([1, 2, 3, *RGB]), (1, 2, 3)), RGB),
        (png(16, 2, struct.pack(">6H", 256, 512, 768, 51200, 25600, 12800), (256, 512, 768)), RGB),
    ]
    for content, visible in hidden_then_visible:
        found = decode(content, background=(9, 8, 7))
        np.testing.assert_array_equal(found, [[(9, 8, 7), visible]])


def test_hidden_colours_leave_no_fringe():
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[:, :15] = 255, 0, 0, 255  # opaque red beside transparent black
    small = decode(encode(pixels), resolution=8)
    assert (small[..., 0] == 255).all()
    assert (small[..., 1] > 0).any() and (small[..., 1] < 255).any()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_only_the_first_frame_counts(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "AVIF" else {}
    content = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(content)) as image:
        assert image.n_frames == 3
    np.testing.assert_allclose(decode(content), np.broadcast_to((255, 0, 0), (16, 16, 3)), atol=3)


# One image: its size


@pytest.mark.parametrize("fit", ["crop", "pad", "keep"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_the_wanted_size_keep_their_pixels(fit, channels):
    pixels = noise(13, 13, channels)
    found = decode(encode(pixels), resolution=13, channels=channels, fit=fit)
    np.testing.assert_array_equal(found, pixels.reshape(13, 13, channels))


def test_crop_and_pad_without_resizing():
    wide, tall = noise(7, 12), noise(12, 7)
    np.testing.assert_array_equal(decode(encode(wide), 7, fit="crop"), wide[:, 2:9])
    np.testing.assert_array_equal(decode(encode(tall), 7, fit="crop"), tall[2:9])
    for pixels, place in ((wide, np.s_[2:9]), (tall, np.s_[:, 2:9])):
        square = np.broadcast_to(np.array((1, 2, 3), np.uint8), (12, 12, 3)).copy()
        square[place] = pixels
        found = decode(encode(pixels), 12, fit="pad", background=(1, 2, 3))
        np.testing.assert_array_equal(found, square)
    padded = decode(encode(noise(2, 4, 1)), 4, channels=1, fit="pad", background=RGB)
    assert (padded[[0, -1]] == round(np.dot(RGB, (0.299, 0.587, 0.114)))).all()


def adm_crop(image, size):
    """The published preprocessing, as a reference."""
    while min(image.size) >= 2 * size:
        image = image.resize(tuple(x // 2 for x in image.size), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize(tuple(round(x * scale) for x in image.size), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


@pytest.mark.parametrize("size", [(64, 64), (303, 101), (67, 129), (15, 17), (9, 9)])
def test_crops_are_those_of_adm(size):
    pixels = noise(*size)
    expected = adm_crop(Image.fromarray(pixels), 16)
    np.testing.assert_array_equal(decode(encode(pixels), 16, fit="crop"), expected)


@pytest.mark.parametrize("fit", ["crop", "pad", "keep"])
@pytest.mark.parametrize("size", [(8, 8), (20, 20), (97, 97), (128, 128)])
def test_resizing_preserves_constants_and_means(fit, size):
    constant = np.full((*size, 3), RGB, np.uint8)
    found = decode(encode(constant), 16, fit=fit)
    np.testing.assert_array_equal(found, np.broadcast_to(np.uint8(RGB), (16, 16, 3)))
    ramp = smooth(*size)
    found = decode(encode(ramp), 16, fit=fit)
    np.testing.assert_allclose(found.mean((0, 1)), ramp.mean((0, 1)), atol=2)


def test_halving_averages():
    pixels = noise(32, 32)
    expected = pixels.reshape(16, 2, 16, 2, 3).mean((1, 3))
    np.testing.assert_allclose(decode(encode(pixels), 16), expected, atol=1)


def test_one_aspect_becomes_one_shape():
    for scale in range(1, 12):
        shape = images.fitted_shape(40 * scale, 60 * scale, resolution=19, fit="keep")
        assert shape == (19, 28)
        assert decode(encode(noise(40 * scale, 60 * scale)), 19).shape == (*shape, 3)


@pytest.mark.parametrize("fit", ["crop", "pad", "keep"])
@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1), (1, 20_000)])
def test_extreme_aspects(fit, size):
    content = encode(np.full(size, 90, np.uint8))
    shape = images.fitted_shape(*size, resolution=8, fit=fit)
    found = decode(content, 8, channels=1, fit=fit, background=(90, 90, 90))
    assert found.shape == (*shape, 1) and (found == 90).all()
    if fit == "crop":
        decode(content, 512, channels=1, fit=fit)
    if fit == "keep" and max(size) == 20_000:
        assert "would become" in reason(content, resolution=512, fit=fit)


# One image: damage


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, {}) for kind in images.FORMATS),
        ("PNG", {"compress_level": 0}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_deflate"}),
        ("TGA", {"compression": "tga_rle"}),
    ],
)
def test_truncated_files_are_refused(kind, options):
    content = encode(noise(48, 40), kind, **options)
    assert decode(content, 8).shape[-1] == 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for share in (0.01, 0.1, 0.3, 0.5, 0.8, 0.95):
            reason(content[: int(share * len(content))], resolution=8)


def test_flipped_bits_in_a_png_are_noticed():
    content = encode(noise(16, 16))
    for place in range(60, len(content) - 20, 37):
        damaged = bytearray(content)
        damaged[place] ^= 16
        reason(bytes(damaged))


def png_header(height, width):
    content = bytearray(encode(noise(8, 8)))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"just text, for a while\n" * 9, "no image of a known kind"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
            "no image of a known",
        ),
        (b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3) + bytes(99), "no image of"),
        (b"<svg/>", "no image of a known kind"),
        (png_header(100_000, 100_000), "more than 134,217,728 pixels"),
        (png_header(12_000, 12_000), "12,000x12,000 pixels, more than 134,217,728"),
        (png_header(0, 8), "no image of a known kind"),
        (bytes(1 << 16), "no image of a known kind"),
    ],
    ids=["empty", "text", "eps", "psd", "svg", "bomb", "large", "flat", "zeros"],
)
def test_what_is_no_image_is_refused(content, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert expected in reason(content, images.inspect)
        assert expected in reason(content, resolution=8)


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


@pytest.mark.parametrize("prefix", ["", "mydata/", "./", "a/b/"])
def test_a_folder_and_a_zip_hold_the_same(tmp_path, prefix):
    files = pngs(*NAMES)
    wrapped = {prefix + name: content for name, content in files.items()}
    clutter = dict.fromkeys(
        ("__MACOSX/dog/10.png", ".DS_Store", "dog/._9.png", ".git/x.png", "a.txt", "dog/b.heic"),
        b"not an image",
    )
    packed = write_zip(tmp_path / "pets.v1.zip", wrapped | clutter)
    loaded = [load(write(tmp_path / "pets.v1", wrapped | clutter)), load(packed)]
    assert_equal(*loaded)
    for dataset, name, shown in zip(loaded, ("pets.v1", "pets.v1"), ("pets.v1", "pets.v1.zip")):
        np.testing.assert_array_equal(dataset.train.images[:], truth(files))
        assert dataset.train.labels.dtype == np.int32
        np.testing.assert_array_equal(dataset.train.labels, [0, 1, 1, 2, 2])
        assert dataset.class_names == ("Zebra", "cat", "dog") and dataset.num_classes == 3
        assert dataset.reading.other_files == 2 and dataset.reading.modes == {"RGB": 5}
        assert dataset.name == name
        assert dataset.source == (f"{shown}: 5 training + 0 held-out images, 8x8x3, 3 classes")


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["1.png", "2.png"], None),
        (["cat/1.png", "cat/2.png"], None),
        (["1.png", "cat/1.png", "dog/1.png"], None),
        (["my/1.png", "my/cat/1.png"], None),
        (["cat/1.png", "dog/1.png"], [0, 1]),
        (["my/cat/1.png", "my/dog/1.png"], [0, 1]),
        (["cat/a/1.png", "cat/b/1.png", "dog/1.png"], [0, 0, 1]),
        (["cats/1.png", "cat/1.png"], [0, 1]),
    ],
)
def test_classes(tmp_path, names, labels):
    dataset = load(write(tmp_path / "a", pngs(*names)))
    if labels is None:
        assert dataset.train.labels is None and dataset.test.labels is None
        assert dataset.num_classes == 0 and dataset.class_names == ()
    else:
        np.testing.assert_array_equal(dataset.train.labels, labels)
        assert dataset.num_classes == len(dataset.class_names) == 2


@pytest.mark.parametrize(
    "ordered",
    [
        [str(n) for n in range(12)],
        ["a1b2", "a1b10", "a2", "a10", "b"],
        ["01", "1", "1a", "2", "10", "cat"],
        ["class 9", "class 10", "class 100"],
    ],
)
def test_classes_are_in_natural_order(tmp_path, ordered):
    dataset = load(write(tmp_path / "a", pngs(*(f"{name}/x.png" for name in ordered))))
    assert dataset.class_names == tuple(ordered)
    of_images = [dataset.class_names[number] for number in dataset.train.labels]
    assert of_images == sorted(ordered)  # that of the files


def test_folders_that_are_no_classes_are_named(tmp_path):
    files = pngs("cat/1.png", "cat/2.png", "dog/1.png")
    root = write(tmp_path / "a", files | {"bird/1.png": b"torn"})
    dataset = load(root, unreadable="skip")
    assert dataset.class_names == ("cat", "dog")
    assert "no image can be read: 'bird'" in dataset.source
    beside = load(write(tmp_path / "b", pngs("1.png", "cat/1.png", "dog/1.png")))
    assert beside.source.endswith("no classes, since 1 images lie beside the sub-folders")
    alone = write(tmp_path / "c", pngs("cat/1.png", "cat/2.png") | {"bird/1.png": b"torn"})
    dataset = load(alone, unreadable="skip")
    assert dataset.num_classes == 0 and "no image can be read: 'bird'" in dataset.source


def test_the_file_system_does_not_order(tmp_path, monkeypatch):
    files = pngs(*(f"{n}.png" for n in range(12)), "b/1.png", "a/1.png", "a-/1.png")
    root = write(tmp_path / "a", files)
    scandir = os.scandir
    for step in (1, -1):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        with monkeypatch.context() as patch:
            patch.setattr(
                os, "scandir", lambda path, step=step: sorted(scandir(path), key=str)[::step]
            )
            images_found = load(root).train.images[:]
        np.testing.assert_array_equal(images_found, truth(files))


def test_links_are_followed_but_not_in_circles(tmp_path):
    files = pngs("cat/1.png", "dog/1.png")
    elsewhere = write(tmp_path / "elsewhere", pngs("x.png", "deep/y.png"))
    root = write(tmp_path / "a", files)
    (root / "cat" / "2.png").symlink_to(elsewhere / "x.png")
    (root / "dog" / "more").symlink_to(elsewhere / "deep")
    (root / "dog" / "all").symlink_to(root)
    (root / "dog" / "self").symlink_to("self")
    dataset = load(root)
    np.testing.assert_array_equal(dataset.train.labels, [0, 0, 1, 1])
    assert dataset.reading.other_files == 1
    (root / "cat" / "3.png").symlink_to("nowhere")
    os.mkfifo(root / "cat" / "4.png")
    message = error(root)
    assert "2 of 6" in message and "cat/3.png: No such file" in message
    assert "cat/4.png: is no regular file" in message


def test_sources_are_left_alone(tmp_path):
    root = write(tmp_path / "a", pngs("1.png", "2.png"))
    before = {file: file.stat().st_mtime_ns for file in [root, *root.iterdir()]}
    load(root)
    assert before == {file: file.stat().st_mtime_ns for file in [root, *root.iterdir()]}


# Resolution and channels


@pytest.mark.parametrize(
    ("sizes", "options", "shape"),
    [
        ([(9, 12)] * 2, {}, (9, 9)),
        ([(9, 12)] * 2, {"fit": "pad"}, (12, 12)),
        ([(9, 12)] * 2, {"fit": "keep"}, (9, 12)),
        ([(9, 12)] * 2, {"fit": "keep", "resolution": 18}, (18, 24)),
        ([(20, 40), (40, 80), (30, 60)], {}, (16, 16)),
        ([(20, 40), (40, 80), (30, 60)], {"fit": "pad"}, (32, 32)),
        ([(20, 40), (40, 80), (30, 60)], {"fit": "keep"}, (16, 32)),
        ([(32, 32), (33, 33)], {}, (32, 32)),
        ([(2, 3), (3, 2), (3, 3)], {}, (8, 8)),
        ([(9, 12), (50, 60)], {"resolution": 11}, (11, 11)),
    ],
)
def test_resolution(tmp_path, sizes, options, shape):
    files = {f"{i}.png": encode(noise(*size)) for i, size in enumerate(sizes)}
    dataset = load(write(tmp_path / "a", files), **options)
    assert dataset.train.images.shape == (len(sizes), *shape, 3)
    np.testing.assert_array_equal(dataset.reading.sizes, sizes)
    assert dataset.reading.sizes.dtype == np.int32
    assert f"images, {shape[0]}x{shape[1]}x3" in dataset.source
    assert ("fitted to" in dataset.source) == (set(sizes) != {shape})


def test_the_source_tells_of_sizes(tmp_path):
    files = {f"{i}.png": encode(noise(9 + i, 12)) for i in range(3)}
    root = write(tmp_path / "a", files)
    assert "; sizes 9x12 .. 11x12 fitted to 8 by 'crop' (data.resolution" in load(root).source
    assert load(root, fit="pad", resolution=9).source.endswith("11x12 fitted to 9 by 'pad'")


def test_upright_sizes_count(tmp_path):
    files = {
        "1.png": encode(noise(9, 12)),
        "2.png": encode(noise(12, 9), exif=exif(6)),
        "3.tif": encode(noise(12, 9), "TIFF", exif=exif(8)),
    }
    dataset = load(write(tmp_path / "a", files), fit="keep")
    assert dataset.train.images.shape == (3, 9, 12, 3)


def test_keep_needs_one_aspect(tmp_path):
    files = pngs("1.png", "2.png", size=(8, 16)) | pngs("odd.png", size=(8, 12))
    message = error(write(tmp_path / "a", files), fit="keep")
    assert "odd.png would become 8x12" in message and "2 others 8x16" in message
    assert "--config.data.fit=crop" in message


def test_channels(tmp_path):
    grey, colour = noise(8, 8, 1), noise(8, 8)
    files = {
        "1.png": encode(grey),
        "2.png": encode(Image.fromarray(grey).convert("LA")),
        "3.png": encode(grey.astype(np.uint16) * 257),
        "4.gif": encode(grey, "GIF"),
        "5.png": encode(np.full((8, 8), True)),
    }
    root = write(tmp_path / "a", files)
    assert load(root).train.images.shape == (5, 8, 8, 1)
    np.testing.assert_array_equal(load(root).train.images[:4][..., 0], [grey] * 4)
    replicated = load(root, channels=3).train.images[:]
    np.testing.assert_array_equal(replicated[:4], np.repeat(grey[None, ..., None], 3, -1)[[0] * 4])

    write(root, {"6.png": encode(colour)})
    mixed = load(root)
    np.testing.assert_array_equal(mixed.train.images[-1], colour)
    assert mixed.reading.modes == {"L": 1, "P": 1, "LA": 1, "I;16": 1, "1": 1, "RGB": 1}
    luma = load(root, channels=1).train.images[-1][..., 0]
    np.testing.assert_allclose(luma, colour @ (0.299, 0.587, 0.114), atol=0.51)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("channels", 2),
        ("resolution", 0),
        ("fit", "stretch"),
        ("unreadable", "ignore"),
        ("background", (1, 2)),
        ("background", (1, 2, 256)),
    ],
)
def test_mistakes_in_options(tmp_path, field, value):
    with pytest.raises(UserError, match=f"data.{field}="):
        data.load("images", path=str(tmp_path), **{field: value})


# What goes wrong


def test_nothing_there(tmp_path):
    assert "does not exist" in error(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no images" in error(tmp_path / "empty")
    assert "only 1 other files" in error(write(tmp_path / "text", {"a.txt": b"", ".b.png": b""}))
    assert "holds no images" in error(write_zip(tmp_path / "a.zip", {"a.txt": b""}))
    (tmp_path / "not.zip").write_bytes(encode(noise(8, 8)))
    assert "is no zip" in error(tmp_path / "not.zip")
    os.mkfifo(tmp_path / "pipe")
    assert "neither a folder nor a file" in error(tmp_path / "pipe")


def test_forbidden(tmp_path, monkeypatch):
    root = write(tmp_path / "a", pngs("b/1.png", "c/1.png"))
    scandir = os.scandir

    def forbid(path):
        if str(path).endswith("c"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbid)
    assert f"{root / 'c'} cannot be read (Permission denied)" in error(root)


BAD = {
    "bad/empty.png": b"",
    "bad/text.jpg": b"hello",
    "bad/cut.png": encode(noise(16, 16))[:-200],
    "bad/large.png": png_header(100_000, 100_000),
}


@pytest.mark.parametrize("pack", [write, write_zip])
def test_unreadable_images_are_refused_or_skipped(tmp_path, pack, recwarn):
    good = pngs("cat/1.png", "dog/1.png", "dog/2.png")
    path = pack(tmp_path / "a.zip", good | BAD)
    for _ in range(2):
        message = error(path)
        assert "3 of 7 images" in message and "--config.data.unreadable=skip" in message
        assert "bad/empty.png: is empty" in message and "bad/text.jpg: is no image" in message
    for _ in range(2):
        dataset = load(path, unreadable="skip")
        np.testing.assert_array_equal(dataset.train.images[:], truth(good))
        assert dataset.class_names == ("cat", "dog")
        assert "4 unreadable ones skipped" in dataset.source
        assert [line.split(": ")[0] for line in dataset.reading.skipped] == sorted(BAD)
        assert len(dataset.reading.sizes) == 3
    path = pack(tmp_path / "b.zip", BAD)
    assert "4 of 4 images" in error(path, unreadable="skip")
    assert not recwarn.list


def test_damage_behind_a_sound_header_is_refused_too_and_remembered(tmp_path, monkeypatch):
    good = pngs(*(f"{n}.png" for n in range(9)))
    bad = {f"{n}x.png": BAD["bad/cut.png"] for n in range(9)}
    root = write(tmp_path / "a", good | bad)
    message = error(root, resolution=8)
    assert "9 of 18 images cannot be read: 0x.png: image file is truncated" in message
    assert "; and 4 more." in message
    forbid_decoding(monkeypatch)
    assert error(root, resolution=8) == message
    dataset = load(root, resolution=8, unreadable="skip")
    np.testing.assert_array_equal(dataset.train.images[:], truth(good))


def test_extensions_do_not_matter(tmp_path):
    files = {"1.png": encode(smooth(16, 16), "JPEG"), "2.jpg": encode(noise(16, 16))}
    np.testing.assert_array_equal(load(write(tmp_path / "a", files)).train.images[:], truth(files))


@pytest.mark.parametrize(
    "name",
    ["../1.png", "a/../../1.png", "/etc/1.png", "C:/1.png", "c:1.png", "..\\1.png", "a\\1.png"],
)
def test_archives_with_suspicious_names_are_refused(tmp_path, name):
    path = write_zip(tmp_path / "a.zip", pngs("1.png", name))
    message = error(path, unreadable="skip")
    assert repr(name) in message and "pack the images again" in message
    dots = load(write_zip(tmp_path / "b.zip", pngs("a..b.png", "..c/d..png", "c.png")))
    assert len(dots.train.images) == 2  # "..c" is a hidden folder


def patched(path, places):
    """Overwrites fields of the last member: {(signature, offset): bytes}."""
    content = bytearray(path.read_bytes())
    for (signature, offset), value in places.items():
        start = content.rindex(signature) + offset
        content[start : start + len(value)] = value
    path.write_bytes(content)
    return path


LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"


def test_damaged_members_are_named(tmp_path, monkeypatch):
    files = pngs("1.png", "2.png")
    stored = zipfile.ZIP_STORED
    sizes = {(LOCAL, 22): struct.pack("<I", 50), (CENTRAL, 24): struct.pack("<I", 50)}
    bomb = {"1.png": files["1.png"], "2.png": bytes(5_000_000)}
    cases = {
        "encrypted": (files, {(LOCAL, 6): b"\1", (CENTRAL, 8): b"\1"}),
        "Bad CRC": (files, {(LOCAL, 60): b"!!!!"}),
        "Bad CRC-32": (bomb, sizes),
        "neither stored nor deflated": (files, {(LOCAL, 8): b"\x09", (CENTRAL, 10): b"\x09"}),
        "5,000,000 bytes, more than": (bomb, {}),
    }
    monkeypatch.setattr(folder, "MAX_FILE_BYTES", 1_000_000)
    for number, (expected, (members, places)) in enumerate(cases.items()):
        compression = stored if members is files else zipfile.ZIP_DEFLATED
        path = write_zip(tmp_path / f"{number}.zip", members, compression)
        message = error(patched(path, places))
        assert "1 of 2 images cannot be read: 2.png: " in message and expected in message
        dataset = load(path, unreadable="skip")
        np.testing.assert_array_equal(dataset.train.images[:], truth({"1": files["1.png"]}))


def test_truncated_archives_are_refused(tmp_path):
    whole = write_zip(tmp_path / "a.zip", pngs("1.png", "2.png")).read_bytes()
    for size in range(2, len(whole), len(whole) // 9):
        path = tmp_path / "cut.zip"
        path.write_bytes(whole[:size])
        assert "is a zip that is damaged or cut short" in error(path)


def test_large_files_are_refused(tmp_path, monkeypatch):
    root = write(tmp_path / "a", pngs("1.png") | {"2.png": bytes(2000)})
    monkeypatch.setattr(folder, "MAX_FILE_BYTES", 1000)
    assert "2.png: has 2,000 bytes, more than 1,000" in error(root)


# Cache


def forbid_decoding(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("decoded again")

    monkeypatch.setattr(images, "decode", fail)
    monkeypatch.setattr(images, "inspect", fail)


def test_a_second_load_decodes_nothing_and_is_equal(tmp_path, monkeypatch):
    files = pngs(*NAMES)
    root = write(tmp_path / "a", files)
    first = load(root, test_fraction=0.5)
    forbid_decoding(monkeypatch)
    assert_equal(first, load(root, test_fraction=0.5))
    assert first.source == load(root, test_fraction=0.5).source
    # The same files elsewhere, packed: the same hash.
    assert_equal(first, load(write_zip(tmp_path / "b.zip", files), test_fraction=0.5))
    assert len(list((tmp_path / "cache" / "images").iterdir())) == 1
    write(root, {"notes.txt": b""})
    assert load(root).reading.other_files == 1


def test_whatever_changes_pixels_or_order_is_decoded_anew(tmp_path):
    root = write(tmp_path / "a", pngs("a/1.png", "a/2.png", "b/3.png"))
    variants = [
        load(root),
        load(root, resolution=4),
        load(root, channels=1),
        load(root, fit="pad", resolution=4),
        load(root, background=(0, 0, 0)),
    ]
    (root / "a/1.png").rename(root / "b/4.png")
    variants.append(load(root))
    changed = noise(8, 8)
    write(root, {"a/2.png": encode(changed)})
    variants.append(load(root))
    np.testing.assert_array_equal(variants[-1].train.images[0], changed)
    np.testing.assert_array_equal(variants[-1].train.labels, [0, 1, 1])
    cache = list((tmp_path / "cache" / "images").iterdir())
    assert len(cache) == len(variants)


@pytest.mark.parametrize("damage", ["cut", "gone", "empty", "json", "fewer"])
def test_a_damaged_cache_is_made_anew(tmp_path, damage):
    root = write(tmp_path / "a", pngs("1.png", "2.png"))
    first = load(root)
    (kept,) = (tmp_path / "cache" / "images").iterdir()
    pixels, facts = kept / "images.npy", kept / "facts.json"
    if damage == "cut":
        pixels.write_bytes(pixels.read_bytes()[:-1])
    elif damage == "gone":
        pixels.unlink()
    elif damage == "empty":
        pixels.write_bytes(b"")
    elif damage == "json":
        facts.write_text(facts.read_text()[:-9])
    else:
        facts.write_text(json.dumps(json.loads(facts.read_text()) | {"names": ["1.png"]}))
    again = load(root)
    assert_equal(load(root), again)
    np.testing.assert_array_equal(again.reading.sizes, first.reading.sizes)


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path, monkeypatch):
    root = write(tmp_path / "a", pngs("1.png", "2.png"))
    inspect = images.inspect

    def meanwhile(content):
        write(root, pngs("2.png"))
        return inspect(content)

    monkeypatch.setattr(images, "inspect", meanwhile)
    assert "2.png changed while it was read" in error(root)
    assert list((tmp_path / "cache" / "images").iterdir()) == []


def test_images_stay_on_disk(tmp_path):
    dataset = load(write(tmp_path / "a", pngs(*(f"{n}.png" for n in range(10)))), test_fraction=0.2)
    assert isinstance(dataset.train.images, Rows) and isinstance(dataset.test.images, Rows)
    assert dataset.train.images.shape == (8, 8, 8, 3) and len(dataset.test.images) == 2
    assert "8 training + 2 held-out" in dataset.source
    (kept,) = (tmp_path / "cache" / "images").iterdir()
    assert np.load(kept / "images.npy", mmap_mode="r").shape == (10, 8, 8, 3)


def test_progress_is_quiet_when_quick(tmp_path, capsys):
    load(write(tmp_path / "a", pngs("1.png", "2.png")))
    assert capsys.readouterr().err == ""


def test_runs_among_the_images_are_left_out_and_named(tmp_path):
    names = [f"{kind}/{n}.png" for kind in ("cat", "dog") for n in range(6)]
    folder = write(tmp_path / "pictures", pngs(*names))
    alone = load(folder)
    run = write(folder / "runs" / "mine", pngs("real.png", "samples/grid.png"))
    for name in ("config.json", "versions.json"):
        (run / name).write_text("{}")
    beside = load(folder)
    assert beside.digest == alone.digest and beside.class_names == ("cat", "dog")
    assert beside.source.endswith("left out, since they are runs: 'runs/mine'")
    with pytest.raises(UserError, match="is the folder of a run.*samples"):
        load(run)
