"""One sharp, anti-aliased affine resampling of an image.

TADA augments most strongly where the noise is weakest, so a resampler that blurs would teach the
network blurred detail. This one interpolates with a Kaiser-windowed sinc of +-4 pixels, which keeps
94% of an image's high-frequency power under rotation (bilinear interpolation: 51%; see
`benchmarks/augment.py`), and it does so at the price of a bilinear look-up:

1. two small matrix products enlarge the image 4 times by that kernel, E_y x E_x^T. Where the
   transform shrinks the image, the kernel is widened along that axis, so that little aliases;
2. the result is read at the transformed positions by bilinear interpolation.

Under `vmap` on CPUs a few images at a time are enlarged, because that makes them 16 times as large:
128 images of 64x64x3 at once leave the cache and take 1.4 to 3 times as long, depending on malloc.

The interpolant is thus a separable kernel that is piecewise linear between multiples of 1/4 pixel.
It passes through the pixels: integer shifts, flips and right angles are exact up to rounding.

Images are float32 [H,W,C]; nothing is clipped. Beyond its edges an image continues as its mirror
image, without repeating the edge pixel ("reflect"), as often as needed.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

OVERSAMPLING = 4  # nodes a pixel
RADIUS = 4  # of the kernel, pixels
KAISER_BETA = 3.25  # of its window: larger is smoother, smaller sharper with more ringing
STRETCHES = 2.0 ** np.array([0.0, 0.5, 1.0, 1.5, 2.0])  # of the kernel, for shrinking up to 4 times
FORMS = ("gather", "matmul")
CHUNK = 8  # images that a CPU enlarges at a time: at 64x64x3 they take 6 MB, 128 would take 98 MB


def kernel(distance):
    """The interpolation kernel at its nodes: a Kaiser-windowed sinc; `distance` in pixels."""
    inside = np.maximum(1.0 - (distance / RADIUS) ** 2, 0.0)
    window = np.i0(KAISER_BETA * np.sqrt(inside)) / np.i0(KAISER_BETA)
    return np.where(np.abs(distance) < RADIUS, np.sinc(distance) * window, 0.0)


@functools.cache
def _enlargements(size):
    """Matrices that enlarge `size` pixels to 4 (size-1) + 1 nodes, one for each of STRETCHES.

    Weights of pixels beyond the edge are added to those of their mirror images.

    Returns:
      float32 [len(STRETCHES), nodes, size]; each row sums to 1.
    """
    nodes = np.arange(OVERSAMPLING * (size - 1) + 1) / OVERSAMPLING
    period = max(2 * (size - 1), 1)
    matrices = np.zeros((len(STRETCHES), len(nodes), size))
    for matrix, stretch in zip(matrices, STRETCHES):
        reach = int(np.ceil(RADIUS * stretch))
        pixels = np.arange(-reach, size + reach)
        weights = kernel((nodes[:, None] - pixels) / stretch)
        mirrored = np.minimum(pixels % period, -pixels % period)
        np.add.at(matrix.T, mirrored, (weights / weights.sum(1, keepdims=True)).T)
    return matrices.astype(np.float32)


def _enlargement(size, step):
    """The enlargement of an axis along which neighbours in the result lie `step` pixels apart."""
    level = jnp.log2(jnp.maximum(step, 1.0)) / np.log2(STRETCHES[1])
    level = jnp.minimum(level, len(STRETCHES) - 1.0)
    blend = jnp.maximum(1.0 - jnp.abs(level - np.arange(len(STRETCHES))), 0.0)
    return jnp.tensordot(blend, _enlargements(size), 1)  # between the two nearest stretches


def _nodes(position, size):
    """Continuous node numbers of positions in pixels, after mirroring them into the image."""
    period = max(2 * (size - 1), 1)
    inside = jnp.mod(position, period)
    return OVERSAMPLING * jnp.minimum(inside, period - inside)


def positions(matrix, height, width):
    """Where each pixel of the result lies in the source: (columns, rows), float32 [H,W] each."""
    y, x = jnp.mgrid[:height, :width]
    x, y = x - (width - 1) / 2, y - (height - 1) / 2
    column = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] + (width - 1) / 2
    row = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] + (height - 1) / 2
    return column, row


def resample(x, matrix, *, form="auto"):
    """Transforms one image by an affine map.

    Args:
      x: float32 image [H,W,C].
      matrix: [2,3], from a pixel of the result to its place in `x`; both are (column, row) offsets
        in pixels from the centre of the image, the third column is a shift.
      form: "gather" looks four nodes up for each pixel: best on CPUs and GPUs. "matmul" has matrix
        products only, for TPUs, where look-ups are slow. "auto" chooses by the backend. Both give
        the same numbers up to rounding.

    Returns:
      The transformed image [H,W,C], not clipped. It may be used in functions that are
      differentiated, but is not itself meant to be.

    Raises:
      ValueError: for an unknown form.
    """
    if form == "auto":
        form = "matmul" if jax.default_backend() == "tpu" else "gather"
    if form not in FORMS:
        raise ValueError(f'form must be "auto" or one of {FORMS}, got {form!r}')
    return (_by_look_up if form == "gather" else _by_products)(x, matrix)


def _prepare(x, matrix):
    """Enlargements of both axes, and the continuous nodes [H,W] to read: all in (x, y) order."""
    height, width, _ = x.shape
    column, row = positions(matrix, height, width)
    return (
        _enlargement(width, jnp.linalg.norm(matrix[0, :2])),
        _enlargement(height, jnp.linalg.norm(matrix[1, :2])),
        _nodes(column, width),
        _nodes(row, height),
    )


def _by_products(x, matrix):
    """Matrix products only: the weights of all source pixels for each pixel of the result."""
    with jax.default_matmul_precision("highest"):  # less would cost more sharpness than the kernel
        enlarge_x, enlarge_y, node_x, node_y = _prepare(x, matrix)
        weights_x = _hat(node_x, len(enlarge_x)) @ enlarge_x  # [H,W,width]
        weights_y = _hat(node_y, len(enlarge_y)) @ enlarge_y  # [H,W,height]
        by_row = jnp.einsum("ijw,hwc->ijhc", weights_x, x)
        return jnp.einsum("ijh,ijhc->ijc", weights_y, by_row)


def _look_up(x, matrix):
    """Enlarges the image, then reads four nodes for each pixel of the result."""
    with jax.default_matmul_precision("highest"):
        enlarge_x, enlarge_y, node_x, node_y = _prepare(x, matrix)
        large = jnp.einsum("bw,awc->abc", enlarge_x, jnp.einsum("ah,hwc->awc", enlarge_y, x))
        return bilinear(large, node_x, node_y)


_by_look_up = jax.custom_batching.custom_vmap(_look_up)


@_by_look_up.def_vmap
def _batch_by_look_up(count, batched, x, matrix):
    """What `vmap` does: on CPUs, CHUNK images at a time, whose enlargements fit into the cache."""
    args = [
        a if has else jnp.broadcast_to(a, (count, *a.shape)) for a, has in zip((x, matrix), batched)
    ]
    look_up = jax.vmap(_look_up)
    if jax.default_backend() != "cpu" or count % CHUNK:
        return look_up(*args), True
    # A chunk has images from all over the batch, so that each device keeps its part of the batch.
    chunks = [a.reshape(CHUNK, -1, *a.shape[1:]).swapaxes(0, 1) for a in args]
    y = jax.lax.map(lambda chunk: look_up(*chunk), chunks)
    return y.swapaxes(0, 1).reshape(args[0].shape), True


def _hat(position, count):
    """Bilinear weights of `count` nodes at continuous positions [...]: [..., count]."""
    return jnp.maximum(1.0 - jnp.abs(position[..., None] - jnp.arange(count)), 0.0)


def bilinear(image, column, row):
    """Reads image [H,W,C] at continuous positions inside it."""
    height, width, _ = image.shape
    left = jnp.clip(column.astype(jnp.int32), 0, max(width - 2, 0))
    top = jnp.clip(row.astype(jnp.int32), 0, max(height - 2, 0))
    right, bottom = jnp.minimum(left + 1, width - 1), jnp.minimum(top + 1, height - 1)
    u, v = (column - left)[..., None], (row - top)[..., None]
    upper = (1 - u) * image[top, left] + u * image[top, right]
    lower = (1 - u) * image[bottom, left] + u * image[bottom, right]
    return (1 - v) * upper + v * lower
