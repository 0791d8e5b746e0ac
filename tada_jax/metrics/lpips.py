"""LPIPS (Zhang et al. 2018), version 0.1 on AlexNet: how different two images look to people.

The weights are not ours and not downloaded: AlexNet's of torchvision (alexnet-owt-*.pth) and the
linear ones of the authors' package (weights/v0.1/alex.pth).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tada_jax.system.errors import UserError
from tada_jax.weights.torch_file import read_state_dict

SMALLEST = 31  # side in pixels below which AlexNet's second pooling has nothing left
_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)
# number in torchvision's `features`: (output channels, kernel, stride, padding, pooled before)
_LAYERS = {
    0: (64, 11, 4, 2, False),
    3: (192, 5, 1, 2, True),
    6: (384, 3, 1, 1, True),
    8: (256, 3, 1, 1, False),
    10: (256, 3, 1, 1, False),
}


def shapes():
    """{name: shape} of the weights, as PyTorch has them."""
    found, channels = {}, 3
    for i, (number, (out, kernel, *_)) in enumerate(_LAYERS.items()):
        found[f"features.{number}.weight"] = (out, channels, kernel, kernel)
        found[f"features.{number}.bias"] = (out,)
        found[f"lin{i}.model.1.weight"] = (1, out, 1, 1)
        channels = out
    return found


def params_from_state_dict(state):
    """Parameters of `distance` from those of PyTorch; what else they hold is ignored.

    Raises:
      UserError: naming the first weight that is missing or has another shape.
    """
    params = {}
    for name, shape in shapes().items():
        found = state.get(name)
        if found is None or found.shape != shape:
            has = "is missing" if found is None else f"has the shape {list(found.shape)}"
            raise UserError(
                f"these are not the weights of LPIPS: {name} {has}; config.analyze.lpips_weights "
                "needs torchvision's alexnet-owt-7be5be79.pth and lpips's weights/v0.1/alex.pth"
            )
        params[name] = np.asarray(found, np.float32)
    return params


def load(*paths):
    """Parameters from files of PyTorch's that hold all of them together."""
    state = {}
    for path in paths:
        state |= read_state_dict(path)
    return params_from_state_dict(state)


def _features(params, x):
    """The five activations of AlexNet for images [N,H,W,3] in [-1, 1], each scaled to length 1."""
    x, found = (x - _SHIFT) / _SCALE, []
    for number, (_, _, stride, padding, pooled) in _LAYERS.items():
        if pooled:
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
        x = jax.lax.conv_general_dilated(
            x,
            params[f"features.{number}.weight"].transpose(2, 3, 1, 0),
            (stride, stride),
            ((padding, padding), (padding, padding)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = jax.nn.relu(x + params[f"features.{number}.bias"])
        found.append(x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-10))
    return found


@jax.jit
def distance(params, a, b):
    """LPIPS of float images [N,H,W,C] in [-1, 1], C = 1 or 3, H and W at least 31; [N]."""
    a, b = (jnp.broadcast_to(x, (*x.shape[:3], 3)) for x in (a, b))
    total = jnp.zeros(len(a))
    with jax.default_matmul_precision("highest"):
        for i, (u, v) in enumerate(zip(_features(params, a), _features(params, b))):
            weights = params[f"lin{i}.model.1.weight"][0, :, 0, 0]
            total += jnp.mean(jnp.square(u - v) @ weights, (1, 2))
    return total


def of_files(*paths, batch=32):
    """LPIPS as a function of two float arrays [N,H,W,C] on the host.

    Raises:
      UserError: if the files do not hold the weights; when called, if the images are too small.
    """
    measure = functools.partial(distance, load(*paths))

    def far(a, b):
        if min(a.shape[1:3]) < SMALLEST:
            raise UserError(
                f"config.analyze.distances: lpips needs images of at least {SMALLEST} pixels, and "
                f"these have {a.shape[1]}x{a.shape[2]}"
            )
        parts = range(0, len(a), batch)
        return np.concatenate(
            [np.asarray(measure(a[i : i + batch], b[i : i + batch])) for i in parts]
        )

    return far
