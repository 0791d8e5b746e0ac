"""A run before its first file is written: its data, and everything that is made of them.

Training begins here, and so does evaluation, which needs no training loop.
"""

import dataclasses
import functools
from typing import Any

import jax

from tada_jax import data
from tada_jax.data.order import Order
from tada_jax.setup import build, length, limits
from tada_jax.setup import fitted_strength as strengths
from tada_jax.system import backend, logs


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run before its first file is written: everything that follows from its configuration."""

    config: Any
    dataset: data.Dataset
    order: Order
    parts: build.Parts
    mesh: jax.sharding.Mesh
    schedule: strengths.Found | None = None  # of the strength, if it follows the profile

    @property
    def title(self):
        """For figures."""
        return f"{self.dataset.name}, {self.config.method}"

    @property
    def image_bytes(self):
        """Of the training set."""
        return backend.size_bytes(self.dataset.train.images)

    @functools.cached_property
    def pool(self):
        """The same data set with all of its training images."""
        return pool_of(self.config, self.dataset)

    @property
    def resident(self):
        """Whether the training set fits the device by the stated budget."""
        return self.image_bytes <= self.config.data.device_gib * backend.GIB


def pool_of(config, dataset):
    """The data set of a run with all of its training images."""
    if config.data.train_size is None:
        return dataset
    whole = config.copy_and_resolve_references().unlock()
    whole.data.train_size = None
    return load_data(whole)


def load_data(config):
    """The data set that the configuration names.

    Raises:
      UserError: if it cannot be had.
    """
    c = config.data
    names = [field.name for field in dataclasses.fields(data.Options)]
    options = {name: c[name] for name in names if name in c and name != "name"}
    return data.load(c.name, train_size=c.train_size, seed=config.seed, **options)


def plan(config, workdir=None, say=None):
    """Reads the data and builds everything that a run needs.

    Args:
      config: the run's.
      workdir: its folder; a schedule that it found there when it began stays as it was.
      say: called with lines of text about what takes time.

    Raises:
      UserError: for whatever cannot be, in one line.
    """
    limits.check(config)
    field = "microbatch" if config.train.microbatch else "batch_size"
    warn = logs.say if backend.is_first() else None
    mesh = backend.data_mesh(config.train[field], field=f"train.{field}", warn=warn)
    dataset = backend.in_turn(lambda: load_data(config))
    config = length.settled(config, len(dataset.train.images))
    train_set, found = dataset.train, None
    if limits.follows_profile(config):
        found = backend.in_turn(lambda: strengths.find(config, dataset, workdir, say))
    return Plan(
        config=config,
        dataset=dataset,
        order=build.order(config, train_set.labels, len(train_set.images)),
        parts=build.parts(
            config,
            train_set.images.shape[1:],
            dataset.num_classes,
            found and found.schedule,
            dataset.class_names,
        ),
        mesh=mesh,
        schedule=found,
    )
