"""Real images as a method makes them, and as the leak classifier sees them; uint8."""

import jax
import jax.numpy as jnp
import numpy as np

from tada_jax.methods.base import augmented
from tada_jax.metrics import classifier
from tada_jax.system.memo import Memo
from tada_jax.system.pixels import to_float, to_uint8


def augmented_images(images, method, *, strength=1.0, seed=0):
    """T(x, w) of uint8 images [N,H,W,C], each under a draw of its own; uint8.

    `method`, a `methods.base.Method`, says what T is.
    """
    return _in_batches(images, augmented, method, np.float32(strength), seed)


def images_of_kind(images, method, kind, *, seed=0):
    """uint8 images [N,H,W,C] as the leak classifier sees them, all of one of `classifier.KINDS`."""
    return _in_batches(images, _of_kind, method, np.int32(kind), seed)


def _of_kind(method, key, x, kind):
    return classifier.unnoised_view(key, x, kind, method)


def _in_batches(images, view, method, how, seed):
    """view(method, key, x [B,H,W,C] in [-1, 1], how [B]), of uint8 images [N,H,W,C]; uint8."""

    @jax.jit
    def program(key, x, how):
        return to_uint8(view(method, key, to_float(x), jnp.full(len(x), how)))

    some = _PROGRAMS.get((view, repr(method)), lambda: program)
    root, batch, done = jax.random.key(seed), min(256, len(images)), []
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch]
        padded = np.resize(chunk, (batch, *chunk.shape[1:]))
        made = some(jax.random.fold_in(root, start), padded, how)
        done.append(jax.device_get(made)[: len(chunk)])
    return np.concatenate(done)


_PROGRAMS = Memo(8)
