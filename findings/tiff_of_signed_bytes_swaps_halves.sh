#!/usr/bin/env bash
# Pillow: a TIFF of signed bytes opens as unsigned ones, its darker half brighter than its brighter half
# pillow 13.0.0, tifffile 2026.3.3, numpy 2.4.6, Python 3.11
#
# TIFF says in a tag of its own (SampleFormat) whether values are signed. Pillow heeds it for 16 bits, where
# -32768 stays -32768 (mode I), and for 32; of 8 bits it makes mode L and takes -1 for 255. Nothing is said,
# and a picture comes out whose greys jump in the middle: differences and centred maps, which are what signed
# bytes are used for, have their zero black and all that is below it white. It does not depend on compression.
#
# Printed: the same ramp from dark to bright as int8, int8 compressed, and int16, read by Pillow and tifffile.
# Output seen:
#   int8        Pillow: L 128 192 255 0 64 127         tifffile: -128 -64 -1 0 64 127
#   int8, zlib  Pillow: L 128 192 255 0 64 127         tifffile: -128 -64 -1 0 64 127
#   int16       Pillow: I -128 -64 -1 0 64 127         tifffile: -128 -64 -1 0 64 127
# What follows: look at SampleFormat before an 8-bit TIFF is believed, or subtract 128 modulo 256 from it.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    pillow==13.0.0 tifffile==2026.3.3 numpy==2.4.6
cat > "$tmp/check.py" <<'PY'
import io
import sys

import numpy as np
import tifffile
from PIL import Image

RAMP = np.array([[-128, -64, -1, 0, 64, 127]])
WRAPPED = [128, 192, 255, 0, 64, 127]


def read(dtype, **options):
    """Mode and values by Pillow, and values by tifffile."""
    file = io.BytesIO()
    tifffile.imwrite(file, RAMP.astype(dtype), **options)
    with Image.open(file) as image:
        mode, pillow = image.mode, np.asarray(image)[0].tolist()
    file.seek(0)
    return mode, pillow, tifffile.imread(file)[0].tolist()


found = {
    "int8": read(np.int8),
    "int8, zlib": read(np.int8, compression="zlib"),
    "int16": read(np.int16),
}
for name, (mode, pillow, other) in found.items():
    print(f"{name:11} Pillow: {mode} {' '.join(map(str, pillow)):28} tifffile:", *other)
ramp = RAMP[0].tolist()
expected = {"int8": WRAPPED, "int8, zlib": WRAPPED, "int16": ramp}
if {name: pillow for name, (_, pillow, _) in found.items()} != expected:
    sys.exit("changed: Pillow reads signed values otherwise")
if any(other != ramp for _, _, other in found.values()):
    sys.exit("changed: tifffile reads signed values otherwise")
PY
"$tmp/venv/bin/python" "$tmp/check.py"
