"""One sharp, anti-aliased affine resampling of an image.

TADA augments most strongly where the noise is weakest, so a resampler that blurs would teach the
network blurred detail. This one interpolates with a Kaiser-windowed sinc of +-4 pixels, which keeps
94% of an image's high-frequency power under rotation (bilinear interpolation: 51%; see
`benchmarks/resampling.py`), and it does so at the price of a bilinear look-up:

1. the image is enlarged 4 times by that kernel. Where the transform shrinks it, what the result
   cannot show is taken out first, by the widened kernel along that axis, so that little aliases;
2. the result is read at the transformed positions by bilinear interpolation.

Enlarging keeps the 4x4 *phases* apart, as so many images of the old size. On CPUs a phase is a sum
of shifted images times constants, in long loops; elsewhere all are one product with a matrix.
Under `vmap` on CPUs a few images at a time are enlarged, because that makes them 16 times as large
and all at once leave the cache.

The interpolant is thus a separable kernel that is piecewise linear between multiples of 1/4 pixel.
It passes through the pixels: integer shifts, flips and right angles are exact up to rounding.

Images are float32 [H,W,C]; nothing is clipped. Beyond its edges an image continues as its mirror
image, without repeating the edge pixel ("reflect"), as often as needed.
"""

import contextvars
import functools

import jax
import jax.numpy as jnp
import numpy as np

OVERSAMPLING = 4  # nodes a pixel
RADIUS = 4  # of the kernel, pixels
KAISER_BETA = 3.25  # of its window: larger is smoother, smaller sharper with more ringing
STRETCHES = 2.0 ** np.array([0.0, 0.5, 1.0, 1.5, 2.0])  # of the kernel, for shrinking up to 4 times
FORMS = ("gather", "matmul")
CHUNK_PIXELS = 8 * 64 * 64  # that a CPU enlarges at a time: 6 MB with three channels


# Set by who traces programs for devices that are not this machine's (`system.backend.traced_for`).
TRACED_FOR = contextvars.ContextVar("platform", default=None)


def platform():
    """What the program that is being traced will run on: "cpu", "gpu" or "tpu"."""
    return TRACED_FOR.get() or jax.default_backend()


def kernel(distance):
    """The interpolation kernel at its nodes: a Kaiser-windowed sinc; `distance` in pixels."""
    inside = np.maximum(1.0 - (distance / RADIUS) ** 2, 0.0)
    window = np.i0(KAISER_BETA * np.sqrt(inside)) / np.i0(KAISER_BETA)
    return np.where(np.abs(distance) < RADIUS, np.sinc(distance) * window, 0.0)


def _mirrored(pixels, size):
    """The pixels inside an axis that whole numbers stand for; `size` is 1 at least."""
    period = max(2 * (size - 1), 1)
    return np.minimum(pixels % period, -pixels % period)


@functools.cache
def _taps():
    """Weights of the 2 RADIUS pixels around a node, for each phase: [OVERSAMPLING, 2 RADIUS].

    Phase q of pixel i is the node at i + q / OVERSAMPLING; its pixels begin at i + 1 - RADIUS.
    """
    phase = np.arange(OVERSAMPLING)[:, None] / OVERSAMPLING
    weights = kernel(phase - np.arange(1 - RADIUS, RADIUS + 1))
    weights[np.abs(weights) < 1e-12] = 0.0  # sinc at whole numbers, but for rounding
    return weights / weights.sum(1, keepdims=True)


@functools.cache
def _phases(size):
    """The matrices that make the phases of an axis: float32 [OVERSAMPLING, size, size]."""
    pixels = np.arange(size)[:, None] + np.arange(1 - RADIUS, RADIUS + 1)
    matrices = np.zeros((OVERSAMPLING, size, size))
    for matrix, taps in zip(matrices, _taps()):
        np.add.at(matrix, (np.arange(size)[:, None], _mirrored(pixels, size)), taps)
    return matrices.astype(np.float32)


@functools.cache
def _low_passes(size):
    """Matrices that take out of an axis what does not survive shrinking.

    Weights of pixels beyond the edge are added to those of their mirror images.

    Returns:
      float32 [len(STRETCHES), size, size], the first the identity; each row sums to 1.
    """
    matrices = np.zeros((len(STRETCHES), size, size))
    for matrix, stretch in zip(matrices, STRETCHES):
        reach = int(np.ceil(RADIUS * stretch))
        pixels = np.arange(-reach, size + reach)
        weights = kernel((np.arange(size)[:, None] - pixels) / stretch)
        weights /= weights.sum(1, keepdims=True)
        np.add.at(matrix.T, _mirrored(pixels, size), weights.T)
    return matrices.astype(np.float32)


def _low_pass(size, step):
    """That of an axis along which neighbours in the result lie `step` pixels apart."""
    level = jnp.log2(jnp.maximum(step, 1.0)) / np.log2(STRETCHES[1])
    level = jnp.minimum(level, len(STRETCHES) - 1.0)
    blend = jnp.maximum(1.0 - jnp.abs(level - np.arange(len(STRETCHES))), 0.0)
    return jnp.tensordot(blend, _low_passes(size), 1)  # between the two nearest stretches


def _inside(position, size):
    """Positions in pixels, mirrored into the image."""
    period = max(2 * (size - 1), 1)
    inside = position - period * jnp.floor(position / period)  # jnp.mod is slow on CPUs
    return jnp.clip(jnp.minimum(inside, period - inside), 0.0, size - 1.0)


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
        form = "matmul" if platform() == "tpu" else "gather"
    if form not in FORMS:
        raise ValueError(f'form must be "auto" or one of {FORMS}, got {form!r}')
    return (_by_look_up if form == "gather" else _by_products)(x, matrix)


def _prepare(x, matrix):
    """Low passes of both axes, and the positions [H,W] to read: all in (x, y) order."""
    height, width, _ = x.shape
    column, row = positions(matrix, height, width)
    return (
        _low_pass(width, jnp.linalg.norm(matrix[0, :2])),
        _low_pass(height, jnp.linalg.norm(matrix[1, :2])),
        _inside(column, width),
        _inside(row, height),
    )


def _by_products(x, matrix):
    """Matrix products only: the weights of the source pixels for each pixel of the result.

    Pixels of the result are the last axis, which fills the lanes of a TPU; weights are made where
    they are used, and nothing as large is kept.
    """
    height, width, channels = x.shape
    with jax.default_matmul_precision("highest"):  # less would cost more sharpness than the kernel
        low_x, low_y, column, row = _prepare(x, matrix)
        x = jnp.einsum("ah,hwc,bw->cab", _beyond(height) @ low_y, x, _beyond(width) @ low_x)
        weights_x = _weights(column.reshape(-1), width)  # [width+,HW]
        weights_y = _weights(row.reshape(-1), height)
    # Three passes of bfloat16: errors of 1e-5.
    rows = (jnp.dot(x[c], weights_x, precision="high") for c in range(channels))
    pixels = [jnp.sum(weights_y * of_channel, 0) for of_channel in rows]
    return jnp.stack(pixels, -1).reshape(height, width, channels)


@functools.cache
def _beyond(size):
    """The matrix that continues an axis as far as the kernel reaches: [size + 2 RADIUS - 1, size].

    From pixel 1 - RADIUS on.
    """
    return np.eye(size, dtype=np.float32)[_mirrored(np.arange(1 - RADIUS, size + RADIUS), size)]


def _weights(position, size):
    """Weights of the pixels of `_beyond` at positions [P], linear between nodes: [pixels,P]."""
    pixel = jnp.floor(position)
    place = OVERSAMPLING * (position - pixel)
    # The nodes from a pixel to the next one, whose taps begin one pixel later.
    last = np.pad(_taps()[:1, :-1], ((0, 0), (1, 0)))
    nodes = np.concatenate([_taps(), last]).astype(np.float32)
    shares = [jnp.maximum(1.0 - jnp.abs(place - q), 0.0) for q in range(len(nodes))]
    number = jnp.arange(size + 2 * RADIUS - 1, dtype=jnp.float32)[:, None] - pixel
    weights = jnp.zeros_like(number)
    for k in range(2 * RADIUS):
        tap = sum(float(taps[k]) * share for taps, share in zip(nodes, shares) if taps[k])
        weights = jnp.where(number == k, tap, weights)
    return weights


def _look_up(x, matrix):
    """Enlarges the image, then reads four nodes for each pixel of the result."""
    with jax.default_matmul_precision("highest"):
        low_x, low_y, column, row = _prepare(x, matrix)
        x = jnp.einsum("bw,awc->abc", low_x, jnp.einsum("ah,hwc->awc", low_y, x))
        return _between_phases(_enlarged(x), column, row)


def _enlarged(x):
    """The phases of an image: [H,W,C] -> [OVERSAMPLING,OVERSAMPLING,H,W,C], of columns and rows."""
    on_cpu = platform() == "cpu"
    return (_phases_by_slices if on_cpu else _phases_by_products)(x)


def _phases_by_products(x):
    return jnp.einsum("pah,qbw,hwc->qpabc", _phases(x.shape[0]), _phases(x.shape[1]), x)


def _phases_by_slices(x):
    height, width, channels = x.shape
    for axis, size in enumerate((height, width)):
        around = _mirrored(np.arange(1 - RADIUS, size + RADIUS), size)
        x = jnp.take(x, around, axis=axis)
    x = x.reshape(len(x), -1)  # columns and channels as one long axis: loops over it vectorise
    x = _shifted_sums(x, 0, height, 1)
    x = _shifted_sums(x, 2, width * channels, channels)
    return x.reshape(OVERSAMPLING, OVERSAMPLING, height, width, channels)


def _shifted_sums(x, axis, size, step):
    """The phases along an axis, whose pixels lie `step` apart, as a new first axis."""

    def phase(taps):
        slices = (
            jax.lax.slice_in_dim(x, k * step, k * step + size, axis=axis) for k in range(2 * RADIUS)
        )
        terms = [tap * part for tap, part in zip(taps, slices) if tap]
        return sum(terms[1:], terms[0])

    return jnp.stack([phase(taps) for taps in _taps()])


def _between_phases(phases, column, row):
    """Reads the phases of an image at positions [H,W] inside it, by bilinear interpolation."""
    _, _, height, width, channels = phases.shape
    flat = phases.reshape(-1, channels)

    def neighbours(position, size, phase_size, step):
        """Offsets of the nodes before and after a position, and how far it is between them."""
        node = OVERSAMPLING * position
        before = jnp.clip(node.astype(jnp.int32), 0, max(OVERSAMPLING * (size - 1) - 1, 0))
        numbers = (before, jnp.minimum(before + 1, OVERSAMPLING * (size - 1)))
        offsets = (n % OVERSAMPLING * phase_size + n // OVERSAMPLING * step for n in numbers)
        return *offsets, (node - before)[..., None]

    one = height * width  # pixels of a phase
    left, right, u = neighbours(column, width, OVERSAMPLING * one, 1)
    top, bottom, v = neighbours(row, height, one, width)
    upper = (1 - u) * flat[top + left] + u * flat[top + right]
    lower = (1 - u) * flat[bottom + left] + u * flat[bottom + right]
    return (1 - v) * upper + v * lower


def _chunk(count, pixels):
    """How many images of a batch to enlarge at a time: the most that CHUNK_PIXELS allow.

    Equally many on each device, if the batch is so divided, and a divisor of the batch.
    """
    devices = max(d for d in range(1, min(jax.device_count(), count) + 1) if count % d == 0)
    share, most = count // devices, max(1, CHUNK_PIXELS // (pixels * devices))
    return devices * max(d for d in range(1, min(share, most) + 1) if share % d == 0)


_by_look_up = jax.custom_batching.custom_vmap(_look_up)


@_by_look_up.def_vmap
def _batch_by_look_up(count, batched, x, matrix):
    """What `vmap` does: on CPUs, a few images at a time, whose phases fit into the cache."""
    args = [
        a if has else jnp.broadcast_to(a, (count, *a.shape)) for a, has in zip((x, matrix), batched)
    ]
    look_up = jax.vmap(_look_up)
    chunk = _chunk(count, args[0].shape[1] * args[0].shape[2])
    if platform() != "cpu" or chunk == count:
        return look_up(*args), True
    # A chunk has images from all over the batch, so that each device keeps its part of the batch.
    args = [jnp.reshape(a, (chunk, -1, *a.shape[1:])) for a in args]

    def part(i):
        return [jax.lax.dynamic_index_in_dim(a, i, 1, keepdims=False) for a in args]

    y = jax.lax.map(lambda i: look_up(*part(i)), jnp.arange(count // chunk))
    return y.swapaxes(0, 1).reshape(count, *y.shape[2:]), True
