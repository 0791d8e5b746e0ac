"""Writes small files by the tools of others: huggingface.zip, webdataset.tar and adm.pt here.

Run by hand, in environments with datasets 5.2.0, webdataset 1.0.2 and Pillow 13.0.0, or with
PyTorch 2.13.0: `python -m tests.files.write_with_others data` or `torch`. Image i is `picture(i)`
and of class i % 2, "cat" or "dog".
"""

import pathlib
import shutil
import sys
import tempfile

import numpy as np


def picture(i):
    """uint8 [6,6,3]."""
    return np.full((6, 6, 3), (10 * i, 255 - 10 * i, i), np.uint8)


def write_huggingface(folder):
    """A DatasetDict by save_to_disk, and its splits as parquet."""
    import datasets
    from PIL import Image

    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])}
    features["text"] = datasets.Value("string")

    def split(numbers, unlabelled=False):
        rows = {
            "image": [Image.fromarray(picture(i)) for i in numbers],
            "label": [-1 if unlabelled else ("cat", "dog")[i % 2] for i in numbers],
            "text": [f"picture {i}" for i in numbers],
        }
        return datasets.Dataset.from_dict(rows, features=datasets.Features(features))

    both = datasets.DatasetDict(train=split(range(5)), test=split(range(5, 8)))
    both.save_to_disk(folder / "saved", num_shards={"train": 2, "test": 1})
    both["train"].to_parquet(folder / "parquet" / "data" / "train-00000-of-00001.parquet")
    both["test"].to_parquet(folder / "parquet" / "data" / "test-00000-of-00001.parquet")
    split(range(3), unlabelled=True).to_parquet(folder / "unlabelled" / "test.parquet")
    arrays = {"image": [picture(0)], "label": [1]}
    shape = datasets.Features(
        {"image": datasets.Array3D((6, 6, 3), "uint8"), "label": datasets.Value("int64")}
    )
    datasets.Dataset.from_dict(arrays, features=shape).to_parquet(folder / "arrays.parquet")


def write_webdataset(file):
    """A tar of samples with a class, a mask and a .json, and of two keys with dots."""
    import webdataset

    with webdataset.TarWriter(str(file), mtime=0) as tar:
        for i in range(4):
            mask = 255 - picture(i)
            fields = {"png": picture(i), "mask.png": mask, "cls": i % 2, "json": {"n": i}}
            tar.write({"__key__": f"{i:06}", **fields})
        for i in (4, 5):
            tar.write({"__key__": f"old.v{i}", "png": picture(i), "cls": i % 2})


def write_torch(file):
    """A state dict with guided-diffusion's names of a network of `tests.weights.test_names`."""
    import torch

    from tada_jax.weights import names, write
    from tests.weights.test_names import network

    made, shape, params = network("one level")
    tensors = names.to_theirs(names.of_adm(made, write.attends(made, shape[0])), params)
    torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, file)


def write_data(here):
    """The image sets."""
    with tempfile.TemporaryDirectory() as temporary:
        write_huggingface(pathlib.Path(temporary))
        shutil.make_archive(str(here / "huggingface"), "zip", temporary)
    write_webdataset(here / "webdataset.tar")


if __name__ == "__main__":
    here = pathlib.Path(__file__).parent
    if sys.argv[1] == "torch":
        write_torch(here / "adm.pt")
    else:
        write_data(here)
