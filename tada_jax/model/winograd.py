"""3x3 convolutions with a fourth of the multiplications, for CPUs.

Winograd's minimal filtering F(4x4, 3x3) (Lavin & Gray 2016, "Fast Algorithms for Convolutional
Neural Networks", section 4.3): tiles of 6x6 pixels that overlap by two are transformed to 36
numbers each, multiplied with the transformed kernel number by number, which makes 36 matrix
products over the channels, and transformed back to tiles of 4x4. The transforms are sums of a few
terms, written as such on whole slices of the image, so that compilers vectorise them over channels.

Float32 errors are about 1e-5 of the largest value, ten times those of a direct sum.
"""

import jax
import jax.numpy as jnp
import numpy as np

TILE = 4  # pixels of the result, along each axis
POINTS = TILE + 2  # pixels that they see, and numbers that they become
# Below them the transforms cost more than they save, or hardly less (`docs/speed.md`). The size of
# the batch is not asked, so that what becomes of an image does not depend on it.
SMALLEST_SIDE = 16
FEWEST_CHANNELS = 32

# Those of Lavin & Gray, for the interpolation points 0, 1, -1, 2, -2 and infinity.
OF_IMAGE = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
ROWS_OF_KERNEL = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
# Along both axes in one product with all nine pixels, the columns first as in `_twice`: two small
# ones after another, and the transpositions between them, take ten times as long.
OF_KERNEL = np.einsum("ak,bl->bakl", ROWS_OF_KERNEL, ROWS_OF_KERNEL).reshape(POINTS**2, 9)
TO_IMAGE = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
)


def pays(x, kernel):
    """Whether `convolve` is meant for these shapes and types: float32, large, whole tiles."""
    _, h, w, c = x.shape
    whole = h % TILE == 0 and w % TILE == 0
    large = min(h, w) >= SMALLEST_SIDE and min(c, kernel.shape[-1]) >= FEWEST_CHANNELS
    return kernel.shape[:2] == (3, 3) and whole and large and x.dtype == jnp.float32


@jax.custom_vjp
def convolve(x, kernel):
    """A 3x3 convolution, padded by one zero.

    Args:
      x: float32 [B,H,W,C], H and W multiples of 4.
      kernel: float32 [3,3,C,D].

    Returns:
      [B,H,W,D].
    """
    return _filtered(x, _of_kernel(OF_KERNEL, kernel))


def _forward(x, kernel):
    return convolve(x, kernel), (x, kernel)


def _backward(kept, cotangent):
    x, kernel = kept
    turned = OF_KERNEL[:, ::-1]  # which takes the nine pixels from the last to the first
    dx = _filtered(cotangent, _of_kernel(turned, kernel.swapaxes(2, 3)))
    points = jnp.einsum("ntc,ntd->ncd", _transformed(x), _spread(cotangent))
    return dx, _of_kernel(OF_KERNEL.T, points).reshape(kernel.shape)


convolve.defvjp(_forward, _backward)


def _sums(matrix, parts, axis=0):
    """Each row of the matrix times a list of arrays, without the terms that are 0; stacked."""
    sums = [sum(int(m) * part for m, part in zip(row, parts) if m) for row in matrix]
    return jnp.stack(sums, axis)


def _twice(matrix, rows, columns_of):
    """matrix X matrix^T of many small X, given as its rows of pixels: [points, tiles, C].

    The rows first and all columns at once: two dozen large loops, not a hundred small ones.
    """
    found = _sums(matrix, columns_of(_sums(matrix, rows)))  # [columns, rows, B, H/4, W/4, C]
    return found.reshape(POINTS**2, -1, found.shape[-1])


def _transformed(x):
    """The overlapping tiles of an image: [B,H,W,C] -> [36, B H/4 W/4, C]."""
    _, h, w, _ = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = [x[:, i : i + h - TILE + 1 : TILE] for i in range(POINTS)]

    def columns_of(y):
        return [y[..., j : j + w - TILE + 1 : TILE, :] for j in range(POINTS)]

    return _twice(OF_IMAGE, rows, columns_of)


def _spread(y):
    """The transpose of `_image`: [B,H,W,D] -> [36, B H/4 W/4, D]."""
    rows = [y[:, i::TILE] for i in range(TILE)]
    return _twice(TO_IMAGE.T, rows, lambda y: [y[..., j::TILE, :] for j in range(TILE)])


def _filtered(x, points):
    """x [B,H,W,C] with a transformed kernel [36,C,D]: [B,H,W,D]."""
    b, h, w, _ = x.shape
    return _image(_transformed(x) @ points, b, h, w)


def _of_kernel(matrix, kernel):
    """A matrix [M,N] times the N leading numbers of a kernel [...,C,D]: [M,C,D]."""
    kernel = kernel.reshape(-1, *kernel.shape[-2:])
    with jax.default_matmul_precision("highest"):
        return jnp.einsum("mn,ncd->mcd", matrix.astype(kernel.dtype), kernel)


def _image(points, b, h, w):
    """From the numbers of the tiles to pixels: [36, B H/4 W/4, D] -> [B,H,W,D]."""
    points = points.reshape(POINTS, POINTS, b, h // TILE, w // TILE, -1)
    rows = _sums(TO_IMAGE, [points[:, i] for i in range(POINTS)], axis=3)  # [6,B,H/4,4,W/4,D]
    return _sums(TO_IMAGE, list(rows), axis=4).reshape(b, h, w, -1)
