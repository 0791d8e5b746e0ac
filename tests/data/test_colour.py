"""Colour profiles: counted, and applied where that is asked for."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from tada_jax import data
from tada_jax.data import images
from tada_jax.system.errors import UserError
from tests.data.pictures import encode, noise, reason

# Columns: XYZ under D50 of red, green and blue.
SRGB = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
P3 = np.array([[0.5151, 0.2919, 0.1572], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]])


def profile(matrix=None, gamma=2.2):
    """An ICC profile of a monitor, or of grey without a matrix, byte for byte by ICC.1:2001."""

    def number(value):
        return struct.pack(">i", round(value * 65536))

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78 + 1)
    white = (0.9642, 1.0, 0.8249)
    tags = {
        b"desc": text,
        b"cprt": b"text" + bytes(4) + b"none\0\0\0\0",
        b"wtpt": b"XYZ " + bytes(4) + b"".join(map(number, white)),
    }
    if matrix is None:
        tags[b"kTRC"] = curve
    else:
        for name, column in zip("rgb", matrix.T):
            tags[f"{name}XYZ".encode()] = b"XYZ " + bytes(4) + b"".join(map(number, column))
            tags[f"{name}TRC".encode()] = curve
    at, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content
    space = b"GRAY" if matrix is None else b"RGB "
    header = struct.pack(
        ">I4sI4s4s4s", at + len(body), bytes(4), 0x02400000, b"mntr", space, b"XYZ "
    )
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += b"".join(map(number, white)) + bytes(48)
    return header + struct.pack(">I", len(tags)) + table + body


def srgb(linear):
    """Light 0 .. 1 as numbers 0 .. 255 of IEC 61966-2-1."""
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


PIXELS = noise(8, 8)
GREY = noise(8, 8, 1)


def decode(content, channels=3, **options):
    return images.decode(content, resolution=8, channels=channels, **options)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_colours_of_a_wide_gamut_are_turned_into_srgb(kind):
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    content = encode(PIXELS, kind, icc_profile=profile(P3), **options)
    stored = decode(content).astype(float)
    light = (stored / 255) ** 2.2 @ (np.linalg.inv(SRGB) @ P3).T
    np.testing.assert_allclose(decode(content, color="srgb"), srgb(light), atol=3)
    assert images.inspect(content).other_colours
    if kind != "JPEG":
        np.testing.assert_array_equal(stored, PIXELS)


def test_grey_of_another_gamma():
    content = encode(GREY, icc_profile=profile(gamma=1.8))
    assert images.inspect(content).other_colours
    np.testing.assert_array_equal(decode(content, 1)[..., 0], GREY)
    np.testing.assert_allclose(
        decode(content, 1, color="srgb")[..., 0], srgb((GREY / 255) ** 1.8), atol=2
    )


def test_transparency_stays():
    alpha = noise(8, 8, 1)
    content = encode(np.dstack([PIXELS, alpha]), icc_profile=profile(P3))
    opaque = encode(PIXELS, icc_profile=profile(P3))
    share, colours = alpha[..., None] / 255, decode(opaque, color="srgb")
    found = decode(content, color="srgb", background=(0, 0, 0))
    np.testing.assert_allclose(found, colours * share, atol=1)


def test_srgb_under_any_name_is_srgb():
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for content in (encode(PIXELS), encode(PIXELS, icc_profile=made)):
        assert not images.inspect(content).other_colours
        np.testing.assert_array_equal(decode(content, color="srgb"), PIXELS)


@pytest.mark.parametrize("bad", [b"no profile", profile(), profile(P3)[:200]])
def test_profiles_that_cannot_be_applied_are_refused_when_they_are_asked_for(bad):
    content = encode(PIXELS, icc_profile=bad)
    assert images.inspect(content).other_colours
    np.testing.assert_array_equal(decode(content), PIXELS)
    assert "has a colour profile that cannot be applied" in reason(content, color="srgb")


def test_the_report_counts_them(folder):
    for i in range(5):
        options = {"icc_profile": profile(P3)} if i < 2 else {}
        (folder / f"{i}.png").write_bytes(encode(Image.fromarray(PIXELS), **options))
    stored = data.load("images", path=str(folder), test_fraction=0.0)
    assert "2 images have a colour profile other than sRGB, which is not applied" in stored.source
    found = data.load("images", path=str(folder), test_fraction=0.0, color="srgb")
    assert "other than sRGB, turned into it" in found.source
    same = [(a == b).all() for a, b in zip(np.asarray(stored.train.images), found.train.images[:])]
    assert same == [False, False, True, True, True]
    with pytest.raises(UserError, match="data.color=srgb"):
        data.load("digits", color="srgb")
