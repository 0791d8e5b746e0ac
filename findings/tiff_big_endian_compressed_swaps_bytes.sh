#!/usr/bin/env bash
# Big-endian TIFFs of signed or floating-point values: right when uncompressed, bytes swapped when compressed
# pillow 13.0.0, tifffile 2026.3.3, numpy 2.4.6, Python 3.11
#
# A TIFF says in its first two bytes in which order the bytes of a value stand, "MM" for big-endian. Pillow
# follows it for all uncompressed files, and for unsigned 16 bits compressed or not. Of int16, int32 and
# float32 it leaves the decompression to libtiff, which hands the values out in the machine's order, and then
# swaps them once more as the header says: 1 becomes 256, 16777216 or 4.6e-41. No error and no warning; a
# set of floats that becomes nearly all zeros looks like a black one.
#
# Printed: what the value 1 becomes, by type, order of bytes and compression.
# Output seen:
#   uint16   MM deflate: 1
#   int16    MM none: 1   MM deflate: 256   II deflate: 1
#   int32    MM none: 1   MM deflate: 1.67772e+07   II deflate: 1
#   float32  MM none: 1   MM deflate: 4.6006e-41   II deflate: 1
# What follows: read such files with tifffile, or refuse what has "MM", a compression and such a type.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 \
    tifffile==2026.3.3 imagecodecs==2026.3.6 numpy==2.4.6
cat > "$tmp/check.py" <<'PY'
import io
import sys

import numpy as np
import tifffile
from PIL import Image


def one(dtype, order, compression):
    values = np.ones((16, 16), dtype)
    file = io.BytesIO()
    tifffile.imwrite(file, values, byteorder=order, compression=compression)
    assert (tifffile.imread(io.BytesIO(file.getvalue())) == 1).all()
    return np.asarray(Image.open(io.BytesIO(file.getvalue()))).ravel()[0]


right, swapped = [one("uint16", ">", "zlib")], []
print(f"uint16   MM deflate: {right[0]:g}")
for dtype in ("int16", "int32", "float32"):
    plain, packed, little = (one(dtype, o, c) for o, c in ((">", None), (">", "zlib"), ("<", "zlib")))
    print(f"{dtype:8} MM none: {plain:g}   MM deflate: {packed:g}   II deflate: {little:g}")
    right += [plain, little]
    swapped += [packed == np.ones(1, dtype).byteswap()[0]]
if any(value != 1 for value in right):
    sys.exit("changed: other kinds are no longer right")
if not all(swapped):
    sys.exit("changed: the bytes are no longer swapped in all of them")
print("as described")
PY
"$tmp/venv/bin/python" "$tmp/check.py"
