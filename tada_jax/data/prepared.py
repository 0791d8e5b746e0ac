"""Copies that tensorflow-datasets has already prepared, read without TensorFlow."""

import json
import os
import pathlib

import numpy as np

from tada_jax.data.base import Split


def data_dir() -> pathlib.Path:
    """Where tensorflow-datasets keeps its data: TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return pathlib.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def find(name: str, root: pathlib.Path | None = None) -> list[pathlib.Path]:
    """Lists the folders of the prepared versions of a data set, newest first."""
    root = data_dir() if root is None else root
    found = root.glob(f"{name}/*/dataset_info.json")
    return sorted((file.parent for file in found), key=_version, reverse=True)


def read(folder: pathlib.Path, split: str) -> tuple[Split, int]:
    """Reads one split with images of one size and labels from a prepared folder.

    Returns:
      (examples, number of classes), as of `examples`.

    Raises:
      ValueError: one line, as of `examples`.
    """
    found = examples(folder, split)
    images = np.stack([example["image"] for example in found])
    labels = np.array([example["label"] for example in found], np.int32)
    return Split(images, labels), len(class_names(folder))


def examples(folder: pathlib.Path, split: str) -> list[dict]:
    """The examples of a split as dicts with "image" uint8 [H,W,C] and, if there are any, "label".

    Examples with an 'id' are sorted by it, which undoes the shuffle of tensorflow-datasets:
    CIFAR-10 comes out in the order of the published files.

    Raises:
      ValueError: one line, if the folder is TFRecord, holds fewer examples than it says, or has
        no image or several.
    """
    builder = _builder(folder)
    image, label = _features(folder)
    found = list(builder.as_data_source(split))
    expected = builder.info.splits[split].num_examples
    if len(found) != expected:
        raise ValueError(f"{folder} has {len(found)} {split} examples but promises {expected}")
    if "id" in builder.info.features:
        found.sort(key=lambda example: example["id"])
    return [{"image": e[image]} | ({"label": e[label]} if label is not None else {}) for e in found]


def splits(folder: pathlib.Path) -> list[str]:
    """Names of the splits that are not empty."""
    return [name for name, info in _builder(folder).info.splits.items() if info.num_examples]


def class_names(folder: pathlib.Path) -> list[str]:
    """Names of the classes; empty if there is no label."""
    label = _features(folder)[1]
    return [] if label is None else list(_builder(folder).info.features[label].names)


def _builder(folder):
    info = json.loads((folder / "dataset_info.json").read_text())
    file_format = info.get("fileFormat", "tfrecord")
    if file_format != "array_record":
        raise ValueError(f"{folder} is {file_format}, which cannot be read without TensorFlow")
    import tensorflow_datasets as tfds  # here, because it is slow to import

    return tfds.builder_from_directory(str(folder))


def _features(folder):
    """Names of the image and of the label among the features; the label may be None."""
    import tensorflow_datasets as tfds

    features = _builder(folder).info.features

    def only(kind, usual):
        names = [name for name, feature in features.items() if isinstance(feature, kind)]
        return usual if usual in names else names[0] if len(names) == 1 else None

    image = only(tfds.features.Image, "image")
    if image is None:
        raise ValueError(f"{folder} has no feature that is the image: {', '.join(features)}")
    return image, only(tfds.features.ClassLabel, "label")


def _version(folder: pathlib.Path) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in folder.name.split(".")]
