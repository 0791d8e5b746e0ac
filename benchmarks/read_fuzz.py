"""Thousands of odd but valid image files: each is read rightly or refused by name.

pip install 'tada-jax[formats]'
python -m benchmarks.read_fuzz --seed=0

TIFFs by tifffile (types x channels x planes x compression x byte order x tiles x predictor x white
is zero), JPEG 2000 by imagecodecs, DICOM by pydicom (depths x signs x kinds of colour x syntaxes x
scales), NIfTI by nibabel (types x ways to lie x scales), PNGs chunk by chunk (depths x kinds of
colour x interlacing), PNMs. Each is a data set of one file, read as a user's is, against the values
that were written.
What is wrong is printed with the line that made it; any such file makes the exit code 1.
"""

import argparse
import collections
import importlib.metadata
import itertools
import os
import pathlib
import struct
import sys
import tempfile
import zlib

import numpy as np

from tada_jax import data
from tada_jax.system.errors import UserError

SIDE = 16  # pixels: tiles of a TIFF are of 16
RNG = np.random.default_rng(0)
REFUSED = "refused"
LIBRARIES = ("pillow", "tifffile", "imagecodecs", "pydicom", "nibabel", "numpy")


def values(dtype, channels):
    """(values [S,S,C] of a type, black, white); alpha, the last of 2 or 4, is opaque."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        black, white = 0.0, 1.0
        made = RNG.random((SIDE, SIDE, channels)).astype(dtype)
    else:
        black, white = np.iinfo(dtype).min, np.iinfo(dtype).max
        made = RNG.integers(black, white, (SIDE, SIDE, channels), dtype, endpoint=True)
    made[0, 0], made[0, 1] = black, white
    if channels in (2, 4):
        made[..., -1] = white
    return made, float(black), float(white)


def expected(made, black, white, inverted=False):
    """What should be read, float [S,S,1 or 3]."""
    scaled = (made.astype(np.float64) - black) * 255 / (white - black)
    scaled = 255 - scaled if inverted else scaled
    return scaled[..., : 3 if made.shape[-1] > 2 else 1]


def tiffs(folder):
    """Yields (what, file, truth, range)."""
    import tifffile

    types = ("u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8")
    packings = (None, "zlib", "lzw", "packbits", "zstd", "lzma")
    choices = itertools.product(
        types, (1, 2, 3, 4), ("contig", "separate"), packings, "<>", (None, (16, 16)), (False, True)
    )
    for dtype, channels, planar, packing, order, tile, last in choices:
        if channels == 1 and planar == "separate":
            continue
        made, black, white = values(dtype, channels)
        stored = made[..., 0] if channels == 1 else made
        options = {"photometric": "rgb" if channels > 2 else "minisblack"}
        inverted = False
        if channels > 1:
            options["planarconfig"] = planar
            stored = stored.transpose(2, 0, 1) if planar == "separate" else stored
        if channels in (2, 4):
            options["extrasamples"] = ["unassalpha"]
        if last and packing in ("zlib", "lzw", "zstd", "lzma"):
            options["predictor"] = True
        elif last and channels == 1:
            options["photometric"], inverted = "miniswhite", True
        elif last:
            continue
        name = f"tiff {dtype} x{channels} {planar} {packing} {order} tile={tile} {options}"
        file = folder / "image.tif"
        try:
            tifffile.imwrite(
                file, stored, byteorder=order, compression=packing, tile=tile, **options
            )
        except (ValueError, NotImplementedError, TypeError, KeyError):
            continue  # the writer has no such kind
        limits = "full" if dtype in ("u1", "u2", "f2", "f4", "f8") else f"{black:.0f}:{white:.0f}"
        yield name, file, expected(made, black, white, inverted), limits


def jpegs_2000(folder):
    """The same; lossless."""
    import imagecodecs

    choices = itertools.product((8, 10, 12, 14, 16), (1, 2, 3, 4), ("j2k", "jp2"), range(4))
    for bits, channels, codec, _ in choices:
        dtype = np.uint8 if bits == 8 else np.uint16
        white = 2**bits - 1
        made = RNG.integers(0, white, (SIDE, SIDE, channels), dtype, endpoint=True)
        if channels in (2, 4):
            made[..., -1] = white
        stored = made[..., 0] if channels == 1 else made
        file = folder / f"image.{codec}"
        try:
            content = imagecodecs.jpeg2k_encode(
                stored, level=0, bitspersample=bits, reversible=True, codecformat=codec, mct=False
            )
        except Exception:  # imagecodecs has an error of its own for each codec
            continue
        file.write_bytes(content)
        yield f"{codec} {bits} bits x{channels}", file, expected(made, 0, white), "full"


def dicoms(folder):
    """The same."""
    import imagecodecs
    import pydicom
    from pydicom import encaps, uid

    j2k = {"level": 0, "reversible": True, "mct": False, "codecformat": "j2k"}
    lossless = {"lossless": True, "predictor": 1}
    packings = {
        uid.JPEG2000Lossless: lambda a, n: imagecodecs.jpeg2k_encode(a, bitspersample=n, **j2k),
        uid.JPEGLSLossless: lambda a, n: imagecodecs.jpegls_encode(a),
        uid.JPEGLosslessSV1: lambda a, n: imagecodecs.jpeg8_encode(a, bitspersample=n, **lossless),
    }
    depths = ((8, 8), (8, 5), (16, 12), (16, 16), (32, 32))
    syntaxes = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
    choices = itertools.product(
        depths,
        (False, True),
        ("MONOCHROME1", "MONOCHROME2", "RGB", "planes"),
        (*syntaxes, uid.RLELossless, *packings),
        (None, (1, -1024), (0.5, 3)),
    )
    for (allocated, stored), signed, colours, syntax, scale in choices:
        grey = colours.startswith("MONO")
        if not grey and (signed or scale or allocated == 32):
            continue  # there are none
        if syntax not in syntaxes and (colours == "planes" or allocated == 32 or signed):
            continue  # findings/dicom_rle_of_colour_in_planes.sh; and what imagecodecs has not
        black, white = (
            (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1) if signed else (0, 2**stored - 1)
        )
        made = RNG.integers(black, white, (SIDE, SIDE, 1 if grey else 3), endpoint=True)
        made[0, 0], made[0, 1] = black, white
        order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
        content = made.transpose(2, 0, 1) if colours == "planes" else made
        file = pydicom.Dataset()
        file.file_meta = pydicom.dataset.FileMetaDataset()
        plain = syntax if syntax in syntaxes else uid.ExplicitVRLittleEndian
        file.file_meta.TransferSyntaxUID = plain
        file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = uid.CTImageStorage
        file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        file.Rows = file.Columns = SIDE
        file.SamplesPerPixel, file.PixelRepresentation = made.shape[-1], int(signed)
        file.BitsAllocated, file.BitsStored, file.HighBit = allocated, stored, stored - 1
        file.PhotometricInterpretation = "RGB" if not grey else colours
        if not grey:
            file.PlanarConfiguration = int(colours == "planes")
        if scale:
            file.RescaleSlope, file.RescaleIntercept = scale
        kind = f"{order}{'i' if signed else 'u'}{allocated // 8}"
        file.PixelData = np.ascontiguousarray(content).astype(kind).tobytes()
        file["PixelData"].VR = "OW" if allocated > 8 else "OB"
        name = f"dicom {allocated}/{stored} signed={signed} {colours} {syntax.name} {scale}"
        try:
            if syntax == uid.RLELossless:
                file.compress(syntax)
            elif syntax in packings:
                pixels = made.astype(kind)[..., 0] if grey else made.astype(kind)
                file.PixelData = encaps.encapsulate([packings[syntax](pixels, stored)])
                file["PixelData"].VR, file["PixelData"].is_undefined_length = "OB", True
                file.file_meta.TransferSyntaxUID = syntax
            pydicom.dcmwrite(folder / "image.dcm", file, enforce_file_format=True)
        except (ValueError, RuntimeError):  # that of imagecodecs is one, too
            continue  # the writer has no such kind
        truth = expected(made, black, white, colours == "MONOCHROME1")
        yield name, folder / "image.dcm", truth, "full"


def niftis(folder):
    """The same; a slice that may lie any way."""
    import nibabel

    types = ("u1", "u2", "i1", "i2", "i4", "f4", "f8")
    lying = list(itertools.product((-1, 1), repeat=2))
    choices = itertools.product(types, "<>", (False, True), lying, (None, (0.5, -7)), (1, 2))
    for dtype, order, swapped, (right, front), scale, version in choices:
        made, black, white = values(dtype, 1)
        kind = (nibabel.Nifti1Image, nibabel.Nifti2Image)[version - 1]
        # Columns are seen from the patient's right to the left, rows from the front to the back.
        stored, affine = made[::front, ::right, 0], np.zeros((4, 4))
        affine[1, 0], affine[0, 1] = -front, -right
        if swapped:
            stored, affine = stored.T, affine[:, [1, 0, 2, 3]]
        affine[2, 2] = affine[3, 3] = 1
        header = kind.header_class(endianness=order)
        header.set_data_dtype(np.dtype(order + dtype))
        image = kind(stored[..., None].astype(order + dtype), affine, header)
        if scale:
            image.header.set_slope_inter(*scale)
        nibabel.save(image, folder / "image.nii.gz")
        limits = "full"
        if dtype in ("f4", "f8", "i4"):
            slope, inter = scale or (1, 0)
            limits = f"{black * slope + inter:.6f}:{white * slope + inter:.6f}"
        name = f"nifti {dtype} {order} version {version} {affine[:2, :2].tolist()} {scale}"
        yield name, folder / "image.nii.gz", expected(made, black, white), limits


def chunk(name, content):
    """One of a PNG."""
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def packed(samples, bits):
    """Rows of a PNG [h,w,c] as its filters see them, none of them filtered."""
    rows = samples.reshape(len(samples), -1)
    if bits == 16:
        rows = rows.astype(">u2").view(np.uint8)
    elif bits < 8:
        each = np.unpackbits(rows.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
        rows = np.packbits(each.reshape(len(rows), -1), axis=-1)
    return b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in rows)


ADAM7 = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)


def pngs(folder):
    """The same; kinds of colour: grey 0, RGB 2, palette 3, grey and alpha 4, RGBA 6."""
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
    for colour, interlaced, _ in itertools.product(depths, (False, True), range(20)):
        for bits in depths[colour]:
            white, count = 2**bits - 1, channels[colour]
            made = RNG.integers(0, white + 1, (SIDE, SIDE, count)).astype(np.uint16)
            made[0, 0], made[0, 1] = 0, white
            if colour in (4, 6):
                made[..., -1] = white
            truth, palette = expected(made, 0, white), b""
            if colour == 3:
                colours = RNG.integers(0, 256, (white + 1, 3), np.uint8)
                truth, palette = (
                    colours[made[..., 0]].astype(float),
                    chunk(b"PLTE", colours.tobytes()),
                )
            rows = b""
            for top, left, down, right in ADAM7 if interlaced else ((0, 0, 1, 1),):
                rows += packed(made[top::down, left::right], bits)
            header = struct.pack(">IIBBBBB", SIDE, SIDE, bits, colour, 0, 0, interlaced)
            file = folder / "image.png"
            file.write_bytes(
                b"\x89PNG\r\n\x1a\n"
                + chunk(b"IHDR", header)
                + palette
                + chunk(b"IDAT", zlib.compress(rows))
                + chunk(b"IEND", b"")
            )
            yield f"png {bits} bits colour {colour} interlaced {interlaced}", file, truth, "full"


def pnms(folder):
    """The same."""
    for white, count, _ in itertools.product(
        (1, 15, 100, 255, 1023, 4095, 65535), (1, 3), range(6)
    ):
        made = RNG.integers(0, white + 1, (SIDE, SIDE, count)).astype(np.uint16)
        made[0, 0], made[0, 1] = 0, white
        content = made.astype(">u2" if white > 255 else np.uint8).tobytes()
        file = folder / ("image.pgm" if count == 1 else "image.ppm")
        file.write_bytes(f"P{5 if count == 1 else 6} {SIDE} {SIDE} {white}\n".encode() + content)
        yield f"pnm of {white} x{count}", file, expected(made, 0, white), "full"


def read(file, truth, limits):
    """ "right", "refused: why", or what is wrong."""
    try:
        found = data.load(
            "images",
            path=str(file.parent),
            test_fraction=0.0,
            range=limits,
            channels=truth.shape[-1] if truth.shape[-1] == 3 else None,
        )
    except UserError as error:
        return f"{REFUSED}: {str(error).partition('image.')[2].partition(': ')[2][:60]}"
    image = np.asarray(found.train.images)[0].astype(float)
    if image.shape[:2] != truth.shape[:2]:
        return f"wrong: {image.shape}"
    error = np.abs(image - truth).max()
    return "right" if error <= 1.01 else f"wrong: by up to {error:.0f} of 255"


def main():
    """Counts by writer, and every wrong one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the pixels")
    RNG.bit_generator.state = np.random.default_rng(parser.parse_args().seed).bit_generator.state
    counts, wrong, why = collections.Counter(), [], collections.Counter()
    with tempfile.TemporaryDirectory() as place:
        os.environ["TADA_JAX_CACHE"] = str(pathlib.Path(place) / "cache")
        folder = pathlib.Path(place) / "set"
        folder.mkdir()
        for name, file, truth, limits in itertools.chain(
            *(kind(folder) for kind in (tiffs, jpegs_2000, dicoms, niftis, pngs, pnms))
        ):
            found = read(file, truth, limits)
            kind, outcome = name.split()[0], found.partition(":")[0]
            counts[kind, outcome] += 1
            why[found] += outcome == REFUSED
            if outcome == "wrong":
                wrong.append(f"{name}: {found}")
            file.unlink()
    for (kind, outcome), count in sorted(counts.items()):
        print(f"{kind:5} {outcome:8} {count:6,}")
    for reason, count in why.most_common(12):
        if count:
            print(f"{count:6,}  {reason}")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    print(f"{sum(counts.values()):,} files: {len(wrong):,} wrong; {versions}")
    for line in wrong[:200]:
        print(line)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
