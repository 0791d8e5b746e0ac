#!/usr/bin/env bash
# A 16-bit image that tifffile writes as lossless JPEG is a file of 12 bits, which others read with 12
# tifffile 2026.3.3, imagecodecs 2026.3.6, pillow 13.0.0, numpy 2.4.6, Python 3.11
#
# imwrite documents that bitspersample is by default the number of bits of the data's type. For
# compression "jpeg" it is 12 where the type is uint16, also with lossless=True, for which JPEG knows 16.
# Neither the range of the values is looked at nor is there an error or a warning. The same library reads all
# 16 bits back, since its decoder goes beyond what the file states, so that a check by writing and reading
# passes. Other readers keep the lowest 12 bits, as the file says.
#
# Printed: BitsPerSample, and how many of 256 pixels differ from those written (random, 0 .. 65,535).
# Output seen:
#   by default: 12 bits; tifffile: 0 differ; pillow: above 200 differ, all alike in the lowest 12 bits
#   bitspersample 16 among compressionargs: 16 bits; tifffile: 0 differ
#   zlib: 16 bits; tifffile: 0 differ; pillow: 0 differ
# What follows: pass compressionargs={"lossless": True, "bitspersample": 16}, or use another compression;
# of files at hand, read those whose BitsPerSample is 12 with tifffile and look for values above 4,095.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check tifffile==2026.3.3 \
    imagecodecs==2026.3.6 pillow==13.0.0 numpy==2.4.6
cat > "$tmp/check.py" <<'PY'
import io
import sys

import numpy as np
import tifffile
from PIL import Image

values = np.random.default_rng(0).integers(0, 2**16, (16, 16)).astype("u2")


def written(compression, **arguments):
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        values,
        photometric="minisblack",
        compression=compression,
        compressionargs=arguments,
    )
    with tifffile.TiffFile(io.BytesIO(file.getvalue())) as tiff:
        page = tiff.pages[0]
        return file, page.bitspersample, int((page.asarray() != values).sum())


file, bits, lost = written("jpeg", lossless=True)
found = np.asarray(Image.open(file))
others = int((found != values).sum())
alike = bool((found == values & 4095).all())
shown = f"{'above 200' if others > 200 else others} differ, {'all' if alike else 'not'} alike"
print(f"by default: {bits} bits; tifffile: {lost} differ; pillow: {shown} in the lowest 12 bits")
_, asked, kept = written("jpeg", lossless=True, bitspersample=16)
print(f"bitspersample 16 among compressionargs: {asked} bits; tifffile: {kept} differ")
file, plain, same = written("zlib")
right = int((np.asarray(Image.open(file)) != values).sum())
print(f"zlib: {plain} bits; tifffile: {same} differ; pillow: {right} differ")
if (asked, kept, plain, same, right) != (16, 0, 16, 0, 0):
    sys.exit("changed: one of the other ways is no longer right")
if bits != 12 or lost or others <= 200 or not alike:
    sys.exit("changed: lossless JPEG of 16 bits is no longer a file of 12 that only tifffile reads")
print("as described")
PY
"$tmp/venv/bin/python" "$tmp/check.py"
