"""Extractors: from images to the features that distances are measured in.

An `Extractor` is one function and a name. Ours need no download: a small network fitted to the data
set (`fitted`), raw pixels; FID's Inception reads a file of weights that the user names.
"""

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import PIL

from tada_jax.data.cache import digest, digest_of_rows, load_cached
from tada_jax.metrics import classifier
from tada_jax.system import backend
from tada_jax.system.errors import UserError
from tada_jax.system.memo import Memo
from tada_jax.system.paths import expanded
from tada_jax.system.pixels import to_float


@dataclasses.dataclass(frozen=True, eq=False)
class Extractor:
    """Turns images into features.

    Attributes:
      name: for tables.
      digest: tells extractors with other features apart, for the cache; None: nothing is kept.
      apply: (params, prepared [B, ...]) -> float32 [B,D]; traced, and split over the devices.
      params: its arrays.
      prepare: uint8 [B,H,W,C] -> what `apply` takes, on the host.
      batch_size: images at once.
    """

    name: str
    digest: str | None
    apply: Callable[..., jax.Array]
    params: Any = ()
    prepare: Callable[[np.ndarray], np.ndarray] = lambda images: images
    batch_size: int = 256

    def __call__(self, images, mesh=None):
        """Features float32 [N,D] of uint8 images [N,H,W,C], on the host."""
        mesh = mesh or local_mesh()
        batch = -(-min(self.batch_size, len(images)) // mesh.size) * mesh.size
        apply = _PROGRAMS.get((self.apply, mesh), lambda: _compiled(self.apply, mesh))
        features = []
        for start in range(0, len(images), batch):
            chunk = np.asarray(images[start : start + batch])
            prepared = self.prepare(chunk)
            padded = np.resize(prepared, (batch, *prepared.shape[1:]))  # one compiled shape
            features.append(jax.device_get(apply(self.params, padded))[: len(chunk)])
        return np.concatenate(features)

    def cached(self, images, mesh=None):
        """The same, kept on disk by the hash of the images and the extractor."""
        if self.digest is None:
            return self(images, mesh)

        def make(folder):
            np.save(folder / "features.npy", self(images, mesh))

        numbers = (jax.__version__, jax.default_backend(), PIL.__version__)  # who computes them
        key = digest("features 3", self.digest, *numbers, digest_of_rows(images))
        return load_cached(key, make, lambda at: np.load(at / "features.npy"), kind="features")


def local_mesh():
    """All devices of this process."""
    return backend.data_mesh(jax.local_device_count(), jax.local_devices())


def _compiled(apply, mesh):
    """`apply` compiled for a mesh."""
    over_batch = backend.over_batch(mesh)

    def sharded(params, x):
        return apply(params, jax.lax.with_sharding_constraint(x, over_batch))

    return jax.jit(sharded, out_shardings=backend.replicated(mesh))


_PROGRAMS = Memo(8)


NEIGHBOUR_SIDE = 64  # pixels: larger images are averaged down before they are compared
MOST_BYTES = 2**29  # of what is drawn from a set at a time


def small(images, side):
    """Images float32 [N,H',W',C], averaged over squares until no side is above `side` pixels.

    A side that is shorter than such a square becomes one pixel.
    """
    images = np.asarray(images)
    n, h, w, c = images.shape
    factor = -(-max(h, w) // side)
    if factor == 1:
        return images.astype(np.float32)
    down, right = min(factor, h), min(factor, w)
    h, w = h // down, w // right
    blocks = images[:, : h * down, : w * right].reshape(n, h, down, w, right, c)
    return blocks.mean((2, 4), dtype=np.float32)


def reduced(images, side, *, chunk_bytes=2**25):
    """The same as `small` of an array or `Rows`, read in pieces: nothing but the result is held.

    Images that stay as they are stay uint8.
    """
    h, w, c = images.shape[1:]
    if max(h, w) <= side:
        return np.asarray(images)
    chunk = max(1, chunk_bytes // (h * w * c))
    parts = [small(images[i : i + chunk], side) for i in range(0, len(images), chunk)]
    return np.concatenate(parts)


def pixels(side=16):
    """Raw pixels in [-1, 1], averaged to at most `side` a side."""
    return Extractor(
        name=f"pixels (at most {side}x{side})",
        digest=f"pixels{side}",
        apply=lambda params, x: x.reshape(len(x), -1) / 127.5 - 1.0,
        prepare=lambda images: small(images, side),
    )


@dataclasses.dataclass(frozen=True)
class _FittedFeatures:
    """((params, scale), uint8 [B,H,W,C]) -> [B,128]; equal for networks of equally many outputs."""

    outputs: int

    def __call__(self, params, x):
        params, scale = params
        return scale * classifier.apply(self.outputs, params, to_float(x))[1]


def fitted(network, images):
    """The features of a `classifier.Fitted`, the layer before its output.

    They are scaled, all alike, to a root mean square of 1 over `images`, uint8 [N,H,W,C], so that
    distances are of the same order for every data set.
    """

    made = Extractor(
        name=f"classifier ({network.task.name})",
        digest=None,
        apply=_FittedFeatures(network.task.outputs),
        params=(network.params, np.float32(1.0)),
    )
    scale = np.float32(1.0 / np.sqrt(np.mean(made(images[:2048]).astype(np.float64) ** 2)))
    return dataclasses.replace(
        made,
        params=(network.params, scale),
        digest=digest("fitted", network.digest, scale.tobytes()),
    )


def inception(path, convention="clean-fid"):
    """FID's Inception, 2,048 features.

    Args:
      path: of the published PyTorch weights, pt_inception-2015-12-05-6726825d.pth.
      convention: of the input, "clean-fid" or "pytorch-fid".

    Raises:
      UserError: if the file is missing or is not that network.
    """
    from tada_jax.metrics import inception as network

    if not path:
        raise UserError(
            "config.evaluate.weights names no file: it is needed for extractor='inception', and is "
            "that of pt_inception-2015-12-05-6726825d.pth, which this software does not download"
        )
    params, content = network.load(path), expanded(path).read_bytes()
    return Extractor(
        name=f"Inception ({convention})",
        digest=digest("inception", convention, content),
        apply=network.features,
        params=params,
        prepare=lambda images: network.prepare(images, convention),
        batch_size=32,
    )


def of_function(function, name=None):
    """Any function uint8 [N,H,W,C] -> float [N,D] as an extractor; it runs on the host as it is."""

    def prepare(images):
        try:
            features = np.asarray(function(images), np.float32)
        except Exception as e:  # whatever the user's function raises
            raise UserError(
                f"the extractor {name or function.__name__} fails with {type(e).__name__}: "
                f"{' '.join(str(e).split())}"
            ) from e
        if features.ndim != 2 or len(features) != len(images):
            raise UserError(
                f"the extractor {name or function.__name__} returns {features.shape} for "
                f"{len(images)} images: it must return [N,D]"
            )
        return features

    return Extractor(
        name=name or function.__name__,
        digest=None,  # what a function closes over cannot be hashed
        apply=lambda params, x: x,
        prepare=prepare,
    )


def of_file(spec):
    """The extractor `function` of a Python file, given as "path/file.py:function".

    Its features are kept only if the file, or the function as an attribute, states a `version`:
    what else it reads, as a file of weights, is not seen here, and the user raises the version when
    that changes.

    Raises:
      UserError: if there is none.
    """
    path, _, name = spec.rpartition(":")
    file = expanded(path)
    if not file.is_file():
        raise UserError(f"config.evaluate.extractor={spec!r}: {path or spec} is no file")
    module = importlib.util.spec_from_file_location(file.stem, file)
    loaded = importlib.util.module_from_spec(module)
    try:
        module.loader.exec_module(loaded)
        function = getattr(loaded, name)
    except Exception as e:  # whatever the user's file raises
        raise UserError(
            f"config.evaluate.extractor={spec!r} fails with {type(e).__name__}: {e}"
        ) from e
    if not callable(function):
        raise UserError(f"config.evaluate.extractor={spec!r}: {name} is no function")
    made = of_function(function, name=f"{file.name}:{name}")
    version = getattr(function, "version", getattr(loaded, "version", None))
    if version is None:
        return made
    stated = repr(version)
    return dataclasses.replace(made, digest=digest("file", file.read_bytes(), name, stated))
