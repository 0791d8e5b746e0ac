"""What the network spends its time on: one small function each.

Each computes what its docstring says, as the plain expression would to float tolerance
(`tests/model/test_layers.py` compares them), but with less arithmetic or fewer passes over memory
(`docs/speed.md`). All of them take batches first, so that a batch may be split over devices.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tada_jax.model import winograd
from tada_jax.system import backend


def on_cpu():
    """Whether programs are compiled for CPUs, where memory is slow and some forms differ."""
    return backend.platform() == "cpu"


def on_tpu():
    """Whether they are for TPUs, where whatever is no matrix product or long loop is slow."""
    return backend.platform() == "tpu"


# Normalisation


def group_norm(x, scale, shift, *, groups, silu, epsilon=1e-5):
    """scale * GroupNorm(x) + shift, and then perhaps SiLU, in float32.

    Stock GroupNorm sums over groups of a few channels and divides group by group, which no vector
    unit likes; here sums are over pixels and what is applied is one affine map a channel. The
    backward pass reads x and the cotangent twice and keeps nothing but x.

    Args:
      x: [B,H,W,C].
      scale, shift: [C] or [B,C], float32.
      groups: of channels; divides C.
      silu: whether to apply it.
      epsilon: added to the variance.

    Returns:
      [B,H,W,C], of the type of x.
    """
    b, _, _, c = x.shape
    scale, shift = (jnp.broadcast_to(a, (b, c)) for a in (scale, shift))
    return _group_norm(x, scale, shift, groups, silu, epsilon)


def _of_groups(groups, *sums):
    """Sums over the channels of each group, at every channel: [B,C] -> [B,C] each."""
    b, c = sums[0].shape
    if on_tpu():  # each small operation costs more than all of its arithmetic: one product
        group = np.arange(c) // (c // groups)
        same = (group[:, None] == group).astype(np.float32)
        # Side by side along a new axis: along the batch, which is split, it would be messages.
        found = jnp.dot(jnp.stack(sums, 1), same, precision="highest")
        return [found[:, i] for i in range(len(sums))]
    return [jnp.repeat(of.reshape(b, groups, -1).sum(-1), c // groups, axis=1) for of in sums]


def _statistics(x, groups, epsilon):
    """Mean and reciprocal standard deviation of its group, for every channel, [B,C] each."""
    x = x.astype(jnp.float32)
    count = x.shape[1] * x.shape[2] * x.shape[3] // groups
    sums = _of_groups(groups, x.sum((1, 2)), jnp.square(x).sum((1, 2)))
    mean, square = (of / count for of in sums)
    return mean, jax.lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0.0) + epsilon)


def _over_pixels(a):
    """[B,C] -> [B,1,1,C]."""
    return a[:, None, None, :]


def _once(*small):
    """The same arrays [B,C], computed once and before what uses them.

    On CPUs XLA computes such small arrays again for each pixel, in loops that it then cannot
    vectorise, and it ignores optimisation barriers. What comes out of a matrix product stays.
    """
    if not on_cpu():
        return small
    packed = jnp.concatenate(small, axis=1)
    packed = jnp.dot(packed, jnp.eye(packed.shape[1]), precision="highest")
    return jnp.split(packed, len(small), axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _group_norm(x, scale, shift, groups, silu, epsilon):
    return _group_norm_forward(x, scale, shift, groups, silu, epsilon)[0]


def _group_norm_forward(x, scale, shift, groups, silu, epsilon):
    mean, rstd = _statistics(x, groups, epsilon)
    factor, offset = _once(rstd * scale, shift - mean * rstd * scale)
    y = x.astype(jnp.float32) * _over_pixels(factor) + _over_pixels(offset)
    y = jax.nn.silu(y) if silu else y
    return y.astype(x.dtype), (x, scale, shift, mean, rstd)


def _group_norm_backward(groups, silu, epsilon, kept, cotangent):
    del epsilon
    x, scale, shift, mean, rstd = kept
    rstd, offset, scale, shift = _once(rstd, -mean * rstd, scale, shift)
    whitened = x.astype(jnp.float32) * _over_pixels(rstd) + _over_pixels(offset)
    dy = cotangent.astype(jnp.float32)
    if silu:
        y = whitened * _over_pixels(scale) + _over_pixels(shift)
        gate = jax.nn.sigmoid(y)
        dy = dy * gate * (1.0 + y * (1.0 - gate))
    d_shift = dy.sum((1, 2))
    d_scale = (dy * whitened).sum((1, 2))
    # The mean and the variance depend on x too: what of dy points along them falls away.
    count = x.shape[1] * x.shape[2] * x.shape[3] // groups
    sums = _of_groups(groups, scale * d_shift, scale * d_scale)
    along_mean, along_spread = (of / count for of in sums)
    factor, along_mean, along_spread = _once(rstd * scale, rstd * along_mean, rstd * along_spread)
    dx = (
        dy * _over_pixels(factor) - _over_pixels(along_mean) - whitened * _over_pixels(along_spread)
    )
    return dx.astype(x.dtype), d_scale, d_shift


_group_norm.defvjp(_group_norm_forward, _group_norm_backward)


# Dropout


def dropout(rng, x, rate):
    """Drops entries with probability `rate`, rounded to 1/256, and scales the others up.

    Eight random bits decide about an entry rather than 32: random numbers were 5% of a CPU step.

    Args:
      rng: key.
      x: [B,...].
      rate: in [0, 1).

    Returns:
      As x; its expectation is x exactly.
    """
    dropped = drop_level(rate)
    if not dropped:
        return x
    entries = int(np.prod(x.shape[1:]))
    words = jax.random.bits(rng, (len(x), -(-entries // 4)), jnp.uint32)
    # A quarter of the entries takes the lowest byte of each word, and so on: no bytes are shuffled.
    keep = jnp.concatenate([((words >> shift) & 255) >= dropped for shift in (0, 8, 16, 24)], 1)
    keep = keep[:, :entries].reshape(x.shape)
    return jnp.where(keep, x * (256 / (256 - dropped)), jnp.zeros_like(x))


def drop_level(rate):
    """A rate in units of 1/256; only 0 becomes 0."""
    return min(255, max(1, round(256 * rate))) if rate else 0


# Linear layers


def linear(x, kernel):
    """x @ kernel, for x [B,...,C] and kernel [C,D]."""
    return _linear(x, kernel) if on_cpu() and x.ndim > 2 else x @ kernel


@jax.custom_vjp
def _linear(x, kernel):
    """The same, whose gradient by the kernel is a sum of one product an image.

    One product over all pixels of all images would have to be transposed first, and is slow where
    it is long and thin.
    """
    return _product(x, kernel)


def _product(x, kernel):
    """x @ kernel, rounded once: XLA makes bfloat16 float32 first, unless that is asked for."""
    return jnp.matmul(x, kernel, preferred_element_type=jnp.float32).astype(x.dtype)


def _linear_backward(kept, cotangent):
    x, kernel = kept

    def pixels(a):
        return a.reshape(len(a), -1, a.shape[-1])

    over_pixels, exact = "bpc,bpd->bdc", {"preferred_element_type": jnp.float32}
    by_image = jnp.einsum(over_pixels, pixels(x), pixels(cotangent), **exact)
    return _product(cotangent, kernel.T), by_image.sum(0).T.astype(kernel.dtype)


_linear.defvjp(lambda x, kernel: (_product(x, kernel), (x, kernel)), _linear_backward)


def add_bias(x, bias):
    """x [B,...,C] + bias [C]."""
    return _add_bias(x, bias) if on_tpu() and x.ndim > 2 else x + bias


@jax.custom_vjp
def _add_bias(x, bias):
    """The same, whose gradient by the bias is a product with ones, summed in float32.

    The eight rows of ones are what the matrix unit takes at once; a sum takes 19 times the
    cycles (docs/speed.md).
    """
    return x + bias


def _add_bias_backward(_, cotangent):
    dtype, over = cotangent.dtype, tuple(range(cotangent.ndim - 1))
    ones = jnp.ones((*cotangent.shape[:-1], 8), dtype)
    exact = "highest" if dtype == jnp.float32 else None
    sums = jax.lax.dot_general(
        ones, cotangent, ((over, over), ((), ())), exact, preferred_element_type=jnp.float32
    )
    return cotangent, sums[0].astype(dtype)


_add_bias.defvjp(lambda x, bias: (x + bias, None), _add_bias_backward)


# Convolutions


def convolution(x, kernel, *, strides=1, padding="both"):
    """A convolution, padded with zeros to keep the size (at stride 1).

    Args:
      x: [B,H,W,C].
      kernel: [K,K,C,D], K odd.
      strides: along both axes.
      padding: "both" sides alike, or the "end" of rows and columns alone.

    Returns:
      [B,H,W,D], H and W divided by the strides.
    """
    size = len(kernel)
    if size == 1 and strides == 1:
        return linear(x, kernel[0, 0])
    if on_cpu() and strides == 1 and winograd.pays(x, kernel):
        return winograd.convolve(x, kernel)
    pad = ((size - 1) // 2,) * 2 if padding == "both" else (0, size - 2)
    return _convolve(x, kernel, pad, pad, strides)


def _convolve(x, kernel, rows, columns, strides=1, apart=1):
    """A convolution with its padding (before, after) of rows and columns.

    With `apart` the pixels of x lie that far from each other, with zeros between.
    """
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        [rows, columns],
        lhs_dilation=(apart, apart),
        dimension_numbers=layout,
    )


# Resampling


def downsample(x):
    """2x2 average, [B,H,W,C] -> [B,H/2,W/2,C]; H and W are even."""
    b, h, w, c = x.shape
    if on_tpu() and h % 2 == w % 2 == 0:
        return _downsample_by_windows(x)
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def upsample(x):
    """Nearest neighbour, [B,H,W,C] -> [B,2H,2W,C]."""
    if on_tpu():
        return _upsample_by_windows(x)
    return x.repeat(2, axis=1).repeat(2, axis=2)


# On TPUs every change of the axes is a copy, and windows that are added up are none: enlarging
# takes a seventh of the cycles, averages a seventeenth (docs/speed.md). Each is the other's
# gradient.


def _four_added(x):
    """Sums over 2x2 pixels, in float32: [B,H,W,C] -> [B,H/2,W/2,C]."""
    window = (1, 2, 2, 1)
    sums = jax.lax.reduce_window(x.astype(jnp.float32), 0.0, jax.lax.add, window, window, "VALID")
    return sums.astype(x.dtype)


def _four_times(x):
    """Every pixel four times: [B,H,W,C] -> [B,2H,2W,C]."""
    zero, between = jnp.zeros((), x.dtype), (1, 1, 1)
    apart = jax.lax.pad(x, zero, [(0, 0, 0), between, between, (0, 0, 0)])
    return jax.lax.reduce_window(apart, zero, jax.lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "VALID")


_downsample_by_windows = jax.custom_vjp(lambda x: _four_added(x) / 4)
_downsample_by_windows.defvjp(
    lambda x: (_four_added(x) / 4, None), lambda _, cotangent: (_four_times(cotangent / 4),)
)
_upsample_by_windows = jax.custom_vjp(_four_times)
_upsample_by_windows.defvjp(
    lambda x: (_four_times(x), None), lambda _, cotangent: (_four_added(cotangent),)
)


# Which taps of a 3-tap kernel on enlarged pixels meet the same original one: for even and odd
# pixels of the result, and the two originals that each of them sees.
_MERGED_TAPS = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)


def upsampled_convolution(x, kernel):
    """A 3x3 convolution of `upsample(x)`, padded by one zero, at 4/9 of the arithmetic.

    A pixel of the result sees 9 enlarged pixels but only 4 originals: which, depends on whether its
    row and its column are even or odd. So there are four 2x2 convolutions of the original; on TPUs
    one 4x4 convolution, whose zeros are left out by the compiler.

    Args:
      x: [B,H,W,C].
      kernel: [3,3,C,D].

    Returns:
      [B,2H,2W,D].
    """
    b, h, w, _ = x.shape
    if on_tpu():
        wide = _widened(_widened(kernel.astype(jnp.float32), 0), 1)
        return _transposed_convolution(x, wide.astype(x.dtype))
    with jax.default_matmul_precision("highest"):  # a sum of up to four weights
        kernels = jnp.einsum("pyk,qxl,klcd->pqyxcd", _MERGED_TAPS, _MERGED_TAPS, kernel)
    kernels = kernels.astype(x.dtype)
    rows = []
    for p in (0, 1):
        parts = [_convolve(x, kernels[p, q], (1 - p, p), (1 - q, q)) for q in (0, 1)]
        rows.append(jnp.stack(parts, axis=3))
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, -1)


def _widened(kernel, axis):
    """The kernel of 4 taps that does to pixels with zeros between what one of 3 does to pairs."""
    first, second, third = (jax.lax.index_in_dim(kernel, i, axis) for i in range(3))
    return jnp.concatenate([first, first + second, second + third, third], axis)


@jax.custom_vjp
def _transposed_convolution(x, kernel):
    """A 4x4 convolution of x [B,H,W,C] with a zero after every pixel: [B,2H,2W,D]."""
    return _convolve(x, kernel, (2, 2), (2, 2), apart=2)


def _transposed_convolution_backward(kept, cotangent):
    """By the convolution of stride 2 that it is the transpose of.

    Stock gradients would turn the whole cotangent around.
    """
    x, kernel = kept

    def turned(kernel):
        return kernel[::-1, ::-1].swapaxes(2, 3)

    dx, of_kernel = jax.vjp(lambda k: _convolve(cotangent, k, (1, 1), (1, 1), 2), turned(kernel))
    return dx, turned(of_kernel(x)[0])


_transposed_convolution.defvjp(
    lambda x, kernel: (_transposed_convolution(x, kernel), (x, kernel)),
    _transposed_convolution_backward,
)


# Attention


def self_attention(x, kernel, bias, *, head_channels, order):
    """softmax(q k^T / sqrt(d)) v of all heads, side by side.

    Args:
      x: tokens [B,T,C].
      kernel, bias: of the projection to q, k and v, [C,3C] and [3C].
      head_channels: d; divides C.
      order: of the projection's channels: "legacy" (heads, qkv, d) or "new" (qkv, heads, d).

    Returns:
      [B,T,C]. Softmax is float32, whatever the type of x.
    """
    c = x.shape[-1]
    heads = c // head_channels
    split = (heads, 3, head_channels) if order == "legacy" else (3, heads, head_channels)
    axis = 1 if order == "legacy" else 0
    kernel, bias = kernel.astype(x.dtype), bias.astype(x.dtype)
    if on_tpu():  # taking one product apart again would be copies
        kernels = jnp.moveaxis(kernel.reshape(c, *split), 1 + axis, 0).reshape(3, c, c)
        biases = jnp.moveaxis(bias.reshape(split), axis, 0).reshape(3, c)
        tokens = (*x.shape[:2], heads, head_channels)
        q, k, v = ((x @ kernels[i] + biases[i]).reshape(tokens) for i in range(3))
        return jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
    if not on_cpu():
        qkv = (x @ kernel + bias).reshape(*x.shape[:2], *split)
        q, k, v = jnp.moveaxis(qkv, 2 + axis, 0)
        return jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
    # Heads first, from the projection on: nothing is transposed on the way there and back.
    kernels = jnp.moveaxis(kernel.reshape(c, *split), 1 + axis, 0)  # [3,C,heads,d]
    biases = jnp.moveaxis(bias.reshape(split), axis, 0)  # [3,heads,d]
    q, k, v = (
        jnp.einsum("btc,chd->bhtd", x, kernels[i]) + biases[i][None, :, None] for i in range(3)
    )
    logits = (q * head_channels**-0.5) @ k.swapaxes(-1, -2)
    weights = jax.nn.softmax(logits.astype(jnp.float32), axis=-1).astype(x.dtype)
    return (weights @ v).swapaxes(1, 2).reshape(x.shape)
