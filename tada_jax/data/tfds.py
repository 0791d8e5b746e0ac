"""Any image data set that tensorflow-datasets has prepared on this machine as array_record."""

import dataclasses
import json
import os

import numpy as np

from tada_jax.data import arrays, prepared
from tada_jax.data.base import Dataset, Options, Split, hold_out
from tada_jax.data.cache import cached, digest, digest_of_file
from tada_jax.system.errors import UserError
from tada_jax.system.paths import expanded, to_json


def load(options: Options) -> Dataset:
    """Loads the data set called `options.name`, as "beans", "beans/config" or "beans:0.1.0".

    `options.path` is the folder of tensorflow-datasets' data, or that of the prepared version
    itself. Trains on the split "train" (or the only one) and holds out "test" or "validation", or
    else a share. Nothing is downloaded or prepared. Images are decoded and fitted as those of a
    folder; without a stated resolution images of one size keep it, square or not, else it is the
    largest power of two that does not exceed the median of the training images.

    A split with labels that are missing (-1) is not held out; of training images they are all left
    out then.

    Raises:
      UserError: if no prepared copy can be read.
    """
    folder = _find(options)
    name = options.name
    try:
        splits = prepared.splits(folder)
        if "train" not in splits and len(splits) != 1:
            raise UserError(
                f"data.name=tfds:{name} has the splits {', '.join(splits) or 'none'}, none of "
                "which is called train: choose another data set"
            )
        train_name = "train" if "train" in splits else splits[0]
        classes = prepared.class_names(folder)
        train = _read(folder, train_name, options)
        _check_labels(folder, train, classes)
        # Whatever was left open was settled by the training images.
        h, w, c = train.images.shape[1:]
        settled = dataclasses.replace(
            options, resolution=min(h, w), channels=c, fit=options.fit if h == w else "keep"
        )
        test, unlabelled = None, train.labels is not None and bool((train.labels < 0).any())
        for other in ("test", "validation"):
            if test is None and other in splits and other != train_name:
                found = _read(folder, other, settled)
                _check_labels(folder, found, classes)
                complete = found.labels is None or (found.labels >= 0).all()
                test = found if complete or unlabelled else None
    except ValueError as error:
        raise UserError(
            f"data.name=tfds:{name}: {error}; prepare it again with "
            f"tfds.builder({name!r}, file_format='array_record').download_and_prepare()"
        ) from error
    if unlabelled or train.labels is None:
        classes, train = [], Split(train.images, None)
        test = test and Split(test.images, None)
    if test is None:
        train, test = hold_out(train, options.test_fraction, options.seed)
    if test.images.shape[1:] != train.images.shape[1:]:
        raise UserError(
            f"data.name=tfds:{name}: its splits have images of different sizes: set "
            "config.data.resolution"
        )
    source = (
        f"tfds {name} from {folder}: {len(train.images):,} training + {len(test.images):,} "
        f"held-out images, {'x'.join(map(str, train.images.shape[1:]))}"
        + ("; labels left out, since some are missing" if unlabelled else "")
    )
    title = name.replace("/", "-").replace(":", "-")
    return Dataset(title, train, test, len(classes), source, tuple(classes))


def _check_labels(folder, split, classes):
    if split.labels is not None and split.labels.max() >= len(classes):
        raise ValueError(f"{folder} names {len(classes)} classes, but has a label beyond them")


def _find(options):
    """The folder of the prepared version."""
    name, _, version = options.name.partition(":")
    if not name or name.startswith("/") or ".." in name.split("/"):
        raise UserError(
            f"data.name=tfds:{options.name} needs the name of a data set, as tfds:beans"
        )
    root = expanded(options.path) if options.path else prepared.data_dir()
    if (root / "dataset_info.json").is_file():
        return root
    found = [f for f in prepared.find(name, root) if version in ("", f.name)]
    if found:
        return found[0]
    others = [f.relative_to(root) for f in (*prepared.find(name, root), *_configs(name, root))]
    instead = f" (there is {', '.join(str(o.parent) + ':' + o.name for o in others[:5])})"
    raise UserError(
        f"data.name=tfds:{options.name}: no prepared copy in {root}{instead if others else ''}; "
        "prepare it once, where there is a network: "
        f"tfds.builder({options.name!r}, file_format='array_record').download_and_prepare()"
    )


def _configs(name, root):
    """Folders of prepared versions of the configurations of a data set."""
    configs = sorted(p.name for p in (root / name).iterdir()) if (root / name).is_dir() else []
    return [folder for config in configs for folder in prepared.find(f"{name}/{config}", root)]


def _read(folder, split, options):
    """A split, its images fitted to one size and memory-mapped from the cache."""
    import PIL

    files = [
        part
        for path in sorted(p for p in folder.iterdir() if p.is_file())
        for part in (os.fsencode(path.name), digest_of_file(path))
    ]
    settings = (options.resolution, options.channels, options.fit, tuple(options.background))
    key = digest("tfds 4", PIL.__version__, split, repr(settings), *files)

    def make(target):
        from tada_jax.data import images  # here, because Pillow takes a while to import

        examples = prepared.Examples(folder, split)
        headers, labels = [], []
        for index, (content, label) in enumerate(examples):
            headers.append(_named(folder, split, index, images.inspect, content))
            labels.append(label)
        resolution, fit = _settle(np.array([(h.height, h.width) for h in headers]), options)
        shapes = {
            images.fitted_shape(h.height, h.width, resolution=resolution, fit=fit) for h in headers
        }
        if max(h * w for h, w in shapes) > images.MAX_PIXELS:
            raise UserError(f"data.resolution={resolution} makes images too large; lower it")
        if len(shapes) > 1:
            raise UserError(
                f"data.name=tfds:{options.name}: its images have several aspects: set "
                "config.data.fit=crop or pad, and config.data.resolution"
            )
        settings = {
            "resolution": resolution,
            "channels": options.channels or (1 if examples.grey else 3),
            "fit": fit,
            "background": options.background,
        }
        rows = (
            _named(folder, split, index, images.decode, content, **settings)
            for index, (content, _) in enumerate(examples)
        )
        arrays.write(target / "images.npy", rows, len(examples))
        (target / "labels.json").write_text(
            to_json([None if n is None else int(n) for n in labels])
        )

    target = cached(key, make)
    labels = json.loads((target / "labels.json").read_text())
    return Split(arrays.read(target), None if None in labels else np.array(labels, np.int32))


def _named(folder, split, index, function, content, **settings):
    """function(content), whose complaints name the example."""
    try:
        return function(content, **settings)
    except ValueError as error:
        raise ValueError(f"{folder}: {split} image {index} {error}") from error


def _settle(sizes, options):
    """(resolution, fit) for images of these sizes, int [N,2]."""
    if options.resolution is not None:
        return options.resolution, options.fit
    if (sizes == sizes[0]).all():
        return int(sizes[0].min()), "keep"
    side = sizes.max(axis=1) if options.fit == "pad" else sizes.min(axis=1)
    return max(8, 2 ** (int(np.median(side)).bit_length() - 1)), options.fit
