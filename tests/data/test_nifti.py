"""NIfTI by nibabel against hand-made volumes."""

import gzip
import sys

import nibabel
import numpy as np
import pytest

from tada_jax.data import images
from tada_jax.data.rasters import nifti as reader
from tests.data.pictures import decode, error, load, noise, reason, write

RNG = np.random.default_rng(0)
# Axes from left to right, from back to front, from below to above: 5 x 4 x 3.
VOLUME = RNG.integers(-500, 1500, (5, 4, 3)).astype(np.int16)
RAS = np.eye(4)


def nifti(values, affine=RAS, kind=nibabel.Nifti1Image, scale=(1, 0), **options):
    image = kind(values, affine, **options)
    image.header.set_slope_inter(*scale)
    return image.to_bytes()


def axial(volume):
    """Slices [Z,H,W] by hand: the first row is the front, the first column the patient's right."""
    right, front = volume.shape[0] - 1, volume.shape[1] - 1
    return np.array(
        [
            [
                [volume[right - column, front - row, z] for column in range(volume.shape[0])]
                for row in range(volume.shape[1])
            ]
            for z in range(volume.shape[2])
        ]
    )


def read(tmp_path, **contents):
    for name, content in contents.items():
        write(tmp_path / "set", {f"{name}.nii": content})
    found = load(tmp_path / "set", pages="all", fit="keep")
    return np.asarray(found.train.images)[..., 0], found.source


def from_end_to_end(values):
    values = np.asarray(values, float)
    return np.rint((values - values.min()) * 255 / (values.max() - values.min()))


def test_slices_are_seen_as_radiologists_see_them(tmp_path):
    content = nifti(VOLUME)
    header = images.inspect(content)
    assert (header.height, header.width) == (4, 5) and header.pages == (0, 1, 2)
    assert header.grey and header.is_volume and header.mode == "NIfTI int16"
    found, source = read(tmp_path, a=content)
    np.testing.assert_array_equal(found, from_end_to_end(axial(VOLUME)))
    assert f"values of float64 from {VOLUME.min():,} to {VOLUME.max():,}" in source
    assert "1 of 1 files have pages or frames, 3 in all: each is an image" in source


@pytest.mark.parametrize("codes", ["LPS", "LAS", "PIR", "ASR", "SPL", "IRP"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_whichever_way_a_volume_lies_it_is_seen_the_same_way(codes, kind):
    lies = nibabel.orientations.axcodes2ornt(codes)
    turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(VOLUME, RAS)).as_reoriented(
        nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), lies)
    )
    assert "".join(nibabel.aff2axcodes(turned.affine)) == codes
    tilted = turned.affine + 0.05 * RNG.standard_normal((4, 4)) * [[1], [1], [1], [0]]
    content = nifti(np.asarray(turned.dataobj), tilted, kind)
    for page, expected in enumerate(axial(VOLUME)):
        found = images.decode(content, resolution=4, channels=1, fit="keep", page=page)
        whole = np.rint((expected.astype(float) + 2**15) * 255 / (2**16 - 1))
        np.testing.assert_array_equal(found[..., 0], whole)


def test_numbers_are_scaled_by_the_file(tmp_path):
    stored = RNG.integers(0, 4000, (5, 4, 2)).astype(np.int16)
    content = nifti(stored, scale=(0.25, -1000))
    truth = axial(stored * 0.25 - 1000)
    assert images.extremes(content, 1) == (truth[1].min(), truth[1].max())
    # One range for all of a set, whatever they are stored as.
    plain = nifti((stored * 0.25 - 1000).astype(np.float32))
    found, source = read(tmp_path, a=content, b=plain)
    np.testing.assert_array_equal(found[:2], found[2:])
    np.testing.assert_array_equal(found[:2], from_end_to_end(truth))
    assert source.count("values of") == 1
    limits = (np.array([-(2**15), 2**15 - 1]) * 0.25 - 1000).tolist()
    found = images.decode(content, resolution=4, channels=1, fit="keep")[..., 0]
    np.testing.assert_array_equal(
        found, np.rint((truth[0] - limits[0]) * 255 / (limits[1] - limits[0]))
    )


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
@pytest.mark.parametrize("order", "<>")
def test_any_type_and_order_of_bytes(tmp_path, dtype, order):
    stored = RNG.integers(0, 100, (5, 4, 2)).astype(dtype)
    stored[0, 0, 0] = 100
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(np.dtype(order + dtype))
    content = nifti(stored.astype(order + dtype), header=header)
    assert content[:2] == (b"\x5c\x01" if order == "<" else b"\0\0")
    found, _ = read(tmp_path, a=content)
    black, white = (0, 255) if dtype[0] == "u" else (stored.min(), 100)
    truth = (axial(stored).astype(float) - black) * 255 / (white - black)
    np.testing.assert_array_equal(found, np.rint(truth))


def test_volume_after_volume(tmp_path):
    values = RNG.random((5, 4, 3, 2)).astype(np.float32)
    found, _ = read(tmp_path, a=nifti(values))
    truth = np.concatenate([axial(values[..., time]) for time in range(2)])
    np.testing.assert_array_equal(found, np.rint(truth * 255.0))


def test_the_first_slice_is_not_taken_for_the_whole(tmp_path):
    write(tmp_path / "set", {"a.nii": nifti(VOLUME)})
    expected = "a.nii: is a volume of 3 slices, of which the first says little: data.pages=all"
    assert expected in error(tmp_path / "set")
    write(tmp_path / "one", {"a.nii": nifti(VOLUME[:, :, :1])})
    assert len(load(tmp_path / "one").train.images) == 1


@pytest.mark.parametrize(
    ("axis", "across", "down"),
    [(2, 0, 1), (1, 0, 2), (0, 1, 2)],
    ids=["axial", "coronal", "sagittal"],
)
def test_one_slice_is_shown_whichever_it_is(tmp_path, axis, across, down):
    shape = [5, 4, 3]
    shape[axis] = 1
    volume = RNG.random(shape).astype(np.float32)
    write(tmp_path / "set", {"a.nii": nifti(volume)})
    found = np.asarray(load(tmp_path / "set", fit="keep").train.images)[0, ..., 0]
    expected = volume.transpose(down, across, axis)[::-1, ::-1, 0]
    np.testing.assert_array_equal(found, np.rint(expected * 255.0))


def test_two_axes_are_one_slice():
    values = RNG.random((5, 4)).astype(np.float32)
    found = decode(nifti(values), channels=1)[..., 0]
    np.testing.assert_array_equal(found, np.rint(axial(values[..., None])[0] * 255.0))


@pytest.mark.parametrize("channels", [3, 4])
def test_colours(channels):
    colours = noise(5, 4, channels)
    colours[..., 3:] = 255
    stored = colours.view([(name, "u1") for name in "RGBA"[:channels]])
    content = nifti(stored)
    assert not images.inspect(content).grey
    np.testing.assert_array_equal(decode(content), colours[::-1, ::-1, :3].swapaxes(0, 1))


def test_gzip_of_one_or_more_members(tmp_path):
    content = nifti(VOLUME)
    parts = gzip.compress(content[:400]) + gzip.compress(content[400:])
    write(tmp_path / "set", {"a.nii": content, "b.nii.gz": gzip.compress(content)})
    write(tmp_path / "set", {"c.NII.GZ": parts, "notes.gz": b"", "metadata.csv": b"id,label\n"})
    with (tmp_path / "set" / "metadata.csv").open("a") as table:
        table.write("a,1\nb,2\nc,1\n")
    found = load(tmp_path / "set", pages="all")
    np.testing.assert_array_equal(found.train.images[:3], found.train.images[3:6])
    np.testing.assert_array_equal(found.train.images[:3], found.train.images[6:])
    np.testing.assert_array_equal(found.train.labels, np.repeat([0, 1, 0], 3))
    assert found.reading.other_files == ".gz 1"


def test_what_inflates_without_end_is_refused(monkeypatch):
    packed = gzip.compress(nifti(np.zeros((40, 40, 40), np.uint8)))
    monkeypatch.setattr(reader, "MAX_FILE_BYTES", 50_000)
    assert reason(packed) == "inflates to more than 50,000 bytes"


def test_a_volume_is_inflated_once_for_all_of_its_pages(monkeypatch):
    calls = []
    inflated = reader._inflated
    monkeypatch.setattr(reader, "_inflated", lambda content: calls.append(0) or inflated(content))
    content = gzip.compress(nifti(VOLUME))
    for page in images.inspect(content).pages:
        images.decode(content, resolution=4, channels=1, page=page)
    assert len(calls) == 1


def test_what_is_not_read_is_named(tmp_path, monkeypatch):
    assert "is a NIfTI of values of complex64" in reason(nifti(np.ones((4, 4), np.complex64)))
    assert "is a NIfTI of 5 axes" in reason(nifti(np.ones((4, 4, 1, 1, 3), np.float32)))
    pair = bytearray(nifti(VOLUME))
    pair[344:347] = b"ni1"
    assert "whose image lies in another file" in reason(bytes(pair))
    unknown = nifti(np.full((4, 4), np.nan, np.float32))
    assert reason(unknown, images.extremes) == "holds values that are not finite"
    assert "is compressed by gzip" in reason(gzip.compress(b"text"))
    content = nifti(VOLUME)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    write(tmp_path / "set", {"a.nii": content, "b.nii.gz": gzip.compress(content)})
    message = error(tmp_path / "set")
    assert "2 of 2" in message and "b.nii.gz: is read by nibabel, which is not installed" in message


def test_cut_and_damaged_files_are_named():
    content = nifti(VOLUME)
    for length in (0, 4, 347, 352, len(content) - 1):
        assert reason(content[:length])
    packed = gzip.compress(content)
    assert reason(packed[:-9]) == "is cut short within gzip"
    flipped = packed[:-6] + bytes([packed[-6] ^ 1]) + packed[-5:]
    assert "incorrect data check" in reason(flipped)
    singular = bytearray(nifti(VOLUME))
    for at in (280, 296, 312):  # the affine's rows
        singular[at : at + 12] = bytes(12)
    assert reason(bytes(singular))
