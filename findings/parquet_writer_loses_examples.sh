#!/usr/bin/env bash
# tensorflow-datasets writes only a part of a data set when asked for Parquet, and reports all of it
# tensorflow-datasets 4.9.10, pyarrow 26.0.1, array_record 0.8.6, no TensorFlow, Python 3.11
#
# One would expect file_format="parquet" to hold the same examples as file_format="array_record".
# The writer takes examples in batches of 100 and skips, before each batch, as many as it has written
# so far: the first 100, then none of the next 100, then 100, then none of 200, ... Up to 100 examples
# all is well, which is what a small test sees. Nothing warns, and info.splits says the full number.
#
# Printed: examples yielded, the number that info gives, rows in the file. Output seen:
#   array_record: yielded  100, info  100, read  100
#   parquet:      yielded  100, info  100, read  100
#   array_record: yielded 1797, info 1797, read 1797
#   parquet:      yielded 1797, info 1797, read  500
#   array_record: yielded 3000, info 3000, read 3000
#   parquet:      yielded 3000, info 3000, read  700
#
# What follows: a model may be trained on some quarter of the images while the log prints the full number,
# and a generator that seems to copy was given fewer images than one thinks; count what is read.
# (importlib_resources is installed since the package needs it and does not declare it.)
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    tensorflow-datasets==4.9.10 importlib_resources==7.1.0 pyarrow==26.0.1 array_record==0.8.6 \
    numpy==2.4.6 pillow==13.0.0
mkdir "$tmp/code" "$tmp/data"
cat > "$tmp/code/check.py" <<'PY'
import contextlib
import io
import pathlib
import sys

import numpy as np
import pyarrow.parquet
import tensorflow_datasets as tfds
from PIL import Image


class GreyTiles(tfds.core.GeneratorBasedBuilder):
    """Random grey images of 8x8 with ten classes."""

    VERSION = tfds.core.Version("1.0.0")
    number = 0

    def _info(self):
        image = tfds.features.Image(shape=(8, 8, 1))
        features = {"image": image, "label": tfds.features.ClassLabel(num_classes=10)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        random = np.random.default_rng(0)
        for i in range(self.number):
            png = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(png, "PNG")
            png.seek(0)
            yield i, {"image": png, "label": i % 10}


for number in (100, 1797, 3000):
    GreyTiles.number = number
    read = {}
    for form in ("array_record", "parquet"):
        folder = pathlib.Path(sys.argv[1], f"{form}{number}")
        builder = GreyTiles(data_dir=folder, file_format=form)
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
        if form == "array_record":
            read[form] = len(builder.as_data_source("train"))
        else:
            files = folder.rglob("*.parquet*")
            read[form] = sum(pyarrow.parquet.read_table(f).num_rows for f in files)
        info = builder.info.splits["train"].num_examples
        print(f"{form + ':':13} yielded {number:4}, info {info:4}, read {read[form]:4}")
        if info != number:
            sys.exit(f"changed: info gives {info} of {number} examples")
    if read["array_record"] != number:
        sys.exit("changed: array_record no longer holds every example")
    if read["parquet"] != {100: 100, 1797: 500, 3000: 700}[number]:
        sys.exit(f"changed: the Parquet file holds {read['parquet']} of {number} examples")
print("as described")
PY
"$tmp/venv/bin/python" "$tmp/code/check.py" "$tmp/data" 2> "$tmp/log" || {
    status=$?
    tail -n 5 "$tmp/log"
    exit "$status"
}
