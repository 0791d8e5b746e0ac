"""A small convolutional network fitted to a data set, in seconds to a minute or two on a CPU.

It serves as the offline extractor of features and as the judge of leakage. What it learns is a
`Task`: the labels of the data set, how an image was augmented, or whether it is real, augmented or
neither.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import serialization

from tada_jax.augment import augment_batch
from tada_jax.data.cache import digest, load_cached
from tada_jax.methods import base as methods
from tada_jax.metrics import bad_images
from tada_jax.system.memo import Memo
from tada_jax.system.pixels import to_float, to_uint8

WIDTH = 128  # of the features
STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY, DROPOUT = 1000, 128, 2e-3, 0.05, 0.2
VERSION = "2"  # part of the cache's keys: another number fits anew


class Classifier(nn.Module):
    """Strided convolutions down to 4 pixels, then two dense layers; positions are not pooled away.

    (x [B,H,W,C] in [-1, 1]) -> (outputs [B,outputs], features [B,128]).
    """

    outputs: int

    @nn.compact
    def __call__(self, x, *, deterministic=True):
        width, stride = 32, 2 if min(x.shape[1:3]) > 32 else 1
        while True:
            x = nn.Conv(width, (3, 3), strides=stride)(x)
            x = nn.silu(nn.GroupNorm(8)(x))
            if min(x.shape[1:3]) <= 4:
                break
            width, stride = min(2 * width, 128), 2
        x = x.reshape(len(x), -1)
        x = nn.Dropout(DROPOUT, deterministic=deterministic)(x)
        features = nn.Dense(WIDTH)(x)
        x = nn.Dropout(DROPOUT, deterministic=deterministic)(nn.silu(features))
        return nn.Dense(self.outputs)(x), features


@dataclasses.dataclass(frozen=True)
class Task:
    """What the network learns.

    Attributes:
      name: short, for tables.
      settings: everything else that `examples` depends on, for the cache.
      outputs: length of the network's output.
      examples: (rng, x [B,H,W,C] in [-1, 1], labels [B]) -> (x, targets), with a first axis B.
      loss: (outputs [B,outputs], targets) -> [B].
    """

    name: str
    settings: str
    outputs: int
    examples: Callable[..., Any]
    loss: Callable[..., jax.Array]


def labels_task(num_classes):
    """The data set's own labels."""
    return Task(
        name="labels",
        settings=str(num_classes),
        outputs=num_classes,
        examples=lambda rng, x, labels: (x, labels),
        loss=optax.softmax_cross_entropy_with_integer_labels,
    )


def augmentation_task(policy):
    """How an image was augmented, at strength 1: the label vector of `augment.labels`.

    A self-supervised task for sets without labels, after RotNet (Gidaris et al. 2018) and AET
    (Zhang et al. 2019).
    """

    def examples(rng, x, labels):
        return augment_batch(rng, x, jnp.ones(len(x)), policy, return_labels=True)

    return Task(
        name="augmentation",
        settings=repr(policy),
        outputs=policy.label_size,
        examples=examples,
        loss=lambda outputs, targets: ((outputs - targets) ** 2).sum(-1),
    )


NOISE = 0.1  # standard deviation, of images in [-1, 1]
KINDS = ("real", "augmented", "neither")  # of images, to the judge of leakage


def unnoised_view(rng, x, kind, method):
    """Real images, augmented ones and such that are neither, alike in everything else.

    All are flipped as in training. Half of those that are neither began as augmented images, so
    that being bad says nothing of being augmented.

    Args:
      rng: a typed key.
      x: images [B,H,W,C] in [-1, 1].
      kind: int [B], positions in `KINDS`.
      method: a `methods.base.Method`, that augments every image.

    Returns:
      [B,H,W,C].
    """
    rng_aug, rng_base, rng_bad = jax.random.split(rng, 3)
    strengths = jnp.zeros((2, len(x))).at[1].set(1.0)
    plain, moved = jax.vmap(lambda w: methods.augmented(method, rng_aug, x, w))(strengths)
    distance = jnp.sqrt(((moved - plain) ** 2).sum((1, 2, 3)))
    augmented = (kind == 1) | ((kind == 2) & jax.random.bernoulli(rng_base, 0.5, kind.shape))
    x = jnp.where(augmented[:, None, None, None], moved, plain)
    bad = bad_images.corrupt(rng_bad, x, distance)
    return jnp.where((kind == 2)[:, None, None, None], bad, x)


def leak_view(rng, x, kind, method):
    """`unnoised_view` in 256 levels and under noise.

    So the judge looks at shapes and colours, and not at the texture of a resampling or a network.
    """
    rng_view, rng_noise = jax.random.split(rng)
    x = to_uint8(unnoised_view(rng_view, x, kind, method))
    return noisy(rng_noise, to_float(x))


def noisy(rng, x):
    """The noise of `leak_view` alone, for images that are what they are."""
    return x + NOISE * jax.random.normal(rng, x.shape)


def leak_task(method):
    """Which of `KINDS` an image is, under a method that augments every image."""

    def examples(rng, x, labels):
        kind = jnp.arange(len(x)) % len(KINDS)
        return leak_view(rng, x, kind, method), kind

    return Task(
        name="leak",
        settings=repr((method, NOISE, inspect.getsource(bad_images))),
        outputs=len(KINDS),
        examples=examples,
        loss=optax.softmax_cross_entropy_with_integer_labels,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted network; `digest` names the fit."""

    task: Task
    params: Any
    digest: str


def apply(outputs, params, x):
    """(outputs [B,outputs], features [B,128]) of images [B,H,W,C] in [-1, 1]; to be traced."""
    with jax.default_matmul_precision("highest"):
        return Classifier(outputs).apply(params, x)


def fit(task, images, labels=None, *, steps=STEPS, seed=0, say=None, progress=None):
    """Fits the network to a task, or takes it from the cache.

    Args:
      task: a `Task`.
      images: uint8 [N,H,W,C].
      labels: int32 [N], if the task needs them.
      steps: of training, at batch 128.
      seed: of the initialisation and the batches.
      say: called with a line of text before a fit that is not in the cache.
      progress: called as progress(done, total), in steps, during one.

    Returns:
      A `Fitted`.
    """
    images = np.ascontiguousarray(images)
    labels = np.zeros(len(images), np.int32) if labels is None else np.asarray(labels, np.int32)
    fitting = (WIDTH, BATCH, LEARNING_RATE, WEIGHT_DECAY, DROPOUT, images.shape, steps, seed)
    made_by = (jax.__version__, flax.__version__, optax.__version__, jax.default_backend())
    settings = (VERSION, task.name, task.settings, repr(fitting), repr(made_by))
    key = digest(*settings, images.tobytes(), labels.tobytes())

    def make(folder):
        if say:
            say(f"fitting a small network to {len(images):,} images ({task.name}), once")
        params = _train(task, images, labels, steps, seed, progress)
        (folder / "params.msgpack").write_bytes(serialization.to_bytes(jax.device_get(params)))

    def load(folder):
        shapes = jax.eval_shape(lambda: _init(task, images.shape[1:], seed))
        like = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes)
        return serialization.from_bytes(like, (folder / "params.msgpack").read_bytes())

    return Fitted(task, load_cached(key, make, load, kind="networks"), key)


def _init(task, shape, seed):
    return Classifier(task.outputs).init(jax.random.key(seed), jnp.zeros((1, *shape)))


def _train(task, images, labels, steps, seed, progress):
    key = task.name, task.settings, task.outputs, images.shape[1:], steps
    begin, step = _PROGRAMS.get(key, lambda: _programs(task, images.shape[1:], steps))
    params, opt_state = begin(np.uint32(seed))
    on_device = jax.device_put((images, labels))
    for number in range(steps):
        params, opt_state = step(params, opt_state, np.uint32(seed), number, *on_device)
        if progress and (number + 1) % 20 == 0:
            jax.block_until_ready(params)  # what was only asked for is not done
            progress(number + 1, steps)
    if progress and steps % 20:
        progress(steps, steps)
    return params


_PROGRAMS = Memo()


def _programs(task, shape, steps):
    """(begin, step) of a fit to images of a shape [H,W,C], compiled for any seed."""
    network = Classifier(task.outputs)
    rate = optax.cosine_decay_schedule(LEARNING_RATE, steps)
    optimizer = optax.adamw(rate, weight_decay=WEIGHT_DECAY)

    @jax.jit
    def begin(seed):
        params = _init(task, shape, seed)
        return params, optimizer.init(params)

    @jax.jit
    def step(params, opt_state, seed, number, images, labels):
        rng = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), number)
        rng_batch, rng_examples, rng_dropout = jax.random.split(rng, 3)
        batch = jax.random.randint(rng_batch, (BATCH,), 0, len(images))
        x = to_float(images[batch])
        x, targets = task.examples(rng_examples, x, labels[batch])

        def loss(params):
            outputs, _ = network.apply(
                params, x, deterministic=False, rngs={"dropout": rng_dropout}
            )
            return task.loss(outputs, targets).mean()

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return begin, step
