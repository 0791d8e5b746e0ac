"""FID's Inception: the network of the TensorFlow graph of 2015-12-05, up to its 2,048 features.

It differs from torchvision's Inception v3: average pools of the blocks A, C and the first E leave
padding out of the mean, the last E takes a maximum instead, and the weights are others. They come
from the PyTorch port of the graph, pt_inception-2015-12-05-6726825d.pth, which the user provides.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from PIL import Image

from tada_jax.system.errors import UserError
from tada_jax.weights.torch_file import read_state_dict

SIDE = 299  # pixels, of the input
CONVENTIONS = ("clean-fid", "pytorch-fid")


class Unit(nn.Module):
    """Convolution without bias, batch normalisation at inference, ReLU; [N,H,W,C] -> same."""

    channels: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x):
        shape = (*self.kernel, x.shape[-1], self.channels)
        kernel = self.param("conv.weight", nn.initializers.he_normal(), shape)

        def vector(name, init):
            return self.param(f"bn.{name}", init, (self.channels,))

        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        weight, bias = vector("weight", ones), vector("bias", zeros)
        mean, variance = vector("running_mean", zeros), vector("running_var", ones)
        x = jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return nn.relu((x - mean) * (weight / jnp.sqrt(variance + 1e-3)) + bias)


def _mean(x):
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _max(x, stride=1):
    return nn.max_pool(x, (3, 3), (stride, stride), "SAME" if stride == 1 else "VALID")


# A branch is a name and its units (suffix, channels, kernel height, width, stride); what is in a
# list branches out once more. The names are those of the weights.
def _block_a(pool):
    return (
        ("branch1x1", ("", 64, 1, 1)),
        ("branch5x5", ("_1", 48, 1, 1), ("_2", 64, 5, 5)),
        ("branch3x3dbl", ("_1", 64, 1, 1), ("_2", 96, 3, 3), ("_3", 96, 3, 3)),
        ("branch_pool", _mean, ("", pool, 1, 1)),
    )


_BLOCK_B = (
    ("branch3x3", ("", 384, 3, 3, 2)),
    ("branch3x3dbl", ("_1", 64, 1, 1), ("_2", 96, 3, 3), ("_3", 96, 3, 3, 2)),
    ("branch_pool", functools.partial(_max, stride=2)),
)


def _block_c(c):
    across, down = (1, 7), (7, 1)
    return (
        ("branch1x1", ("", 192, 1, 1)),
        ("branch7x7", ("_1", c, 1, 1), ("_2", c, *across), ("_3", 192, *down)),
        (
            "branch7x7dbl",
            ("_1", c, 1, 1),
            ("_2", c, *down),
            ("_3", c, *across),
            ("_4", c, *down),
            ("_5", 192, *across),
        ),
        ("branch_pool", _mean, ("", 192, 1, 1)),
    )


_BLOCK_D = (
    ("branch3x3", ("_1", 192, 1, 1), ("_2", 320, 3, 3, 2)),
    (
        "branch7x7x3",
        ("_1", 192, 1, 1),
        ("_2", 192, 1, 7),
        ("_3", 192, 7, 1),
        ("_4", 192, 3, 3, 2),
    ),
    ("branch_pool", functools.partial(_max, stride=2)),
)


def _block_e(pool):
    return (
        ("branch1x1", ("", 320, 1, 1)),
        ("branch3x3", ("_1", 384, 1, 1), [("_2a", 384, 1, 3), ("_2b", 384, 3, 1)]),
        (
            "branch3x3dbl",
            ("_1", 448, 1, 1),
            ("_2", 384, 3, 3),
            [("_3a", 384, 1, 3), ("_3b", 384, 3, 1)],
        ),
        ("branch_pool", pool, ("", 192, 1, 1)),
    )


_BLOCKS = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": _BLOCK_B,
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": _BLOCK_D,
    "Mixed_7b": _block_e(_mean),
    "Mixed_7c": _block_e(_max),
}


class Inception(nn.Module):
    """Images [N,299,299,3], as `prepare` gives them, -> features [N,2048]."""

    @nn.compact
    def __call__(self, x):
        def unit(name, x, channels, height, width, stride=1):
            padding = "SAME" if stride == 1 else "VALID"
            return Unit(channels, (height, width), stride, padding, name=name)(x)

        def branch(prefix, x, steps):
            for step in steps:
                if callable(step):
                    x = step(x)
                elif isinstance(step, list):
                    x = jnp.concatenate([branch(prefix, x, [one]) for one in step], -1)
                else:
                    suffix, *shape = step
                    x = unit(prefix + suffix, x, *shape)
            return x

        x = Unit(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3")(x)
        x = Unit(32, (3, 3), 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = Unit(64, (3, 3), name="Conv2d_2b_3x3")(x)
        x = _max(x, stride=2)
        x = Unit(80, (1, 1), name="Conv2d_3b_1x1")(x)
        x = Unit(192, (3, 3), 1, "VALID", name="Conv2d_4a_3x3")(x)
        x = _max(x, stride=2)
        for block, branches in _BLOCKS.items():
            x = jnp.concatenate([branch(f"{block}.{name}", x, s) for name, *s in branches], -1)
        return x.mean((1, 2))


def features(params, images):
    """Features float32 [N,2048] of what `prepare` returns; to be traced."""
    with jax.default_matmul_precision("highest"):
        return Inception().apply(params, images)


def params_from_state_dict(state):
    """Parameters of `Inception` from those of the PyTorch port.

    Args:
      state: {"Mixed_5b.branch1x1.conv.weight": array, ...}; what else it holds is ignored.

    Returns:
      A pytree for `features`.

    Raises:
      UserError: naming the first weight that is missing or has another shape.
    """
    shapes = jax.eval_shape(Inception().init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
    params = {}
    for unit, leaves in shapes["params"].items():
        params[unit] = {}
        for name, leaf in leaves.items():
            found = state.get(f"{unit}.{name}")
            if found is not None and name == "conv.weight" and found.ndim == 4:
                found = found.transpose(2, 3, 1, 0)
            if found is None or found.shape != leaf.shape:
                has = "is missing" if found is None else f"has the shape {list(found.shape)}"
                raise UserError(
                    f"these are not the weights of FID's Inception: {unit}.{name} {has}; take "
                    "pt_inception-2015-12-05-6726825d.pth"
                )
            params[unit][name] = np.asarray(found, np.float32)
    return {"params": params}


def load(path):
    """Parameters from a file of PyTorch's; see `params_from_state_dict`.

    Raises:
      UserError: if it cannot be read, or is another network; it names the file.
    """
    state = read_state_dict(path)
    try:
        return params_from_state_dict(state)
    except UserError as e:
        raise UserError(f"{path}: {e}") from e


def prepare(images, convention):
    """Images as the network was fed by either of the two common implementations of FID.

    Args:
      images: uint8 [N,H,W,C]; grey ones are repeated to three channels.
      convention: "clean-fid": each channel by Pillow's bicubic filter in float32, clipped to 0 ..
        255 and not rounded, then (x - 128) / 128. "pytorch-fid": bilinear without antialiasing,
        then (x - 127.5) / 127.5.

    Returns:
      float32 [N,299,299,3].

    Raises:
      ValueError: for another convention.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {CONVENTIONS}, got {convention!r}")
    images = np.asarray(images, np.float32)
    resize = _bicubic if convention == "clean-fid" else _bilinear
    resized = resize(images)
    middle = 128.0 if convention == "clean-fid" else 127.5
    return np.broadcast_to((resized - middle) / middle, (*resized.shape[:3], 3)).astype(np.float32)


def _bicubic(images):
    n, _, _, channels = images.shape
    resized = np.empty((n, SIDE, SIDE, channels), np.float32)
    for i in range(n):
        for c in range(channels):
            channel = Image.fromarray(np.ascontiguousarray(images[i, :, :, c]))
            resized[i, :, :, c] = channel.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.clip(resized, 0.0, 255.0)


def _bilinear(images):
    for axis in (1, 2):
        length = images.shape[axis]
        # In float32, as PyTorch does: on large images its rounding is seen in the pixels.
        place = np.float32(length / SIDE) * (np.arange(SIDE, dtype=np.float32) + np.float32(0.5))
        place = np.clip(place - np.float32(0.5), 0, length - 1)
        below = np.minimum(place.astype(int), max(length - 2, 0))
        share = (place - below).astype(np.float32)
        share = share.reshape([-1 if a == axis else 1 for a in range(4)])
        above = np.minimum(below + 1, length - 1)
        low, high = np.take(images, below, axis), np.take(images, above, axis)
        images = low * (1 - share) + high * share
    return images
