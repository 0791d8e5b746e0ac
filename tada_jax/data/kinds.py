"""What a file is that Pillow cannot read as an image: a word that says what to do about it."""

import io

from PIL import TiffImagePlugin

from tada_jax.data import extras

# First bytes, and what they are of.
_BEGINNINGS = (
    (b"version https://git-lfs", "is a pointer of git-lfs and not the file: run git lfs pull"),
    (b"%PDF", "is a PDF: save its pictures as PNG"),
    (b"8BPS", "is a Photoshop document: export it as PNG"),
    (b"\x76\x2f\x31\x01", "is an OpenEXR image: save it as TIFF"),
    (b"\x93NUMPY", "is an array of numpy: give it as data.path=FILE.npy"),
    (b"\x89HDF", "is an HDF5 file"),
    (b"\xff\x0a", "is JPEG XL: save it as PNG"),
    (b"\x00\x00\x00\x0cJXL ", "is JPEG XL: save it as PNG"),
    (b"SIMPLE  =", "is a FITS image: save it as TIFF"),
    (b"PK\x03\x04", "is a zip: unpack it, or give it as data.path"),
    (b"\x1f\x8b", "is compressed by gzip: unpack it"),
    (b"RIFF", "is no WebP that can be read: a sound, a video, or damaged"),
)
_TEXTS = (
    (b"<svg", "is an SVG, a drawing without pixels: render it as PNG"),
    (b"<html", "is a web page, as a download that failed leaves: fetch it again"),
    (b"<!doctype html", "is a web page, as a download that failed leaves: fetch it again"),
    (b"<?xml", "is XML and no image: fetch it again"),
)
_HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1", b"heim", b"heis")


_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\xff\x4f\xff\x51")


def is_image(beginning: bytes) -> bool:
    """Whether a file of these first 12 bytes or more is an image of a kind that is read."""
    inside = beginning[4:8]
    if inside == b"ftyp":
        return beginning[8:12] in (b"avif", b"avis")
    return (
        beginning.startswith(_IMAGES)
        or (beginning[:4] == b"RIFF" and beginning[8:12] == b"WEBP")
        or (beginning[:1] == b"P" and beginning[1:2] in b"123456" and beginning[2:3].isspace())
        or inside == b"jP  "
    )


def reason(content: bytes) -> str:
    """Why a file cannot be read, as the end of a sentence that begins with its name."""
    for beginning, words in _BEGINNINGS:
        if content.startswith(beginning):
            return words
    if content[4:8] == b"ftyp" and content[8:12] in _HEIF:
        return "is HEIC, a phone's format, whatever its name ends in: convert it to JPEG or PNG"
    head = content[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginning, words in _TEXTS:
        if head.startswith(beginning) or (beginning == b"<svg" and b"<svg" in head):
            return words
    if content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _of_tiff(content)
    if not content.strip(b"\0"):
        return "holds zeros alone, as a copy that failed leaves: fetch it again"
    return f"is no image of a known kind, or is damaged (begins with {content[:4].hex(' ')})"


def _of_tiff(content: bytes) -> str:
    try:
        file = io.BytesIO(content)
        tags = TiffImagePlugin.ImageFileDirectory_v2(content[: 16 if content[2] == 43 else 8])
        file.seek(tags.next)
        tags.load(file)
        if not {256, 257} <= set(tags):  # its size
            return "is a TIFF that is damaged or cut short"
        bits, formats = tags.get(258, (1,)), tags.get(339, (1,))
        kinds = {1: "unsigned", 2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
        what = f"{tags.get(277, 1)} {kinds.get(formats[0], 'unknown')} channels of {bits[0]} bits"
        packed = TiffImagePlugin.COMPRESSION_INFO.get(tags.get(259, 1), tags.get(259, 1))
    except Exception:  # a damaged one raises almost anything
        return "is a TIFF that is damaged or cut short"
    remedy = f"save it as PNG{extras.otherwise('tifffile', 'imagecodecs')}"
    return f"is a TIFF of {what}, compression {packed}, which is not read: {remedy}"
