"""Copies that tensorflow-datasets has already prepared, read without TensorFlow."""

import contextlib
import glob
import json
import os
import pathlib

import numpy as np

from tada_jax.data.base import Split
from tada_jax.system.errors import UserError
from tada_jax.system.paths import expanded


def data_dir() -> pathlib.Path:
    """Where tensorflow-datasets keeps its data: TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return expanded(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))


def find(name: str, root: pathlib.Path | None = None) -> list[pathlib.Path]:
    """Lists the folders of the prepared versions of a data set, newest first.

    Args:
      name: of the data set, or "name/config".
      root: where to look; by default `data_dir`.
    """
    root = data_dir() if root is None else root
    found = root.glob(f"{glob.escape(name)}/*/dataset_info.json")
    return sorted((file.parent for file in found), key=_version, reverse=True)


def read(folder: pathlib.Path, split: str) -> tuple[Split, int]:
    """Reads one split with images of one size and labels from a prepared folder.

    Returns:
      (examples, number of classes), in the order of `examples`.

    Raises:
      ValueError: one line, if it cannot be read whole.
    """
    with _one_line(folder):
        image, label = _features(folder)
        found = list(_source(folder, split))
        if "id" in found[0]:
            found.sort(key=lambda example: example["id"])
        images = np.stack([example[image] for example in found])
        labels = np.array([example[label] for example in found], np.int32)
        return Split(images, labels), len(class_names(folder))


class Examples:
    """The examples of a split as (encoded image, label or None), read from disk when indexed.

    Examples with an 'id' are sorted by it, which undoes the shuffle of tensorflow-datasets:
    CIFAR-10 comes out in the order of the published files.

    Attributes:
      grey: whether the data set declares its images to have a single channel.

    Raises:
      ValueError: one line, also when indexed: the folder is TFRecord or damaged, or holds fewer
        examples than it says.
      UserError: it has no feature that is the image, or several.
    """

    def __init__(self, folder: pathlib.Path, split: str):
        with _one_line(folder):
            self._folder = folder
            self._image, self._label = _features(folder)
            self._found = _source(folder, split, undecoded=self._image)
            self._order = _order(folder, split)
            self.grey = _builder(folder).info.features[self._image].shape[-1] == 1

    def __len__(self):
        return len(self._order)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)  # ends an iteration
        with _one_line(self._folder):
            example = self._found[self._order[index]]
            return example[self._image], None if self._label is None else example[self._label]


def splits(folder: pathlib.Path) -> list[str]:
    """Names of the splits that are not empty.

    Raises:
      ValueError: one line, as of `Examples`.
    """
    with _one_line(folder):
        found = _builder(folder).info.splits
        return [name for name, info in found.items() if info.num_examples]


def class_names(folder: pathlib.Path) -> list[str]:
    """Names of the classes; empty if there is no label.

    Raises:
      ValueError: one line, as of `Examples`.
    """
    with _one_line(folder):
        label = _features(folder)[1]
        return [] if label is None else list(_builder(folder).info.features[label].names or ())


@contextlib.contextmanager
def _one_line(folder):
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # damaged copies raise almost anything
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(text if str(folder) in text else f"{folder}: {text}") from error


def _builder(folder):
    info = json.loads((folder / "dataset_info.json").read_text())
    file_format = info.get("fileFormat", "tfrecord")
    if file_format != "array_record":
        raise ValueError(f"{folder} is {file_format}, which cannot be read without TensorFlow")
    import tensorflow_datasets as tfds  # here, because it is slow to import

    return tfds.builder_from_directory(str(folder))


def _source(folder, split, undecoded=None):
    """The examples as tensorflow-datasets shuffled them; the feature `undecoded` as bytes."""
    import tensorflow_datasets as tfds

    decoders = None if undecoded is None else {undecoded: tfds.decode.SkipDecoding()}
    builder = _builder(folder)
    found = builder.as_data_source(split, decoders=decoders)
    expected = builder.info.splits[split].num_examples
    if len(found) != expected:
        raise ValueError(f"{folder} has {len(found)} {split} examples but promises {expected}")
    return found


def _order(folder, split):
    """Positions of the examples, sorted by their ids if they have any."""
    if "id" not in _builder(folder).info.features:
        return range(_builder(folder).info.splits[split].num_examples)
    found = _source(folder, split, undecoded=_features(folder)[0])
    ids = [found[i]["id"] for i in range(len(found))]
    return sorted(range(len(found)), key=ids.__getitem__)


def _features(folder):
    """Names of the image and of the label among the features; the label may be None."""
    import tensorflow_datasets as tfds

    features = _builder(folder).info.features

    def only(kind, usual):
        names = [name for name, feature in features.items() if isinstance(feature, kind)]
        return usual if usual in names else names[0] if len(names) == 1 else None

    image = only(tfds.features.Image, "image")
    if image is None:
        raise UserError(
            f"{folder} has no feature, or several, that could be the image "
            f"({', '.join(features)}): choose another data set"
        )
    return image, only(tfds.features.ClassLabel, "label")


def _version(folder: pathlib.Path) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in folder.name.split(".")]
