"""Images of any size become those of one: crop, pad, keep, resampling; and what is no image."""

import struct
import warnings

import numpy as np
import pytest
from PIL import Image

from tada_jax.data import images
from tests.data.pictures import RGB, decode, encode, noise, png_header, reason, smooth

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


def test_padding_enlarges_no_image():
    """As EDM pads the 28x28 of MNIST."""
    digit = noise(28, 28, 1)
    found = decode(encode(digit), 32, channels=1, fit="pad", background=(0, 0, 0))
    np.testing.assert_array_equal(found[..., 0], np.pad(digit, 2))
    wide = decode(encode(noise(3, 9, 1)), 16, channels=1, fit="pad", background=(0, 0, 0))
    assert np.count_nonzero(wide[6:9, 3:12]) > 20 and not wide[:6].any() and not wide[9:].any()


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
    if fit == "pad" and max(size) < 16:
        size = (16, 16)  # it enlarges nothing
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


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"just text, for a while\n" * 9, "no image of a known kind"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
            "no image of a known",
        ),
        (b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3) + bytes(99), "Photoshop"),
        (b"<svg/>", "an SVG"),
        (png_header(100_000, 100_000), "more than 134,217,728 pixels"),
        (png_header(12_000, 12_000), "12,000x12,000 pixels, more than 134,217,728"),
        (png_header(0, 8), "no image of a known kind"),
        (bytes(1 << 16), "zeros alone"),
    ],
    ids=["empty", "text", "eps", "psd", "svg", "bomb", "large", "flat", "zeros"],
)
def test_what_is_no_image_is_refused(content, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert expected in reason(content, images.inspect)
        assert expected in reason(content, resolution=8)


OTHERS = {
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "is HEIC"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "a web page": (b"\n<!DOCTYPE html><html></html>", "a web page"),
    "a drawing": (b'<?xml version="1.0"?><svg width="1"></svg>', "an SVG"),
    "jpeg xl": (b"\xff\x0a\x01\x02", "JPEG XL"),
    "dicom": (bytes(128) + b"DICM\x02\0", "DICOM"),
    "nothing known": (b"\x01\x02\x03\x04\x05", "begins with 01 02 03 04"),
    "tiff cut short": (b"II*\0\x08\0\0\0\x0a", "TIFF that is damaged"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_image_is_called_by_its_name(name):
    content, expected = OTHERS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert expected in reason(content, images.inspect)


def test_a_tiff_that_pillow_does_not_know_is_described(pillow_alone):
    content = encode(np.zeros((4, 4), np.float32), "TIFF")
    entry = struct.pack("<HHI", 258, 3, 1) + struct.pack("<H", 32)
    assert entry in content
    odd = content.replace(entry, entry[:-2] + struct.pack("<H", 24))
    words = "is a TIFF of 1 floating-point channels of 24 bits, compression raw, which is not read"
    assert words in reason(odd, images.inspect)
