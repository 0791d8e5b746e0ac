"""Which values become black and white: files and arrays of other depths than 8 bits."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tada_jax import data
from tada_jax.data import levels
from tada_jax.system.errors import UserError
from tests.data.pictures import encode, raw_png

GREY = np.random.default_rng(0).integers(0, 256, (12, 6, 6), np.uint8)
GREY[0, 0, :2] = 0, 255


def write(folder, images, kind="PNG", ending=".png", **options):
    for i, image in enumerate(images):
        (folder / f"{i:02}{ending}").write_bytes(encode(Image.fromarray(image), kind, **options))
    return folder


def load(path, **options):
    return data.load("images", path=str(path), test_fraction=0.0, **options)


def grey(split):
    return np.asarray(split.images)[..., 0]


def as_uint16(bits):
    return np.round(GREY * ((2**bits - 1) / 255)).astype(np.uint16)


@pytest.mark.parametrize(("kind", "ending"), [("PNG", ".png"), ("TIFF", ".tif")])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_cameras_of_few_bits_fill_the_range_of_the_set(folder, kind, ending, bits):
    found = load(write(folder, as_uint16(bits), kind, ending))
    np.testing.assert_array_equal(grey(found.train), GREY)
    said = f"values of uint16 from 0 to {2**bits - 1:,}: 0 is black, {2**bits - 1:,} white"
    assert (said in found.source) == (bits != 16)


def test_full_takes_what_the_type_can_hold_and_numbers_what_they_say(folder):
    write(folder, as_uint16(12))
    whole = grey(load(folder, range="full").train)
    np.testing.assert_array_equal(whole, np.round(as_uint16(12) / 257))
    found = load(folder, range="1000:3000")
    expected = np.round((as_uint16(12).astype(float).clip(1000, 3000) - 1000) * 255 / 2000)
    np.testing.assert_array_equal(grey(found.train), expected)
    assert "data.range=1000:3000: 1,000 is black, 3,000 white" in found.source


def test_one_bright_image_sets_the_range_of_all(folder):
    images = as_uint16(12)
    images[7, 3, 3] = 60_000
    found = grey(load(write(folder, images)).train)
    np.testing.assert_array_equal(found, np.round(images / 257))


def test_masks_of_0_and_1_are_black_and_white(folder):
    found = load(write(folder, GREY // 128))
    np.testing.assert_array_equal(grey(found.train), GREY // 128 * 255)
    assert "values of uint8 from 0 to 1: 0 is black, 1 white" in found.source
    assert grey(load(folder, range="full").train).max() == 1


def test_dark_bytes_are_dark(folder):
    found = load(write(folder, GREY // 16))
    np.testing.assert_array_equal(grey(found.train), GREY // 16)
    np.testing.assert_array_equal(
        grey(load(folder, range="0:15").train), np.round(GREY // 16 * 17.0)
    )


@pytest.mark.parametrize(
    ("scale", "shift"), [(1 / 255, 0), (2 / 255, -1), (1, 0), (17.5, -1000)], ids=str
)
def test_floats_of_any_range(folder, scale, shift):
    images = (GREY * scale + shift).astype(np.float32)
    found = load(write(folder, images, "TIFF", ".tiff"))
    np.testing.assert_allclose(grey(found.train), GREY, atol=1)
    assert ("values of float32" in found.source) == (scale != 1 / 255)


def test_hounsfield_units_go_from_end_to_end(folder):
    images = GREY.astype(np.int32) * 16 - 1024
    found = load(write(folder, images, "TIFF", ".tif"))
    np.testing.assert_array_equal(grey(found.train), GREY)
    assert "values of int32 from -1,024 to 3,056: -1,024 is black" in found.source
    soft = grey(load(folder, range="-160:240").train)
    np.testing.assert_array_equal(soft, np.rint((images.clip(-160, 240) + 160) * 255 / 400))


def test_white_is_zero_stays_so(folder):
    for i, image in enumerate(as_uint16(12)):
        content = encode(Image.fromarray(image), "TIFF", tiffinfo={262: 0})
        (folder / f"{i}.tif").write_bytes(content)
    np.testing.assert_array_equal(
        np.sort(grey(load(folder).train), None), np.sort(255 - GREY, None)
    )


def test_a_transparent_value_stays_transparent(folder):
    image = Image.fromarray(as_uint16(12)[0])
    (folder / "a.png").write_bytes(encode(image, transparency=4095))
    assert grey(load(folder, background=(0, 0, 0)).train)[0, 0, 1] == 0


def test_colours_of_a_12_bit_camera_are_refused(folder):
    for i in range(3):
        rows = b"".join(
            b"\0" + (GREY[i, y].repeat(3) * np.uint16(16)).astype(">u2").tobytes() for y in range(6)
        )
        (folder / f"{i}.png").write_bytes(raw_png(6, 6, depth=16, colour=2, rows=rows))
    with pytest.raises(UserError, match="colours of 16 bits stay below 4,096"):
        load(folder)
    assert grey(load(folder, range="full").train).max() == 15
    with pytest.raises(UserError, match="data.range cannot be applied"):
        load(folder, range="0:4095")


def test_a_value_that_is_not_finite_is_named(folder):
    images = GREY / np.float32(255)
    images[3, 2, 2] = np.nan
    write(folder, images, "TIFF", ".tif")
    with pytest.raises(UserError, match="03.tif: holds values that are not finite"):
        load(folder)
    found = load(folder, unreadable="skip")
    assert len(found.train.images) == 11 and "1 unreadable ones skipped" in found.source


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (GREY / 255, ""),
        (GREY / np.float16(255), ""),
        (GREY / 127.5 - 1, "-1 is black, 1 white"),
        (GREY.astype(int), "values of int64 from 0 to 255"),
        (as_uint16(12), "4,095 white"),
        (as_uint16(16), ""),
        (GREY >= 128, ""),
        (GREY // 128, "1 white"),
    ],
    ids=lambda value: getattr(value, "dtype", value),
)
def test_arrays_of_any_numbers(tmp_path, images, said):
    np.save(tmp_path / "set.npy", images)
    found = load(tmp_path / "set.npy")
    truth = (
        np.where(GREY >= 128, 255, 0) if images.max() == 1 and images.dtype.kind in "bu" else GREY
    )
    np.testing.assert_allclose(grey(found.train), truth, atol=1)
    assert found.train.images.dtype == np.uint8
    assert said in found.source if said else "black" not in found.source


def test_the_test_split_of_an_archive_is_read_as_the_training_split(tmp_path):
    images = as_uint16(12)
    np.savez(tmp_path / "set.npz", x=images, x_test=images[:2] // 4)
    found = load(tmp_path / "set.npz")
    np.testing.assert_allclose(grey(found.test), GREY[:2] / 4, atol=1)


@pytest.mark.parametrize("text", ["4095", "1:1", "5:2", "a:b", ":", "0:nan", "0:4095:2", "Full"])
def test_other_ranges_are_refused(text):
    with pytest.raises(UserError, match="data.range=.*'0:4095'"):
        levels.given(text)


def test_sets_without_values_of_their_own_have_no_range():
    with pytest.raises(UserError, match="data.range=0:16"):
        data.load("digits", range="0:16")


def tiff(values, order, *, packed, photometric=1):
    """A TIFF by its layout: grey [H,W] of any type, in one strip, little- or big-endian."""
    stored = values.astype(values.dtype.newbyteorder(order)).tobytes()
    stored = zlib.compress(stored) if packed else stored
    (height, width), bits = values.shape, 8 * values.dtype.itemsize
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {256: width, 257: height, 258: bits, 259: 8 if packed else 1, 262: photometric}
    tags |= {273: 8 + 2 + 12 * 10 + 4, 277: 1, 278: height, 279: len(stored), 339: kind}
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    header = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return header + struct.pack(order + "H", len(tags)) + entries + bytes(4) + stored


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4"])
@pytest.mark.parametrize("alone", [False, True])
def test_tiffs_of_any_type_and_order_of_bytes(request, folder, dtype, order, packed, alone):
    if alone:
        request.getfixturevalue("pillow_alone")
    dtype = np.dtype(dtype)
    low, high = (-1, 1) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    values = low + GREY[0] * ((high - low) / 255)
    values = (values if dtype.kind == "f" else np.floor(values)).astype(dtype)
    (folder / "a.tif").write_bytes(tiff(values, order, packed=packed))
    try:
        found = grey(load(folder, range=f"{low}:{high}").train)
    except UserError as error:
        # Pillow would swap the bytes of some, and does not know others.
        assert alone and str(error).endswith("pass --config.data.unreadable=skip")
        assert "pip install 'tada-jax[formats]'" in str(error)
        assert order == ">" and (packed or dtype == np.uint32), error
        assert "which is not read" in str(error) or "of which Pillow swaps the bytes" in str(error)
        assert dtype.itemsize > 1 and dtype != np.uint16
    else:
        np.testing.assert_allclose(found[0], GREY[0], atol=1)
        assert not (alone and order == ">" and packed and dtype in (np.int16, np.int32, np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
@pytest.mark.parametrize("asked", ["full", "auto"])
def test_white_is_zero_of_any_type(folder, dtype, asked):
    values = (GREY[0] / 255 if dtype == np.float32 else GREY[0] * 257.0).astype(dtype)
    (folder / "a.tif").write_bytes(tiff(values, "<", packed=False, photometric=0))
    np.testing.assert_array_equal(grey(load(folder, range=asked).train)[0], 255 - GREY[0])


@pytest.mark.parametrize(("white", "dtype"), [(15, "u1"), (1023, ">u2"), (4095, ">u2")])
def test_pgms_that_state_their_white_are_stretched_by_that_and_by_nothing_else(
    folder, white, dtype
):
    values = np.rint(GREY[0] * (white / 255)).astype(dtype)
    content = f"P5 # by a camera\n6 6 {white}\n".encode() + values.tobytes()
    (folder / "a.pgm").write_bytes(content)
    np.testing.assert_allclose(grey(load(folder).train)[0], values * (255 / white), atol=1)
    with pytest.raises(UserError, match="data.range cannot be applied"):
        load(folder, range=f"0:{white}")


@pytest.mark.parametrize("bits", [2, 4])
def test_pngs_of_few_bits_state_their_white(folder, bits):
    values = GREY[0, :4, :4] >> (8 - bits)
    rows = b"".join(
        b"\0" + np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].ravel()).tobytes()
        for row in values
    )
    (folder / "a.png").write_bytes(raw_png(4, 4, depth=bits, colour=0, rows=rows))
    expected = values * (255 // (2**bits - 1))
    np.testing.assert_array_equal(grey(load(folder).train)[0], expected)
    with pytest.raises(UserError, match="data.range cannot be applied"):
        load(folder, range="0:3")
