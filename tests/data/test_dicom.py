"""DICOM by pydicom against the numbers that were written."""

import io
import sys

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom import encaps, uid
from pydicom.dataset import Dataset, FileMetaDataset

from tada_jax.data import images
from tests.data.pictures import decode, error, load, noise, reason, write, write_zip

RNG = np.random.default_rng(0)


def dicom(
    values, colours="MONOCHROME2", bits=None, syntax=uid.ExplicitVRLittleEndian, packed=None, **tags
):
    """A file of values [H,W], [H,W,3], or frames [N,H,W] where there are so many, or of `packed`
    frames of the syntax."""
    colour = values.shape[-1] == 3 and colours not in ("MONOCHROME1", "MONOCHROME2")
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = syntax
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = uid.CTImageStorage
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.Rows, file.Columns = values.shape[-3:-1] if colour else values.shape[-2:]
    file.SamplesPerPixel = 3 if colour else 1
    if colour:
        file.PlanarConfiguration = 0
    file.BitsAllocated = 8 * values.itemsize
    file.BitsStored = bits or file.BitsAllocated
    file.HighBit = file.BitsStored - 1
    file.PixelRepresentation = int(values.dtype.kind == "i")
    file.PhotometricInterpretation = colours
    if values.ndim > (3 if colour else 2):
        file.NumberOfFrames = len(values)
    order = "<" if syntax != uid.ExplicitVRBigEndian else ">"
    content = values.astype(values.dtype.newbyteorder(order)).tobytes()
    file.PixelData = (
        encaps.encapsulate(packed) if packed else content.ljust(-(-len(content) // 2) * 2)
    )
    file["PixelData"].VR = "OW" if file.BitsAllocated > 8 else "OB"
    file["PixelData"].is_undefined_length = bool(packed)
    for name, value in tags.items():
        setattr(file, name, value)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, file, enforce_file_format=True)
    return stream.getvalue()


def read(tmp_path, *contents, **options):
    """The images of a set of such files, [N,H,W,C]."""
    for n, content in enumerate(contents):
        write(tmp_path / "set", {f"{n}.dcm": content})
    found = load(tmp_path / "set", fit="keep", **options)
    return np.asarray(found.train.images), found.source


def without(content, name):
    """The same file without an element."""
    file = pydicom.dcmread(io.BytesIO(content))
    del file[name]
    stream = io.BytesIO()
    file.save_as(stream)
    return stream.getvalue()


def from_end_to_end(values):
    values = np.asarray(values, float)
    return np.rint((values - values.min()) * 255 / (values.max() - values.min()))


@pytest.mark.parametrize(
    "syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian]
)
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_12_bits_in_16_of_either_kind_of_grey(tmp_path, syntax, white_is_zero):
    values = RNG.integers(0, 4096, (5, 6)).astype(np.uint16)
    values[0, :2] = 0, 4095
    kind = "MONOCHROME1" if white_is_zero else "MONOCHROME2"
    content = dicom(values, kind, bits=12, syntax=syntax)
    header = images.inspect(content)
    assert header.grey and header.dtype == "uint16" and header.mode == f"DICOM {kind}"
    expected = np.rint(values / 4095 * 255)
    expected = 255 - expected if white_is_zero else expected
    for asked in ("auto", "full", "0:4095"):
        found, source = read(tmp_path, content, range=asked)
        np.testing.assert_array_equal(found[0, ..., 0], expected)
    assert "data.range=0:4095" in source


def test_dark_scans_fill_the_range_of_the_set(tmp_path):
    values = RNG.integers(0, 700, (2, 5, 6)).astype(np.uint16)
    values[:, 0, 0] = 0, 700
    found, source = read(tmp_path, *(dicom(each, bits=16) for each in values))
    np.testing.assert_array_equal(found[..., 0], np.rint(values * (255 / 1023)))
    assert "values of uint16 from 0 to 700" in source
    assert read(tmp_path, range="full")[0].max() == 3


def test_hounsfield_units_whatever_they_are_stored_as(tmp_path):
    units = RNG.integers(-1000, 1500, (3, 5, 6))
    units[0, 0, 0], units[1, 0, 0] = -1000, 1500
    scans = [
        dicom(units[0].astype(np.int16), RescaleSlope=1, RescaleIntercept=0),
        dicom((units[1] + 1024).astype(np.uint16), bits=12, RescaleSlope=1, RescaleIntercept=-1024),
        dicom(units[2].astype(np.int16)),
    ]
    found, source = read(tmp_path, *scans)
    np.testing.assert_array_equal(found[..., 0], from_end_to_end(units))
    assert "values of float64 from -1,000 to 1,500: -1,000 is black" in source
    soft, _ = read(tmp_path, range="-160:240")
    expected = np.rint((units.clip(-160, 240) + 160) * 255 / 400)
    np.testing.assert_array_equal(soft[..., 0], expected)
    whole = images.decode(scans[1], resolution=5, channels=1, fit="keep")  # -1,024 .. 3,071
    np.testing.assert_array_equal(whole[..., 0], np.rint((units[1] + 1024) * 255 / 4095))


def test_the_sign_is_the_highest_stored_bit_and_slopes_are_fractions(tmp_path):
    units = np.array([[-2048, -1], [0, 2047]])
    content = dicom((units & 0xFFF).astype(np.uint16), bits=12, PixelRepresentation=1)
    np.testing.assert_array_equal(read(tmp_path, content)[0][0, ..., 0], from_end_to_end(units))
    values = np.array([[0, 1000], [3000, 4000]], np.uint16)
    content = dicom(values, RescaleSlope="0.25", RescaleIntercept="-7.5")
    assert images.extremes(content) == (-7.5, 992.5)


def test_frames_are_pages_and_may_be_rescaled_each(tmp_path):
    values = RNG.integers(0, 200, (4, 5, 6)).astype(np.uint16)
    groups = []
    for n in range(4):
        scale, group = Dataset(), Dataset()
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = n + 1, -10 * n, "US"
        group.PixelValueTransformationSequence = [scale]
        groups.append(group)
    content = dicom(values, PerFrameFunctionalGroupsSequence=groups)
    assert images.inspect(content).pages == (0, 1, 2, 3)
    truth = np.stack([values[n].astype(float) * (n + 1) - 10 * n for n in range(4)])
    for n in range(4):
        assert images.extremes(content, n) == (truth[n].min(), truth[n].max())
    found, source = read(tmp_path, content, pages="all")
    np.testing.assert_array_equal(found[..., 0], from_end_to_end(truth))
    assert "1 of 1 files have pages or frames, 4 in all: each is an image" in source


def table(entries, first, values):
    found = Dataset()
    found.LUTDescriptor, found.ModalityLUTType = [entries, first, 16], "US"
    found.add_new("LUTData", "OW", np.asarray(values, "<u2").tobytes())
    return found


def test_the_table_of_a_modality():
    values = np.array([[0, 5, 10, 200]], np.uint8)
    content = dicom(values, ModalityLUTSequence=[table(6, 5, [7, 0, 0, 0, 0, 60_000])])
    assert images.inspect(content).dtype == "float64" and images.extremes(content) == (7, 60_000)
    found = images.decode(content, resolution=1, channels=1, fit="keep")
    np.testing.assert_array_equal(found[0, :, 0], np.rint(np.array([7, 7, 6e4, 6e4]) / 257))


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_colours_interleaved_and_in_planes(planar, bits):
    values = RNG.integers(0, 2**bits, (5, 6, 3)).astype(np.uint8 if bits == 8 else np.uint16)
    content = dicom(values, "RGB", bits=bits)
    if planar:
        content = dicom(
            values,
            *("RGB", bits),
            PlanarConfiguration=1,
            PixelData=values.transpose(2, 0, 1).tobytes(),
        )
    assert not images.inspect(content).grey
    np.testing.assert_array_equal(decode(content), np.rint(values / (2**bits - 1) * 255))


def test_luma_and_chroma_become_colours():
    primaries = np.array([[[76, 85, 255], [150, 44, 21]], [[29, 255, 107], [255, 128, 128]]])
    found = decode(dicom(primaries.astype(np.uint8), "YBR_FULL"))
    expected = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]]
    np.testing.assert_allclose(found.astype(int), expected, atol=2)


def palette(colours, first=0, bits=16):
    """The tags of a palette of colours [n,3] of 8 bits."""
    tags = {}
    for n, name in enumerate(("Red", "Green", "Blue")):
        entries = colours[:, n].astype("<u2") * 257 if bits == 16 else colours[:, n]
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [len(colours), first, bits]
        tags[f"{name}PaletteColorLookupTableData"] = entries.tobytes()
    return tags


@pytest.mark.parametrize("bits", [8, 16])
def test_palettes(bits):
    colours = RNG.integers(0, 256, (64, 3)).astype(np.uint8)
    values = RNG.integers(0, 80, (6, 6)).astype(np.uint8)
    content = dicom(values, "PALETTE COLOR", **palette(colours, 4, bits))
    expected = colours[(values.astype(int) - 4).clip(0, 63)]
    np.testing.assert_array_equal(decode(content), expected)


def test_palettes_of_which_pydicom_makes_other_colours_are_refused():
    colours = RNG.integers(0, 256, (512, 3)).astype(np.uint8)
    values = np.array([[3, 300]], np.uint16)
    deep = decode(dicom(values, "PALETTE COLOR", **palette(colours)))
    np.testing.assert_array_equal(deep, colours[values])
    content = dicom(values, "PALETTE COLOR", **palette(colours, bits=8))
    assert "whose palette of 8 bits has more than 256 colours" in reason(content)
    big = dicom(values, "PALETTE COLOR", syntax=uid.ExplicitVRBigEndian, **palette(colours))
    assert "is a big-endian DICOM image with a palette" in reason(big)


def test_masks_of_a_bit():
    bits = np.array([[1, 0, 0, 1, 1, 0, 1, 0]], np.uint8)
    packed = np.packbits(bits, bitorder="little").tobytes()
    content = dicom(bits, BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=packed + b"\0")
    np.testing.assert_array_equal(decode(content, channels=1)[..., 0], bits * 255)


def test_floats():
    values = RNG.random((4, 6)).astype(np.float32)
    file = pydicom.dcmread(io.BytesIO(dicom(values)))
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        del file[name]
    file.FloatPixelData = values.tobytes()
    stream = io.BytesIO()
    file.save_as(stream)
    content = stream.getvalue()
    assert images.extremes(content) == (values.min(), values.max())
    np.testing.assert_array_equal(decode(content, channels=1)[..., 0], np.rint(values * 255))


DEEP = RNG.integers(0, 4096, (16, 16)).astype(np.uint16)
COLOURS = noise(16, 16)


def packings():
    """Yields (name, values, syntax, a frame that is packed, tags)."""
    bits = {"bits": 12}
    lossless = imagecodecs.jpeg8_encode(DEEP, lossless=True, bitspersample=12, predictor=1)
    yield "JPEG Lossless", DEEP, uid.JPEGLosslessSV1, lossless, bits
    colours = imagecodecs.jpeg8_encode(COLOURS, lossless=True, predictor=4)
    yield "JPEG Lossless RGB", COLOURS, uid.JPEGLossless, colours, {"colours": "RGB"}
    ramp = np.broadcast_to(np.arange(0, 4096, 256, dtype=np.uint16), (16, 16)).copy()
    packed = imagecodecs.jpeg8_encode(ramp, level=100, bitspersample=12)
    yield "JPEG Extended", ramp, uid.JPEGExtended12Bit, packed, bits
    yield "JPEG-LS", DEEP, uid.JPEGLSLossless, imagecodecs.jpegls_encode(DEEP), bits
    colours = imagecodecs.jpegls_encode(COLOURS)
    yield "JPEG-LS RGB", COLOURS, uid.JPEGLSLossless, colours, {"colours": "RGB"}
    j2k = {"level": 0, "reversible": True, "mct": False, "codecformat": "j2k"}
    grey = imagecodecs.jpeg2k_encode(DEEP, bitspersample=12, **j2k)
    yield "JPEG 2000", DEEP, uid.JPEG2000Lossless, grey, bits
    three = np.stack([DEEP, DEEP[::-1], DEEP.T], -1)
    packed = imagecodecs.jpeg2k_encode(three, bitspersample=12, **j2k)
    yield "JPEG 2000 RGB", three, uid.JPEG2000Lossless, packed, {"colours": "RGB", **bits}
    colours = imagecodecs.jpeg2k_encode(COLOURS, **j2k | {"mct": True})
    yield "JPEG 2000 RCT", COLOURS, uid.JPEG2000Lossless, colours, {"colours": "YBR_RCT"}
    packed = imagecodecs.htj2k_encode(DEEP)
    yield "HTJ2K", DEEP, uid.HTJ2KLossless, packed, {}


@pytest.mark.parametrize("case", list(packings()), ids=lambda case: case[0])
def test_packed_frames(case):
    _, values, syntax, frame, tags = case
    content = dicom(values, syntax=syntax, packed=[frame], **tags)
    lowest, highest = images.extremes(content)
    assert (lowest, highest) == (values.min(), values.max())
    white = 4095 if "bits" in tags else np.iinfo(values.dtype).max
    channels = 3 if values.ndim == 3 else 1
    found = decode(content, channels=channels)
    np.testing.assert_array_equal(found, np.rint(values.reshape(16, 16, -1) / white * 255))


def test_run_lengths_and_baseline_jpeg(tmp_path):
    frames = np.stack([DEEP, DEEP.T])
    file = pydicom.dcmread(io.BytesIO(dicom(frames, bits=12)))
    file.compress(uid.RLELossless)
    stream = io.BytesIO()
    file.save_as(stream)
    for n, frame in enumerate(frames):
        found = images.decode(stream.getvalue(), resolution=16, channels=1, page=n)
        np.testing.assert_array_equal(found[..., 0], np.rint(frame / 4095 * 255))
    flat = np.broadcast_to(np.array([200, 100, 50], np.uint8), (16, 16, 3)).copy()
    frame = imagecodecs.jpeg8_encode(flat, level=98)
    content = dicom(flat, "YBR_FULL_422", syntax=uid.JPEGBaseline8Bit, packed=[frame])
    np.testing.assert_allclose(decode(content).astype(int), flat, atol=3)


def test_signed_lossless_jpeg():
    units = np.array([[-2048, -1], [0, 2047]])
    stored = (units & 0xFFF).astype(np.uint16)
    frame = imagecodecs.jpeg8_encode(stored, lossless=True, bitspersample=12, predictor=1)
    content = dicom(
        stored, bits=12, syntax=uid.JPEGLosslessSV1, packed=[frame], PixelRepresentation=1
    )
    np.testing.assert_array_equal(decode(content, channels=1)[..., 0], from_end_to_end(units))


def test_what_is_not_read_is_named(monkeypatch):
    grey = noise(4, 4, 1)
    film = dicom(grey, syntax=uid.MPEG2MPML, packed=[b"\0\0"])
    assert "compressed by MPEG2 Main Profile / Main Level, which is not read" in reason(film)
    deep = dicom(np.zeros((4, 4, 3), np.uint16), "RGB", 12, uid.JPEGExtended12Bit, [b"\0\0"])
    assert "compressed by JPEG Extended (Process 2 and 4), which is not read" in reason(deep)
    assert "of colours called HSV" in reason(dicom(noise(4, 4), "HSV"))
    assert "4 bits are not the lowest" in reason(dicom(grey, bits=4, HighBit=7))
    assert "says that it has 999,999 frames" in reason(dicom(grey, NumberOfFrames=999_999))
    assert "pixels, more than" in reason(dicom(grey, Rows=65_535, Columns=65_535))
    assert "does not give its Columns" in reason(without(dicom(grey), "Columns"))
    assert (
        reason(without(dicom(grey), "PixelData"))
        == "is a DICOM file without an image (CT Image Storage)"
    )
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    lossless = dicom(grey, syntax=uid.JPEGLosslessSV1, packed=[b"\0\0"])
    assert "needs imagecodecs: pip install 'tada-jax[formats]'" in reason(lossless)


def test_cut_files_are_named(tmp_path):
    content = dicom(noise(40, 40, 1))
    for length in (132, 200, len(content) - 800, len(content) - 2):
        assert reason(content[:length])
    write(tmp_path / "set", {"a.dcm": content, "b.dcm": content[:-800]})
    assert "1 of 2 images cannot be read: b.dcm: " in error(tmp_path / "set")


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch):
    write(tmp_path / "set", {"a.dcm": dicom(noise(4, 4, 1))})
    monkeypatch.setitem(sys.modules, "pydicom", None)
    message = error(tmp_path / "set")
    assert "a.dcm: is read by pydicom, which is not installed: pip install 'tada-jax[" in message


@pytest.mark.parametrize("packed", [False, True])
def test_files_without_an_ending_are_told_by_their_content(tmp_path, packed):
    scan = dicom(noise(4, 4, 1))
    files = {"a/IM1": scan, "b/1.2.840.5": scan, "b/c.IMA": scan, "DICOMDIR": scan, "LICENSE": b"x"}
    path = write_zip(tmp_path / "a.zip", files) if packed else write(tmp_path / "set", files)
    found = load(path)
    assert len(found.train.images) == 3 and found.class_names == ("a", "b")
    assert found.reading.other_files == "no ending 2"
