"""Any image data set that tensorflow-datasets has prepared on this machine as array_record."""

import pathlib

import numpy as np

from tada_jax.data import prepared
from tada_jax.data.base import Dataset, Options, Split, hold_out
from tada_jax.data.cache import cached, digest
from tada_jax.errors import UserError


def load(options: Options) -> Dataset:
    """Loads the data set called `options.name`, as "beans" or "beans/config".

    `options.path` is the folder of tensorflow-datasets' data, or that of the prepared version
    itself. Trains on the split "train" (or the only one) and holds out "test" or "validation", or
    else a share. Nothing is downloaded or prepared.

    Raises:
      UserError: if no prepared copy can be read.
    """
    name = options.name
    if not name:
        raise UserError("data.name=tfds: needs the name of a data set, as tfds:beans")
    root = pathlib.Path(options.path).expanduser() if options.path else prepared.data_dir()
    if (root / "dataset_info.json").is_file():
        folder = root
    else:
        found = prepared.find(name, root)
        if not found:
            raise UserError(
                f"data.name=tfds:{name}: no prepared copy in {root}; prepare it once, where there "
                f"is a network: tfds.builder({name!r}, file_format='array_record')"
                ".download_and_prepare()"
            )
        folder = found[0]
    try:
        splits = prepared.splits(folder)
        train_name = "train" if "train" in splits else splits[0]
        test_name = next((s for s in ("test", "validation") if s in splits), None)
        test_name = None if test_name == train_name else test_name
        train, classes = _read(folder, train_name, options)
        test = _read(folder, test_name, options)[0] if test_name else None
    except (ValueError, OSError, KeyError, IndexError) as e:
        raise UserError(
            f"data.name=tfds:{name}: {' '.join(str(e).split())}; prepare it again with "
            f"tfds.builder({name!r}, file_format='array_record').download_and_prepare()"
        ) from e
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
    )
    num_classes = len(classes) if train.labels is not None else 0
    return Dataset(name.replace("/", "-"), train, test, num_classes, source, tuple(classes))


def _read(folder, split, options):
    """(Split, class names), images of one size, memory-mapped from the cache."""
    files = sorted(p for p in folder.iterdir() if p.is_file())
    stamp = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    settings = (options.resolution, options.channels, options.fit, options.background)
    key = digest("tfds 1", str(folder), split, repr(stamp), repr(settings))
    classes = prepared.class_names(folder)

    def make(target):
        from tada_jax.data import images

        examples = prepared.examples(folder, split)
        sizes = np.array([e["image"].shape[:2] for e in examples], np.int32)
        channels = options.channels or (1 if examples[0]["image"].shape[-1] == 1 else 3)
        same = (sizes == sizes[0]).all()
        resolution, fit = options.resolution, options.fit
        if resolution is None and same:
            resolution, fit = int(sizes[0].min()), "keep"
        elif resolution is None:
            side = sizes.max(axis=1) if fit == "pad" else sizes.min(axis=1)
            resolution = max(8, 2 ** int(np.log2(np.median(side))))
        fitted = [
            images.fit(
                e["image"],
                resolution=resolution,
                fit=fit,
                channels=channels,
                background=options.background,
            )
            for e in examples
        ]
        if len({image.shape for image in fitted}) > 1:
            raise ValueError("its images have several aspects: set config.data.fit=crop or pad")
        np.save(target / "images.npy", np.stack(fitted))
        if classes:
            np.save(target / "labels.npy", np.array([e["label"] for e in examples], np.int32))

    target = cached(key, make)
    labels = np.load(target / "labels.npy") if classes else None
    return Split(np.load(target / "images.npy", mmap_mode="r"), labels), classes
