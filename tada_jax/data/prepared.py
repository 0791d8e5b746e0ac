"""Copies that tensorflow-datasets has already prepared, read without TensorFlow."""

import json
import os
import pathlib

import numpy as np

from tada_jax.data.base import Split


def data_dir() -> pathlib.Path:
    """Where tensorflow-datasets keeps its data: TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return pathlib.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def find(name: str) -> list[pathlib.Path]:
    """Lists the folders of the prepared versions of a data set, newest first."""
    found = data_dir().glob(f"{name}/*/dataset_info.json")
    return sorted((file.parent for file in found), key=_version, reverse=True)


def read(folder: pathlib.Path, split: str) -> tuple[Split, int]:
    """Reads one split with the features 'image' and 'label' from a prepared folder.

    Returns:
      (examples, number of classes). Examples with an 'id' are sorted by it, which undoes the
      shuffle of tensorflow-datasets: CIFAR-10 comes out in the order of the published files.

    Raises:
      ValueError: one line, if the folder is TFRecord, or holds fewer examples than it says.
    """
    info = json.loads((folder / "dataset_info.json").read_text())
    file_format = info.get("fileFormat", "tfrecord")
    if file_format != "array_record":
        raise ValueError(f"{folder} is {file_format}, which cannot be read without TensorFlow")
    import tensorflow_datasets as tfds  # here, because it is slow to import

    builder = tfds.builder_from_directory(str(folder))
    examples = list(builder.as_data_source(split))
    expected = builder.info.splits[split].num_examples
    if len(examples) != expected:
        raise ValueError(f"{folder} has {len(examples)} {split} examples but promises {expected}")
    if "id" in builder.info.features:
        examples.sort(key=lambda example: example["id"])
    images = np.stack([example["image"] for example in examples])
    labels = np.array([example["label"] for example in examples], np.int32)
    return Split(images, labels), builder.info.features["label"].num_classes


def _version(folder: pathlib.Path) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in folder.name.split(".")]
