"""TIFF and JPEG 2000 that Pillow refuses or of which it makes other pixels."""

import io

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from tada_jax.data import images, rasters
from tests.data.pictures import decode, encode, error, load, noise, reason, write

RNG = np.random.default_rng(0)


def tiff(values, **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **options)
    return stream.getvalue()


def colours(dtype, channels=3, side=16):
    """Random values that fill their type."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return RNG.random((side, side, channels)).astype(dtype)
    limits = np.iinfo(dtype)
    made = RNG.integers(limits.min, limits.max, (side, side, channels), dtype, endpoint=True)
    made[0, 0], made[0, 1] = limits.min, limits.max
    return made


def is_pillows(content):
    return rasters.find(content) is None and not images.inspect(content).mode.startswith(
        ("TIFF", "JPEG 2000")
    )


def test_colours_of_16_bits_in_planes(folder):
    values = colours("u2")
    content = tiff(values.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(decode(content), np.rint(values / 257))
    header = images.inspect(content)
    assert header.mode == "TIFF RGB uint16" and not header.grey and header.dtype == "uint16"
    # All 16 bits count: those of a camera of 12 are no 16 shades.
    write(folder, {"a.tif": tiff((values >> 4).transpose(2, 0, 1), photometric="rgb")})
    found = load(folder)
    np.testing.assert_array_equal(found.train.images[0], np.rint((values >> 4) / 4095 * 255))
    assert "values of uint16 from 0 to 4,095: 0 is black, 4,095 white" in found.source
    window = np.asarray(load(folder, range="1000:3000").train.images)[0]
    expected = ((values >> 4).clip(1000, 3000) - 1000.0) * 255 / 2000
    np.testing.assert_array_equal(window, np.rint(expected))


def test_what_pillow_reads_rightly_stays_with_it():
    values = colours("u1")
    for content in (
        encode(values, "TIFF"),
        encode(values, "JPEG2000"),
        tiff(values, photometric="rgb", compression="lzma"),
        tiff(colours("u2"), photometric="rgb"),
        tiff(colours("f4", 1)[..., 0], compression="zstd", predictor=True),
    ):
        assert is_pillows(content)
    values = colours("u2")
    packed = tiff(values, photometric="rgb", compression="zstd", predictor=True)
    assert is_pillows(packed)
    np.testing.assert_allclose(decode(packed).astype(int), values // 257, atol=1)


@pytest.mark.parametrize("packing", ["webp", "jpegxl", "jpeg2000", "png", "lerc"])
def test_compressions_that_pillow_does_not_know(packing):
    values = colours("u1")
    options = {"compressionargs": {"lossless": True}} if packing in ("webp", "jpegxl") else {}
    options = {"compressionargs": {"level": 0}} if packing == "jpeg2000" else options
    content = tiff(values, photometric="rgb", compression=packing, **options)
    assert not is_pillows(content)
    np.testing.assert_array_equal(decode(content), values)


def test_lossless_jpeg_of_16_bits():
    values = colours("u2", 1)[..., 0]
    arguments = {"lossless": True, "bitspersample": 16}
    content = tiff(values, compression="jpeg", compressionargs=arguments)
    assert not is_pillows(content)
    np.testing.assert_array_equal(decode(content, channels=1)[..., 0], np.rint(values / 257))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 9, 10, 12, 14, 20, 24])
@pytest.mark.parametrize("kind", ["minisblack", "miniswhite", "rgb"])
def test_any_number_of_bits_is_the_white_that_it_states(bits, kind):
    dtype = "u1" if bits <= 8 else "u2" if bits <= 16 else "u4"
    values = RNG.integers(0, 2**bits, (8, 8, 3 if kind == "rgb" else 1)).astype(dtype)
    stored = values if kind == "rgb" else values[..., 0]
    stored = stored.astype(bool) if bits == 1 and kind != "rgb" else stored
    content = tiff(stored, photometric=kind, bitspersample=bits)
    expected = values * (255 / (2**bits - 1))
    expected = 255 - expected if kind == "miniswhite" else expected
    found = decode(content, channels=values.shape[-1]).astype(float)
    np.testing.assert_allclose(found, expected, atol=0.51)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i2", "u4"])
def test_colours_of_any_type(folder, dtype):
    values = colours(dtype)
    write(folder, {"a.tif": tiff(values, photometric="rgb", byteorder=">", compression="zlib")})
    low, high = (0, 1) if dtype[0] == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    found = np.asarray(load(folder, range=f"{low}:{high}").train.images)[0]
    truth = (values.astype(float) - low) * 255 / (high - low)
    np.testing.assert_array_equal(found, np.rint(truth))
    bright, source = np.asarray(load(folder).train.images)[0], load(folder).source
    if dtype[0] == "f":
        np.testing.assert_array_equal(bright, found)
    else:  # from end to end
        assert (bright.min(), bright.max()) == (0, 255) and f"values of {np.dtype(dtype)}" in source


def test_high_dynamic_range_goes_from_end_to_end(folder):
    values = colours("f4") * 7 - 1
    write(folder, {"a.tif": tiff(values, photometric="rgb")})
    expected = (values - values.min()) * 255.0 / (values.max() - values.min())
    np.testing.assert_allclose(load(folder).train.images[0].astype(float), expected, atol=0.51)
    values[3, 3, 1] = np.inf
    write(folder, {"a.tif": tiff(values, photometric="rgb")})
    assert "a.tif: holds values that are not finite" in error(folder)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_alpha_is_laid_over_the_background(kind, count, planar):
    shown = colours("f4", count)
    shown[0, 0, -1], shown[0, 1, -1] = 0, 1
    alpha = shown[..., -1:].astype(float)
    stored = shown.copy()
    if kind == "assocalpha":
        stored[..., :-1] *= shown[..., -1:]
    content = tiff(
        stored.transpose(2, 0, 1) if planar == "separate" else stored,
        photometric="rgb" if count == 4 else "minisblack",
        planarconfig=planar,
        extrasamples=[kind],
    )
    expected = shown[..., :-1] * alpha * 255 + (1 - alpha) * (9, 8, 7)
    found = decode(content, background=(9, 8, 7)).astype(float)
    np.testing.assert_allclose(found, expected, atol=1.6)
    assert images.inspect(content).grey == (count == 2)


def test_grey_and_alpha_of_8_bits_in_planes():
    values = colours("u1", 2)
    content = tiff(
        values.transpose(2, 0, 1),
        photometric="minisblack",
        planarconfig="separate",
        extrasamples=["unassalpha"],
    )
    grey, alpha = values[..., 0].astype(float), values[..., 1] / 255
    found = decode(content, channels=1, background=(0, 0, 0))[..., 0]
    np.testing.assert_allclose(found, grey * alpha, atol=1)


def test_white_is_zero_and_a_palette():
    values = colours("i2", 1)[..., 0]
    content = tiff(values, photometric="miniswhite", byteorder=">", compression="zlib")
    expected = 255 - np.rint((values.astype(float) + 2**15) * 255 / (2**16 - 1))
    np.testing.assert_array_equal(decode(content, channels=1)[..., 0], expected)
    table = RNG.integers(0, 256, (3, 256)).astype(np.uint16)
    places = colours("u1", 1)[..., 0]
    content = tiff(places, photometric="palette", colormap=table * 257, compression="png")
    assert not is_pillows(content) and not images.inspect(content).grey
    np.testing.assert_array_equal(decode(content), table.T[places])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_that_of_pillow(orientation):
    values = noise(6, 9)
    tag = [(274, "H", 1, orientation, True)]
    by_pillow = tiff(values, photometric="rgb", extratags=tag)
    other = tiff(values.astype(np.float32) / 255, photometric="rgb", extratags=tag)
    assert is_pillows(by_pillow) and not is_pillows(other)
    headers = [images.inspect(content) for content in (by_pillow, other)]
    assert [(header.height, header.width) for header in headers] == [
        (9, 6) if orientation > 4 else (6, 9)
    ] * 2
    np.testing.assert_array_equal(decode(other), decode(by_pillow))


def test_pages_without_thumbnails(folder):
    stack = RNG.random((3, 8, 8)).astype(np.float16)
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(np.zeros((4, 4), np.float16), subfiletype=1)
        for page in stack:
            writer.write(page, contiguous=False, metadata=None)
    content = stream.getvalue()
    assert images.inspect(content).pages == (1, 2, 3)
    write(folder, {"a.tif": content})
    expected = np.rint(stack.astype(float) * 255)
    assert load(folder).train.images.shape == (1, 8, 8, 1)
    found = load(folder, pages="all")
    np.testing.assert_array_equal(found.train.images[:][..., 0], expected)
    together = load(folder, pages="channels").train.images[0]
    np.testing.assert_array_equal(together, expected.transpose(1, 2, 0))


def test_colour_profiles(folder):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    tag = [(34675, "B", len(profile.tobytes()), profile.tobytes(), True)]
    values = colours("f4")
    plain, same = tiff(values, photometric="rgb"), tiff(values, photometric="rgb", extratags=tag)
    assert not images.inspect(same).other_colours
    np.testing.assert_array_equal(decode(same, color="srgb"), decode(plain))
    xyz = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    tag = [(34675, "B", len(xyz), xyz, True)]
    other = tiff(values, photometric="rgb", extratags=tag)
    assert images.inspect(other).other_colours
    np.testing.assert_array_equal(decode(other), decode(plain))
    assert "colour profile that cannot be applied" in reason(other, color="srgb")


def test_tiffs_of_other_colours_are_named():
    cases = [
        (tiff(colours("f4", 4), photometric="separated"), "colours called SEPARATED"),
        (tiff(colours("f4"), photometric="cielab"), "colours called CIELAB"),
        (tiff(colours("u1"), photometric="minisblack", planarconfig="contig"), "of 3 channels"),
        (tiff(np.ones((4, 4), np.complex64)), "values of complex64"),
        (tiff(np.ones((4, 4), np.int64)), "integers of 64 bits: set data.range=LOW:HIGH"),
    ]
    for content, said in cases:
        assert said in reason(content)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("packing", [None, "zlib"])
def test_cut_tiffs_are_named(packing):
    content = tiff(colours("f4", side=64), photometric="rgb", compression=packing)
    for length in (8, 100, 2000, len(content) - 40):
        assert reason(content[:length])
    content = tiff(colours("u2", side=64).transpose(2, 0, 1), photometric="rgb", compression=None)
    assert reason(content[:-9]) == "is damaged or cut short"


# JPEG 2000


def jpeg_2000(values, bits, codec="jp2"):
    return imagecodecs.jpeg2k_encode(
        values, level=0, bitspersample=bits, reversible=True, codecformat=codec, mct=False
    )


@pytest.mark.parametrize("codec", ["jp2", "j2k"])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_deep_colours(folder, bits, codec):
    values = colours("u2") >> (16 - bits)
    content = jpeg_2000(values, bits, codec)
    header = images.inspect(content)
    assert header.states_white and header.mode == f"JPEG 2000 of {bits} bits"
    np.testing.assert_array_equal(decode(content), np.rint(values / (2**bits - 1) * 255))
    write(folder, {f"a.{codec}": content})
    found = np.asarray(load(folder, range="100:900").train.images)[0]
    np.testing.assert_array_equal(found, np.rint((values.clip(100, 900) - 100.0) * 255 / 800))


@pytest.mark.parametrize("count", [2, 4])
def test_deep_alpha(count):
    values = colours("u2", count) >> 4
    content = jpeg_2000(values, 12)
    alpha = values[..., -1:] / 4095
    expected = values[..., :-1] / 4095 * 255 * alpha + 255 * (1 - alpha)
    np.testing.assert_allclose(
        decode(content).astype(float), np.broadcast_to(expected, (16, 16, 3)), atol=1.2
    )


def test_other_jpeg_2000_is_named():
    content = jpeg_2000(colours("u2"), 16)
    srgb = b"colr\1\0\0" + bytes([0, 0, 0, 16])
    assert srgb in content
    ycc = content.replace(srgb, srgb[:-1] + bytes([18]))
    assert "JPEG 2000 of colours of number 18" in reason(ycc)
    assert reason(content[: len(content) // 2])


# The door


def test_without_the_libraries_pillows_reason_names_the_extra(folder, request):
    files = {
        "a.tif": tiff(colours("u2").transpose(2, 0, 1), photometric="rgb"),
        "b.tif": tiff(colours("f4"), photometric="rgb"),
        "c.jp2": jpeg_2000(colours("u2"), 16),
        "d.tif": tiff(colours("i2", 1)[..., 0], byteorder=">", compression="zlib"),
        "e.tif": tiff(colours("u1"), photometric="rgb", compression="webp"),
    }
    request.getfixturevalue("pillow_alone")  # once they are made
    for content in files.values():
        assert reason(content).endswith(", or pip install 'tada-jax[formats]'")
    write(folder, files)
    assert "5 of 5 images cannot be read: a.tif: is a TIFF of 3 planes of 16 bits" in error(folder)


def test_what_was_skipped_is_read_once_the_extra_is_there(folder, monkeypatch):
    write(folder, {"a.tif": tiff(colours("f4"), photometric="rgb"), "b.png": encode(noise(16, 16))})
    with monkeypatch.context() as bare:
        bare.setattr("tada_jax.data.extras.has", lambda *names: False)
        bare.setattr("tada_jax.data.extras.versions", lambda: "")
        assert len(load(folder, unreadable="skip").train.images) == 1
    assert len(load(folder, unreadable="skip").train.images) == 2


def test_a_set_of_all_kinds_at_once(folder):
    picture = noise(16, 16)
    write(
        folder,
        {
            "a.png": encode(picture),
            "b.tif": tiff(picture / np.float32(255), photometric="rgb"),
            "c.jp2": jpeg_2000(picture.astype(np.uint16) * 257, 16),
            "d.jpg": encode(Image.fromarray(picture), "JPEG", quality=100, subsampling=0),
        },
    )
    found = np.asarray(load(folder).train.images).astype(int)
    for image in found[:3]:
        np.testing.assert_array_equal(image, picture)
