#!/usr/bin/env bash
# Into a uint8 HDF5 data set an array of -1 goes as 0, and the same number by itself as 255
# h5py 3.16.0 (HDF5 2.0.0), numpy 2.4.6, Python 3.11
#
# Values that do not fit the type of an HDF5 data set are converted by whoever is asked: numpy's arrays by
# HDF5, which clips, numpy's scalars by numpy, which wraps round, lists of Python numbers by numpy, which
# refuses them. So a loop over `set[i] = labels[i]` and a single `set[:] = labels` write different files of
# the same labels, both without an error or a warning.
#
# Printed: what int16 labels -1, 0, 255, 256, 300 become in a data set of uint8.
# Output seen:
#   create_dataset(data=labels, dtype="uint8"): [0, 0, 255, 255, 255]
#   set[:] = labels: [0, 0, 255, 255, 255]
#   set[i] = labels[i:i + 1]: [0, 0, 255, 255, 255]
#   set[i] = labels[i]: [255, 0, 255, 0, 44]
#   labels.astype("uint8"): [255, 0, 255, 0, 44]
#   set[:] = labels.tolist(): OverflowError
# What follows: -1, which says that an image has no label, becomes the first class when labels are written at
# once, so that unlabelled images train it. Check the range before writing, or convert by numpy and look.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check h5py==3.16.0 numpy==2.4.6
cat > "$tmp/check.py" <<'PY'
import sys
import warnings

import h5py
import numpy as np

warnings.simplefilter("error")
labels = np.array([-1, 0, 255, 256, 300], np.int16)
found = {}
with h5py.File(sys.argv[1], "w") as file:

    def empty(name):
        return file.create_dataset(name, labels.shape, "uint8")

    made = file.create_dataset("data", data=labels, dtype="uint8")
    found['create_dataset(data=labels, dtype="uint8")'] = made[:].tolist()
    made = empty("at once")
    made[:] = labels
    found["set[:] = labels"] = made[:].tolist()
    made = empty("arrays of one")
    for i in range(len(labels)):
        made[i] = labels[i : i + 1]
    found["set[i] = labels[i:i + 1]"] = made[:].tolist()
    made = empty("scalars")
    for i in range(len(labels)):
        made[i] = labels[i]
    found["set[i] = labels[i]"] = made[:].tolist()
    found['labels.astype("uint8")'] = labels.astype("uint8").tolist()
    made = empty("list")
    try:
        made[:] = labels.tolist()
        found["set[:] = labels.tolist()"] = made[:].tolist()
    except OverflowError as error:
        found["set[:] = labels.tolist()"] = type(error).__name__
for how, values in found.items():
    print(f"{how}: {values}")
clipped, wrapped = [0, 0, 255, 255, 255], [255, 0, 255, 0, 44]
if list(found.values())[:3] != [clipped] * 3:
    sys.exit("changed: arrays are no longer clipped")
if found["set[i] = labels[i]"] != wrapped:
    sys.exit("changed: scalars no longer wrap round")
print("as described")
PY
"$tmp/venv/bin/python" "$tmp/check.py" "$tmp/set.h5"
