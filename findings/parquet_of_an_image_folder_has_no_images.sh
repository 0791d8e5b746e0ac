#!/usr/bin/env bash
# A Parquet file of an image folder that holds no image: to_parquet writes paths, save_to_disk writes pictures
# datasets 5.2.0, pillow 13.0.0, numpy 2.4.6, Python 3.11
#
# A data set that was loaded by `load_dataset("imagefolder")` shows its images, and has two ways out that look
# alike. `save_to_disk` puts the files into its tables. `to_parquet` puts null where the bytes should be and
# the absolute path of each file beside it: some bytes an image instead of all. On the machine where it was
# written it goes on working for as long as the folder stays where it is; copied elsewhere, the first image
# fails. The same call on images that were made in memory does write them.
#
# Printed: bytes of pictures in each table, of 20 PNGs of random pixels.
# Output seen:
#   folder, save_to_disk: 20 of 20 hold bytes
#   folder, to_parquet:   0 of 20 hold bytes, 20 an absolute path
#   memory, to_parquet:   20 of 20 hold bytes
#   the folder moved away: FileNotFoundError
# What follows: before a table is passed on, look whether its `bytes` are there; a reader of Parquet should say
# which file it misses.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pillow==13.0.0 numpy==2.4.6
cat > "$tmp/check.py" <<'PY'
import os
import pathlib
import sys

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

datasets.disable_progress_bars()
root = pathlib.Path(sys.argv[1])
random = np.random.default_rng(0)
(root / "pictures").mkdir()
pictures = [Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(20)]
for i, picture in enumerate(pictures):
    picture.save(root / "pictures" / f"{i}.png")


def of(table):
    rows = table["image"].to_pylist()
    whole = sum(row["bytes"] is not None for row in rows)
    return whole, sum(os.path.isabs(row["path"] or "") for row in rows)


from_folder = datasets.load_dataset("imagefolder", data_dir=str(root / "pictures"), split="train")
from_folder.save_to_disk(root / "saved")
with pa.memory_map(str(root / "saved" / "data-00000-of-00001.arrow")) as file:
    saved = of(pa.ipc.open_stream(file).read_all())
from_folder.to_parquet(root / "a.parquet")
parquet = of(pq.read_table(root / "a.parquet"))
made = datasets.Dataset.from_dict(
    {"image": pictures}, features=datasets.Features({"image": datasets.Image()})
)
made.to_parquet(root / "b.parquet")
memory = of(pq.read_table(root / "b.parquet"))
print(f"folder, save_to_disk: {saved[0]} of 20 hold bytes")
print(f"folder, to_parquet:   {parquet[0]} of 20 hold bytes, {parquet[1]} an absolute path")
print(f"memory, to_parquet:   {memory[0]} of 20 hold bytes")
(root / "pictures").rename(root / "moved")
try:
    datasets.Dataset.from_parquet(str(root / "a.parquet"))[0]["image"]
    sys.exit("changed: the images are read though their folder is gone")
except FileNotFoundError:
    print("the folder moved away: FileNotFoundError")
if (saved[0], parquet, memory[0]) != (20, (0, 20), 20):
    sys.exit("changed: other tables hold images")
print("as described")
PY
HF_HOME="$tmp/home" HF_HUB_OFFLINE=1 "$tmp/venv/bin/python" "$tmp/check.py" "$tmp"
