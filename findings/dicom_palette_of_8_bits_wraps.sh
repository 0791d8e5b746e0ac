#!/usr/bin/env bash
# A DICOM palette of more than 256 entries of 8 bits begins anew at every 256th; of 16 bits it is right
# pydicom 3.0.2, numpy 2.4.6, Python 3.11
#
# An image of 16 bits with PhotometricInterpretation PALETTE COLOR may have a palette of up to 65,536
# entries, which are of 8 or 16 bits (PS3.3, C.7.6.3.1.5). pydicom's apply_color_lut keeps the place of a
# pixel in the palette in the type of the entries. With those of 8 bits, place 256 becomes 0, 257 becomes 1
# and so on: most colours are others, without an error or a warning.
#
# Printed: how many of all numbers get another colour than the palette says, for a palette of grey from
# black to white.
# Output seen:
#   256 entries of 8 bits: 0 of 256 wrong, the last 255
#   1024 entries of 16 bits: 0 of 1024 wrong, the last 255
#   1024 entries of 8 bits: 768 of 1024 wrong, the last 63
# What follows: where RedPaletteColorLookupTableDescriptor has 8 as its third number, look at its first;
# beyond 256, index the tables with the numbers of the image, or refuse the file.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check pydicom==3.0.2 numpy==2.4.6
cat > "$tmp/check.py" <<'PY'
import io
import sys

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_color_lut
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage


def red(bits, entries):
    """What numbers 0 .. entries - 1 become by a palette in which they are grey, 0 .. 255."""
    table = np.arange(entries) * 255 // (entries - 1)
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.PhotometricInterpretation, file.SamplesPerPixel = "PALETTE COLOR", 1
    file.Rows, file.Columns, file.PixelRepresentation = 1, entries, 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 16, 15
    data = table.astype("u1") if bits == 8 else table.astype("<u2") * 257
    for name in ("Red", "Green", "Blue"):
        setattr(file, f"{name}PaletteColorLookupTableDescriptor", [entries, 0, bits])
        setattr(file, f"{name}PaletteColorLookupTableData", data.tobytes())
    file.PixelData = np.arange(entries, dtype="<u2").tobytes()
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, file, enforce_file_format=True)
    file = pydicom.dcmread(io.BytesIO(stream.getvalue()))
    found = apply_color_lut(file.pixel_array, file)[..., 0].ravel()
    return found.astype(int) // (1 if bits == 8 else 257), table


wrong = {}
for bits, entries in ((8, 256), (16, 1024), (8, 1024)):
    found, table = red(bits, entries)
    wrong[bits, entries] = int((found != table).sum())
    of = f"{wrong[bits, entries]} of {entries} wrong, the last {found[-1]}"
    print(f"{entries} entries of {bits} bits: {of}")
if wrong[8, 256] or wrong[16, 1024]:
    sys.exit("changed: one of the other palettes is no longer right")
if wrong[8, 1024] < 700:
    sys.exit("changed: a palette of 1,024 entries of 8 bits is no longer wrong")
print("as described")
PY
"$tmp/venv/bin/python" "$tmp/check.py"
