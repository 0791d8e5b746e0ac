"""One reading of a folder of images by one contestant, as a process of its own; see `read_race`.

Imports of the contestant come first and are timed apart. What is printed is one line of JSON. This
file runs in the peers' interpreter too, so that nothing of ours is imported at its top.
"""

import json
import pathlib
import resource
import sys
import time
import zlib

BATCH = 64


def memory(of="self"):
    """{"VmHWM": bytes, "RssAnon": bytes, ...} of a process."""
    lines = pathlib.Path(f"/proc/{of}/status").read_text().splitlines()
    pairs = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): 1024 * int(number) for name, number, _ in pairs}


def processor():
    """Seconds of processor time of this process and of its workers that have ended."""
    whose = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, whose))


def ours(path, resolution):
    """Our images, memory-mapped, every one of them looked at once."""
    from tada_jax import data
    from tada_jax.data import folder  # noqa: F401, I001

    def read():
        made = data.load("images", path=path, test_fraction=0.0, resolution=resolution)
        for start in range(0, len(made.train.images), BATCH):
            made.train.images[start : start + BATCH].max()
        return made.train.images, made.train.labels

    return read


def torchvision(folder, resolution, workers=0):
    """ImageFolder by way of a DataLoader, into an array."""
    import numpy as np
    import torch
    from torchvision import datasets, transforms

    def read():
        steps = [transforms.Resize(resolution)] if resolution else []
        found = datasets.ImageFolder(folder, transforms.Compose([*steps, np.array]))
        loader = torch.utils.data.DataLoader(found, BATCH, num_workers=workers)
        images, labels, start = None, np.empty(len(found), np.int32), 0
        for batch, of in loader:
            if images is None:
                images = np.empty((len(found), *batch.shape[1:]), np.uint8)
            images[start : start + len(batch)] = batch.numpy()
            labels[start : start + len(batch)] = of.numpy()
            start += len(batch)
        return images, labels

    return read


def datasets(folder, resolution, workers=0):
    """Hugging Face's imagefolder, into an array; with workers, by a `map`, which it caches."""
    import datasets as hugging_face
    import numpy as np

    def decoded(image):
        image = image.convert("RGB")
        return np.asarray(image.resize((resolution, resolution)) if resolution else image)

    def read():
        hugging_face.disable_progress_bars()
        found = hugging_face.load_dataset("imagefolder", data_dir=folder, split="train")
        side = (resolution, resolution) if resolution else found[0]["image"].size[::-1]
        images = np.empty((len(found), *side, 3), np.uint8)
        labels = np.empty(len(found), np.int32)
        if workers:
            features = {"image": hugging_face.Array3D((*side, 3), "uint8")}
            features = hugging_face.Features(found.features | features)
            found = found.map(
                lambda row: {"image": decoded(row["image"])},
                features=features,
                num_proc=workers,
                writer_batch_size=BATCH,
            ).with_format("numpy")
            start = 0
            for rows in found.iter(BATCH):
                count = len(rows["label"])
                images[start : start + count] = rows["image"]
                labels[start : start + count] = rows["label"]
                start += count
            return images, labels
        for i, row in enumerate(found):
            images[i], labels[i] = decoded(row["image"]), row["label"]
        return images, labels

    return read


CONTESTANTS = {
    "ours": ours,
    "torchvision": torchvision,
    "torchvision, 2 workers": lambda *what: torchvision(*what, workers=2),
    "datasets": datasets,
    "datasets, map of 2": lambda *what: datasets(*what, workers=2),
}


def main():
    """Reads as NAME FOLDER RESOLUTION (0: that of the files) say."""
    name, folder, resolution = sys.argv[1:]
    mark = time.perf_counter()
    read = CONTESTANTS[name](folder, int(resolution) or None)
    imported, before = time.perf_counter() - mark, memory()
    print("imported", flush=True)
    mark, worked = time.perf_counter(), processor()
    images, labels = read()
    seconds, worked, after = time.perf_counter() - mark, processor() - worked, memory()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    check = 0
    for start in range(0, len(images), BATCH):
        check = zlib.crc32(images[start : start + BATCH], check)
    found = {
        "seconds": seconds,
        "cpu_s": worked,
        "import_s": imported,
        "shape": images.shape,
        "labels": [int(label) for label in labels[:: max(1, len(labels) // 10)]],
        "crc": check,
        "before": before,
        "peak": max(peak, after["VmHWM"]),
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
