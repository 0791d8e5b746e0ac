"""Plain PNGs are read in fewer steps than Pillow's, and never otherwise than by it."""

import numpy as np
import pytest

from tada_jax.data import images, plain_png
from tada_jax.data.levels import Levels
from tests.data.pictures import RNG, chunk, encode, noise, smooth


def outcomes(content, **options):
    """What `inspect` and `decode` make of a file: values, or reasons."""
    found = []
    settings = {"resolution": 8, "channels": 3} | options
    for function, arguments in ((images.inspect, {}), (images.decode, settings)):
        try:
            found.append(function(content, **arguments))
        except ValueError as error:
            found.append(str(error))
    return found


def assert_as_pillow(content, monkeypatch, **options):
    found = outcomes(content, **options)
    with monkeypatch.context() as patched:
        patched.setattr(plain_png, "parts", lambda content: None)
        expected = outcomes(content, **options)
    for one, other in zip(found, expected):
        np.testing.assert_equal(one, other)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (1, 1), (64, 33), (7, 200)])
@pytest.mark.parametrize("level", [0, 6])
def test_plain_ones_have_the_same_pixels(channels, size, level, monkeypatch):
    for image in (
        noise(*size, channels),
        smooth(*size)[..., 0] if channels == 1 else smooth(*size),
    ):
        content = encode(image, compress_level=level)
        assert plain_png.parts(content)
        np.testing.assert_array_equal(np.asarray(plain_png.decode(content)), image)
        for made in (1, 3):
            for fit in ("crop", "pad"):
                assert_as_pillow(content, monkeypatch, channels=made, fit=fit)
        for levels in ({"uint8": Levels(0, 1)}, {"uint8": Levels(10, 90)}, Levels(5, 250)):
            assert_as_pillow(content, monkeypatch, levels=levels)


def test_pixels_in_several_chunks_and_harmless_notes(monkeypatch):
    content = encode(noise(8, 8), dpi=(72, 72))
    assert plain_png.parts(content)
    start = content.index(b"IDAT") - 4
    length = int.from_bytes(content[start : start + 4], "big")
    packed = content[start + 8 : start + 8 + length]
    split = b"".join(chunk(b"IDAT", packed[i : i + 50]) for i in range(0, length, 50))
    content = content[:start] + split + content[-12:]
    assert plain_png.parts(content)
    assert_as_pillow(content, monkeypatch)


@pytest.mark.parametrize(
    "options", [{"transparency": (1, 2, 3)}, {"icc_profile": b"none"}, {"exif": b"Exif\0\0"}]
)
def test_whatever_may_change_pixels_is_left_to_pillow(options, monkeypatch):
    content = encode(noise(8, 8), **options)
    assert plain_png.parts(content) is None
    assert_as_pillow(content, monkeypatch)


def test_damaged_ones_are_left_to_pillow(monkeypatch):
    whole = encode(noise(9, 9), dpi=(72, 72))
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(RNG.integers(8))
        assert plain_png.parts(bytes(damaged)) is None
    for at in RNG.integers(0, len(whole), 60):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(RNG.integers(8))
        for content in (bytes(damaged), whole[:at], whole + b"more", whole[:at] + whole[at + 1 :]):
            assert_as_pillow(content, monkeypatch)


def test_damage_below_right_checksums_is_told_by_pillow(monkeypatch):
    whole = encode(noise(9, 9))
    start = whole.index(b"IDAT") - 4
    packed = whole[start + 8 : -16]
    for made in (packed[:40], packed[::-1], b"", packed[:-9] + b"123456789", packed + b"more"):
        assert_as_pillow(whole[:start] + chunk(b"IDAT", made) + whole[-12:], monkeypatch)
