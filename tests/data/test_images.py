"""One image of every kind against its known pixels."""

import io
import struct
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms

from tada_jax.data import images
from tests.data.pictures import (
    RGB,
    chunk,
    decode,
    encode,
    exif,
    noise,
    raw_png,
    reason,
    smooth,
)

WHITE = (255, 255, 255)


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


def planes(values, extra=None):
    """An uncompressed TIFF of one plane a channel, of values [C,H,W], as rasterio writes them."""
    count, height, width = values.shape
    size = values[0].nbytes
    arrays = {258: [8 * values.itemsize] * count, 273: range(8, 8 + count * size, size)}
    arrays |= {279: [size] * count}
    start = 8 + count * size
    tags = {256: width, 257: height, 259: 1, 262: 2 if count > 2 else 1, 277: count, 278: height}
    tags |= {284: 2} | ({} if extra is None else {338: extra}) | dict.fromkeys(arrays)
    behind = start + 2 + 12 * len(tags) + 4
    table, rest = b"", b""
    for tag in sorted(tags):
        if tag not in arrays:
            table += struct.pack("<HHIHH", tag, 3, 1, tags[tag], 0)
            continue
        content = struct.pack(f"<{count}I", *arrays[tag])
        if tag == 258:
            content = struct.pack(f"<{count}H", *arrays[tag])
        if len(content) <= 4:
            table += struct.pack("<HHI", tag, 3 if tag == 258 else 4, count) + content.ljust(
                4, b"\0"
            )
        else:
            table += struct.pack("<HHII", tag, 3 if tag == 258 else 4, count, behind + len(rest))
            rest += content
    pixels = values.astype(values.dtype.newbyteorder("<")).tobytes()
    directory = struct.pack("<H", len(tags)) + table + bytes(4)
    return b"II*\x00" + struct.pack("<I", start) + pixels + directory + rest


def test_tiffs_in_planes_are_right_or_refused(pillow_alone):
    eight = noise(5, 7).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode(planes(eight)), eight.transpose(1, 2, 0))
    sixteen = eight.astype(np.uint16) * 257
    assert "is a TIFF of 3 planes of 16 bits" in reason(planes(sixteen))
    assert "is a TIFF of 2 planes of 8 bits" in reason(planes(eight[:2], extra=2))


def test_jpeg_2000_of_several_deep_channels_is_refused(pillow_alone):
    """Its SIZ marker says the depths; the rest of the file would be read to get there."""
    content = bytearray(encode(noise(16, 16), "JPEG2000"))
    place = content.find(b"\xff\x4f\xff\x51") + 42
    for channel in range(3):
        assert content[place + 3 * channel] == 7
        content[place + 3 * channel] = 11
    assert "JPEG 2000 of 3 channels of 12 bits" in reason(bytes(content))
    deep = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    grey = encode(deep, "JPEG2000")
    np.testing.assert_array_equal(decode(grey, channels=1)[..., 0], deep // 257)


def test_a_tga_without_bits_of_alpha_is_opaque():
    pixels = noise(6, 8)
    filler = np.zeros((6, 8, 1), np.uint8)
    content = bytearray(encode(np.concatenate([pixels, filler], -1), "TGA"))
    assert content[16] == 32 and content[17] & 15 == 8
    assert (decode(bytes(content)) == 255).all()  # transparent, as it says
    content[17] &= 0xF0
    np.testing.assert_array_equal(decode(bytes(content)), pixels)


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
    signed = encode(np.array([[0, 3_000_000_000]], np.uint32).view(np.int32), "TIFF")
    sample_format = struct.pack("<HHI", 339, 3, 1)
    unsigned = signed.replace(sample_format + b"\2", sample_format + b"\1")
    assert "integers from 0 to 3,000,000,000" in reason(unsigned)


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
