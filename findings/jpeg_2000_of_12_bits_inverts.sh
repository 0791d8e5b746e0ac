#!/usr/bin/env bash
# JPEG 2000 of 12 or 16 bits: grey comes out right, colours come out with white as black
# pillow 13.0.0, imagecodecs 2026.3.6, numpy 2.4.6, Python 3.11
#
# A JPEG 2000 may hold more than 8 bits a channel. Pillow opens a grey one as 16 bits and scales it
# rightly. One of several channels it opens as RGB of 8 bits, and what it makes of the numbers is no scaled
# version of them: the largest value, white, becomes 0. There is no error and no warning.
#
# Printed: what a white pixel becomes, of a lossless file.
# Output seen:
#   1 channels of 8 bits: 255 of 255
#   1 channels of 12 bits: 65520 of 65535
#   3 channels of 8 bits: 255 of 255
#   3 channels of 12 bits: 0 of 255
#   3 channels of 16 bits: 0 of 255
# What follows: colours from such files are wrong without a word. Decode them with imagecodecs and scale
# them, or refuse them by the depths in their SIZ marker.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 \
    imagecodecs==2026.3.6 numpy==2.4.6
cat > "$tmp/check.py" <<'PY'
import io
import sys

import imagecodecs
import numpy as np
from PIL import Image


def white(channels, bits):
    shape = (16, 16, channels) if channels > 1 else (16, 16)
    values = np.random.default_rng(0).integers(0, 2**bits, shape).astype("u1" if bits == 8 else "u2")
    values[0, 0] = 2**bits - 1
    content = imagecodecs.jpeg2k_encode(values, level=0, bitspersample=bits, reversible=True, mct=False)
    assert (imagecodecs.jpeg2k_decode(content) == values).all()
    image = Image.open(io.BytesIO(content))
    return int(np.asarray(image)[0, 0].max()), 65535 if image.mode.startswith("I;16") else 255


found = {case: white(*case) for case in ((1, 8), (1, 12), (3, 8), (3, 12), (3, 16))}
for (channels, bits), (value, most) in found.items():
    print(f"{channels} channels of {bits} bits: {value} of {most}")
if any(found[case][0] < 0.99 * found[case][1] for case in ((1, 8), (1, 12), (3, 8))):
    sys.exit("changed: white is no longer white in the other kinds")
if any(found[case][0] for case in ((3, 12), (3, 16))):
    sys.exit("changed: white of deep colours is no longer black")
print("as described")
PY
"$tmp/venv/bin/python" "$tmp/check.py"
