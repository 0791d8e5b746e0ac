#!/usr/bin/env bash
# Lossless compression of a DICOM colour image in planes scrambles it; interleaved, it keeps every pixel
# pydicom 3.0.2, numpy 2.4.6, Python 3.11
#
# A DICOM image of colours is interleaved (PlanarConfiguration 0) or in planes (1), as ultrasound often is;
# pydicom reads either. Dataset.compress(RLELossless) compresses an image in place. It takes the bytes as
# interleaved whatever PlanarConfiguration says: of planes it makes a valid RLE file of the right size whose
# colours and places are mixed up, without an error or a warning. The uncompressed pixels are gone from the
# data set then.
#
# Printed: pixels that differ between an image (RGB of 8 bits, random, 16x16) and what pydicom reads.
# Output seen:
#   interleaved: 0 of 256 differ before, 0 after
#   in planes: 0 of 256 differ before, above 200 after
#   in planes, compressed from pixel_array: 0 of 256 differ before, 0 after
# What follows: where PlanarConfiguration is 1, pass the pixels: file.compress(RLELossless, file.pixel_array),
# with PlanarConfiguration set to 0 before; and compare pixel_array before and after.
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
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, SecondaryCaptureImageStorage

SHOWN = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype("u1")


def image(planar):
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.PhotometricInterpretation, file.SamplesPerPixel = "RGB", 3
    file.PlanarConfiguration, file.PixelRepresentation = planar, 0
    file.Rows, file.Columns = SHOWN.shape[:2]
    file.BitsAllocated, file.BitsStored, file.HighBit = 8, 8, 7
    file.PixelData = (SHOWN.transpose(2, 0, 1) if planar else SHOWN).tobytes()
    return again(file)


def again(file):
    """Written and read."""
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, file, enforce_file_format=True)
    return pydicom.dcmread(io.BytesIO(stream.getvalue()))


def different(file):
    return int((file.pixel_array != SHOWN).any(-1).sum())


found = {}
for name in ("interleaved", "in planes", "in planes, compressed from pixel_array"):
    file = image(planar=int(name != "interleaved"))
    before = different(file)
    if "pixel_array" in name:
        pixels = file.pixel_array
        file.PlanarConfiguration = 0
        file.compress(RLELossless, pixels)
    else:
        file.compress(RLELossless)
    found[name] = before, different(again(file))
    after = "above 200" if found[name][1] > 200 else found[name][1]
    print(f"{name}: {before} of 256 differ before, {after} after")
scrambled = found.pop("in planes")
if scrambled[0] or any(max(counts) for counts in found.values()):
    sys.exit("changed: one of the other ways is no longer right")
if scrambled[1] <= 200:
    sys.exit("changed: what is in planes is no longer scrambled")
print("as described")
PY
"$tmp/venv/bin/python" "$tmp/check.py"
