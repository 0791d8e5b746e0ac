"""DICOM by pydicom: what scanners and PACS write, its numbers rescaled as each file says.

Windows that a file suggests are not applied: they differ from file to file of a set. Frames that
pydicom has no decoder for are left to imagecodecs, where that has one.
"""

import io
import logging

import numpy as np

from tada_jax.data import extras
from tada_jax.data.levels import Levels
from tada_jax.data.rasters.base import Raster, Refused, check_size

ENDINGS = (".dcm", ".dicom")

_NEEDED = (
    *("PhotometricInterpretation", "SamplesPerPixel", "Rows", "Columns", "BitsAllocated"),
    "TransferSyntaxUID",
)
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_DEFLATED, _EXTENDED = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.51"
# By imagecodecs: lossless JPEG, JPEG-LS, JPEG 2000 with high throughput; pydicom's own first.
_CODECS = {
    "1.2.840.10008.1.2.4.57": "jpeg8_decode",
    "1.2.840.10008.1.2.4.70": "jpeg8_decode",
    "1.2.840.10008.1.2.4.80": "jpegls_decode",
    "1.2.840.10008.1.2.4.81": "jpegls_decode",
    "1.2.840.10008.1.2.4.201": "jpeg2k_decode",
    "1.2.840.10008.1.2.4.202": "jpeg2k_decode",
    "1.2.840.10008.1.2.4.203": "jpeg2k_decode",
}
# Those of which Pillow, which pydicom goes by, does not decode more than 8 bits.
_DEEP_CODECS = {
    _EXTENDED: "jpeg8_decode",
    "1.2.840.10008.1.2.4.90": "jpeg2k_decode",
    "1.2.840.10008.1.2.4.91": "jpeg2k_decode",
}
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def is_one(content: bytes) -> bool:
    """Whether these are the first bytes of a DICOM file."""
    return content[128:132] == b"DICM"


def read(content: bytes) -> Raster:
    """Opens a DICOM file; its pages are its frames.

    Raises:
      Refused: no pixels; kinds of colours, compressions and layouts of bits that are not read.
      Exception: almost any, of a damaged one.
    """
    pydicom = extras.library("pydicom")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # what is damaged is an error
    if _DEFLATED.encode() in content[:2048]:  # pydicom would inflate it without bound
        raise Refused("is a DICOM file that is deflated as a whole: save it uncompressed")
    file = pydicom.dcmread(io.BytesIO(content))
    place = next((name for name in _PIXELS if name in file), None)
    if place is None:
        what = getattr(file.get("SOPClassUID"), "name", "an unknown kind")
        raise Refused(f"is a DICOM file without an image ({what})")
    there = (*file.keys(), *file.file_meta.keys())
    lacking = [name for name in _NEEDED if pydicom.datadict.tag_for_keyword(name) not in there]
    if lacking:
        raise Refused(f"is a DICOM file that does not give its {lacking[0]}")
    colours, stored = file.PhotometricInterpretation, file.get("BitsStored", 32)
    signed, frames = bool(file.get("PixelRepresentation", 0)), int(file.get("NumberOfFrames") or 1)
    grey = colours in _GREY
    if not grey and colours not in (*_COLOURS, "PALETTE COLOR"):
        raise Refused(f"is a DICOM image of colours called {colours}, which are not read")
    if colours.startswith("YBR_FULL") and stored != 8:
        raise Refused(f"is a DICOM image of {colours} of {stored} bits, which is not read")
    if place == "PixelData" and file.get("HighBit", stored - 1) != stored - 1:
        raise Refused(f"is a DICOM image whose {stored} bits are not the lowest, which is not read")
    if not 0 < frames <= len(content):
        raise Refused(f"says that it has {frames:,} frames in {len(content):,} bytes")
    check_size(file.Rows, file.Columns, file.SamplesPerPixel, file.BitsAllocated // 8 or 1)
    codec = _codec(pydicom, file)

    def values(frame):
        found = _frame(pydicom, file, frame, codec)
        if colours == "PALETTE COLOR":
            return _through_palette(pydicom, file, found)
        if not grey:
            return found
        if "ModalityLUTSequence" in file:
            return _through_table(file, found)[..., None]
        slope, intercept = _rescale(file, frame)
        found = found[..., None]
        return found * slope + intercept if (slope, intercept) != (1, 0) else found

    stated, whole, profile = None, None, b""
    dtype = f"uint{max(8, file.BitsAllocated)}"
    if colours == "PALETTE COLOR":
        bits = file.RedPaletteColorLookupTableDescriptor[2]
        dtype, stated = ("uint8", None) if bits == 8 else ("uint16", Levels(0.0, 65535.0))
    elif not grey:
        stated = Levels(0.0, 2.0**stored - 1) if stored != 8 else None
        profile = bytes(file.get("ICCProfile") or b"")
    elif "ModalityLUTSequence" in file:
        dtype = "float64"
        whole = Levels(0.0, 2.0 ** file.ModalityLUTSequence[0].LUTDescriptor[2] - 1)
    elif place != "PixelData":
        dtype = "float64"
    else:
        scales = {_rescale(file, frame) for frame in range(frames)}
        if signed or scales != {(1.0, 0.0)}:
            dtype = "float64"
        low, high = (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1) if signed else (0, 2**stored - 1)
        ends = [end * slope + intercept for slope, intercept in scales for end in (low, high)]
        whole = Levels(min(ends), max(ends)) if min(ends) < max(ends) else None
    return Raster(
        *(file.Rows, file.Columns, f"DICOM {colours}", 1 if grey else 3, dtype, values),
        tuple(range(frames)),
        stated=stated,
        whole=whole,
        white_is_zero=colours == "MONOCHROME1",
        profile=profile,
    )


def _codec(pydicom, file) -> str:
    """The function of imagecodecs that decodes the frames; "" where pydicom does.

    Raises:
      Refused: if neither does.
    """
    syntax = file.file_meta.TransferSyntaxUID
    name = _CODECS.get(syntax, "")
    deep, several = file.get("BitsStored", 8) > 8, file.SamplesPerPixel > 1
    guessed = deep and several and syntax == _EXTENDED  # which colours they are
    if deep and not guessed:
        name = _DEEP_CODECS.get(syntax, name) if several or syntax == _EXTENDED else name
    if name:
        if extras.has("imagecodecs"):
            return name
        raise Refused(
            f"is a DICOM image compressed by {syntax.name}, which needs imagecodecs: "
            f"{extras.INSTALL}"
        )
    try:
        known = not guessed and pydicom.pixels.get_decoder(syntax).is_available
    except NotImplementedError:
        known = False
    if not known:
        raise Refused(
            f"is a DICOM image compressed by {syntax.name}, which is not read: save it uncompressed"
        )
    return ""


def _frame(pydicom, file, frame: int, codec: str) -> np.ndarray:
    """The numbers of a frame, [H,W] or [H,W,3] in RGB."""
    if not codec:
        return pydicom.pixels.pixel_array(file, index=frame)
    packed = pydicom.encaps.get_frame(
        file.PixelData, frame, number_of_frames=int(file.get("NumberOfFrames") or 1)
    )
    found = np.asarray(getattr(extras.library("imagecodecs"), codec)(packed))
    expected = (file.Rows, file.Columns) + (() if file.SamplesPerPixel == 1 else (3,))
    if found.shape != expected or found.dtype.itemsize * 8 != file.BitsAllocated:
        raise ValueError(f"becomes {found.shape} of {found.dtype}, not what its header says")
    if file.PixelRepresentation and found.dtype.kind == "u":  # the sign is the highest stored bit
        unused = file.BitsAllocated - file.BitsStored
        found = (found << unused).view(f"i{found.dtype.itemsize}") >> unused
    if file.PhotometricInterpretation.startswith("YBR_FULL"):
        found = pydicom.pixels.convert_color_space(found, "YBR_FULL", "RGB")
    return found


def _rescale(file, frame: int) -> tuple[float, float]:
    """(slope, intercept) of a frame, which enhanced files keep for each frame or for all."""
    groups = [file]
    if shared := file.get("SharedFunctionalGroupsSequence"):
        groups.insert(0, shared[0])
    if own := file.get("PerFrameFunctionalGroupsSequence"):
        groups.insert(0, own[frame])
    for group in groups:
        found = (group.get("PixelValueTransformationSequence") or [group])[0]
        if found.get("RescaleSlope") is not None and found.get("RescaleIntercept") is not None:
            return float(found.RescaleSlope), float(found.RescaleIntercept)
    return 1.0, 0.0


def _through_table(file, values: np.ndarray) -> np.ndarray:
    """What the table of its modality makes of the stored numbers."""
    table = file.ModalityLUTSequence[0]
    (entries, first, _), data = table.LUTDescriptor, table.LUTData
    order = "<u2" if file.original_encoding[1] else ">u2"
    data = np.frombuffer(data, order) if isinstance(data, bytes) else np.asarray(data)
    index = (values.astype(np.int64) - first).clip(0, (entries or 2**16) - 1)
    return data[index].astype(np.float64)


def _through_palette(pydicom, file, values: np.ndarray) -> np.ndarray:
    """Colours [H,W,3] of the numbers of a palette."""
    _, first, bits = file.RedPaletteColorLookupTableDescriptor
    # pydicom takes the bytes of a table as those of this machine, and keeps the place in one of 8
    # bits in 8 bits.
    if not file.original_encoding[1]:
        raise Refused("is a big-endian DICOM image with a palette: save it little-endian")
    if bits == 8 and int(values.max()) - first > 255:
        raise Refused("is a DICOM image whose palette of 8 bits has more than 256 colours")
    return pydicom.pixels.apply_color_lut(values, file)[..., :3]
