#!/usr/bin/env bash
# An uncompressed 16-bit colour TIFF in planes opens as noise; compressed, the same pixels are right
# pillow 13.0.0, tifffile 2026.3.3, numpy 2.4.6, Python 3.11
#
# TIFF may keep channels interleaved or in one plane each (PlanarConfiguration 2), as programs write that
# hold images as [3,H,W]. Pillow reads planes of 8 bits, and compressed planes of 16 bits, as they are. Of
# uncompressed planes of 16 bits it makes a picture of the right size with other pixels, without an error or
# a warning.
#
# Printed: largest difference from the written pixels (16 bits shifted to 8), random colours of 8x9.
# Output seen:
#   8 bits, planes: 0
#   16 bits, interleaved: 0
#   16 bits, planes, deflated: 0
#   16 bits, planes: above 200
# What follows: a data set of microscopy or satellite pictures read by Pillow can be noise from end to
# end. Read such files with tifffile, or save them interleaved.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 tifffile==2026.3.3 \
    numpy==2.4.6
cat > "$tmp/check.py" <<'PY'
import io
import sys

import numpy as np
import tifffile
from PIL import Image


def difference(bits, planar, compression=None):
    values = np.random.default_rng(0).integers(0, 2**bits, (3, 8, 9)).astype(f"u{bits // 8}")
    written = values.transpose(1, 2, 0)
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        values if planar == "separate" else np.ascontiguousarray(written),
        photometric="rgb",
        planarconfig=planar,
        compression=compression,
    )
    assert (tifffile.imread(io.BytesIO(file.getvalue())).ravel() != 0).any()
    read = np.asarray(Image.open(file)).astype(int)
    return int(np.abs(read - (written >> (bits - 8)).astype(int)).max())


cases = {
    "8 bits, planes": (8, "separate"),
    "16 bits, interleaved": (16, "contig"),
    "16 bits, planes, deflated": (16, "separate", "zlib"),
    "16 bits, planes": (16, "separate"),
}
found = {name: difference(*case) for name, case in cases.items()}
for name, largest in found.items():
    print(f"{name}: {largest if largest < 200 else 'above 200'}")
wrong = found.pop("16 bits, planes")
if any(largest > 1 for largest in found.values()):
    sys.exit("changed: one of the other kinds is no longer right")
if wrong < 200:
    sys.exit("changed: uncompressed planes of 16 bits are no longer noise")
print("as described")
PY
"$tmp/venv/bin/python" "$tmp/check.py"
