"""The ADM U-Net (Dhariwal & Nichol 2021, "Diffusion Models Beat GANs"), in flax.linen.

The only file that knows flax.linen; everything else sees `network.apply(params, z, t)`.
Parameters are float32. Computation may be bfloat16, but normalisation and softmax are float32.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tada_jax.model import layers

# PyTorch's default for convolutions and linear layers, which ADM inherits (its biases, drawn from
# the same interval there, start at zero here).
fan_in_uniform = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


def timestep_embedding(t, dim, *, order="cos_sin", shift=0):
    """Sinusoidal embedding [B] -> float32 [B, dim], periods from 2 pi to about 2e4 pi.

    Of an odd `dim` it has dim - 1 entries.

    Args:
      t: [B].
      dim: of the embedding.
      order: of its halves, "cos_sin" (ADM) or "sin_cos" (DDPM).
      shift: the longest period is reached `shift` entries before the end of a half: at 0 just not
        (ADM), at 1 by the last (DDPM).
    """
    half = dim // 2
    frequencies = jnp.exp(-np.log(1e4) / (half - shift) * jnp.arange(half, dtype=jnp.float32))
    angles = t.astype(jnp.float32)[:, None] * frequencies
    waves = [jnp.cos(angles), jnp.sin(angles)]
    return jnp.concatenate(waves if order == "cos_sin" else waves[::-1], axis=-1)


class Conv(nn.Module):
    """A convolution padded to keep the size (at stride 1); `zero` starts it at zero.

    With `upsample` it is that of the image enlarged twice by nearest neighbour; only for size 3.
    With strides it may be padded at the "end" of rows and columns alone.
    """

    features: int
    size: int
    dtype: Any
    zero: bool = False
    strides: int = 1
    upsample: bool = False
    padding: str = "both"

    @nn.compact
    def __call__(self, x):
        shape = (self.size, self.size, x.shape[-1], self.features)
        init = nn.initializers.zeros if self.zero else fan_in_uniform
        kernel = self.param("kernel", init, shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.upsample and (layers.on_cpu() or layers.on_tpu()):
            return layers.add_bias(layers.upsampled_convolution(x, kernel), bias)
        x = layers.upsample(x) if self.upsample else x
        x = layers.convolution(x, kernel, strides=self.strides, padding=self.padding)
        return layers.add_bias(x, bias)


class Dense(nn.Module):
    """A linear layer; `zero` starts it at zero."""

    features: int
    dtype: Any
    zero: bool = False

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.zeros if self.zero else fan_in_uniform
        kernel = self.param("kernel", init, (x.shape[-1], self.features)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return layers.add_bias(layers.linear(x.astype(self.dtype), kernel), bias)


class Norm(nn.Module):
    """GroupNorm in float32 and perhaps SiLU, returned in the type of the input.

    The scale and shift of `modulation` [B,2C] come on top of those that are learnt.
    """

    groups: int
    silu: bool = True
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x, modulation=None):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        shift = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        if modulation is not None:
            more, offset = jnp.split(modulation, 2, axis=-1)
            scale, shift = scale * (1.0 + more), shift * (1.0 + more) + offset
        return layers.group_norm(
            x, scale, shift, groups=self.groups, silu=self.silu, epsilon=self.epsilon
        )


class ResBlock(nn.Module):
    """Residual block that is told the noise level, optionally resampling both of its paths.

    With `scale_shift` the embedding scales and shifts what was normalised, as in ADM; without it is
    added before, as in DDPM.
    """

    features: int
    groups: int
    dropout: float
    dtype: Any
    resample: str = "none"  # "none", "down" or "up"
    scale_shift: bool = True
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x, emb, deterministic):
        h = Norm(self.groups, epsilon=self.epsilon, name="norm_in")(x)
        up, down = self.resample == "up", self.resample == "down"
        h = layers.downsample(h) if down else h
        h = Conv(self.features, 3, self.dtype, upsample=up, name="conv_in")(h)
        x = layers.downsample(x) if down else layers.upsample(x) if up else x

        told = self.features * (2 if self.scale_shift else 1)
        told = Dense(told, jnp.float32, name="emb")(nn.silu(emb))
        norm_out = Norm(self.groups, epsilon=self.epsilon, name="norm_out")
        if self.scale_shift:
            h = norm_out(h, told)
        else:
            h = norm_out(h + told[:, None, None, :].astype(h.dtype))
        if self.dropout and not deterministic:
            h = layers.dropout(self.make_rng("dropout"), h, self.dropout)
        h = Conv(self.features, 3, self.dtype, zero=True, name="conv_out")(h)

        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, self.dtype, name="skip")(x)
        return x + h


class Heads(nn.Module):
    """The projection to q, k and v, and their attention: tokens [B,T,C] -> [B,T,C]."""

    head_channels: int
    order: str

    @nn.compact
    def __call__(self, tokens):
        c = tokens.shape[-1]
        kernel = self.param("kernel", fan_in_uniform, (c, 3 * c))
        bias = self.param("bias", nn.initializers.zeros, (3 * c,))
        return layers.self_attention(
            tokens, kernel, bias, head_channels=self.head_channels, order=self.order
        )


class Attention(nn.Module):
    """Self-attention over all pixels, with heads of `head_channels` channels."""

    head_channels: int
    groups: int
    order: str  # channel order of qkv: "legacy" (heads, qkv, ch) or "new" (qkv, heads, ch)
    dtype: Any
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x):
        b, h, w, c = x.shape
        norm = Norm(self.groups, silu=False, epsilon=self.epsilon, name="norm")
        tokens = norm(x).reshape(b, h * w, c)
        y = Heads(self.head_channels, self.order, name="qkv")(tokens)
        y = Dense(c, self.dtype, zero=True, name="proj")(y)
        return x + y.reshape(b, h, w, c)


class Downsample(nn.Module):
    """Plain downsampling, for `resblock_updown=False`: a strided convolution, or averages."""

    features: int
    dtype: Any
    convolve: bool = True
    padding: str = "both"

    @nn.compact
    def __call__(self, x):
        if not self.convolve:
            return layers.downsample(x)
        options = {"strides": 2, "padding": self.padding, "name": "conv"}
        return Conv(self.features, 3, self.dtype, **options)(x)


class Upsample(nn.Module):
    """Plain upsampling: nearest neighbour, and perhaps a convolution."""

    features: int
    dtype: Any
    convolve: bool = True

    @nn.compact
    def __call__(self, x):
        if not self.convolve:
            return layers.upsample(x)
        return Conv(self.features, 3, self.dtype, upsample=True, name="conv")(x)


class UNet(nn.Module):
    """ADM: z_t [B,H,W,C], t [B] -> [B,H,W,out_channels], float32.

    Attributes:
      out_channels: C, or 2C for a learned variance.
      channels: unit of the widths; the embedding of t has four times as many.
      channel_mult: width of each level in units of `channels`, 0.5 too; one level halves the size.
      num_res_blocks: residual blocks a level (one more on the way up).
      attention_resolutions: sides in pixels (the larger one, for images that are not square) of
        the levels with self-attention; the middle block always has one.
      head_channels: channels of one attention head.
      num_heads: heads of every attention, whatever its channels; 0: by `head_channels`.
      resblock_updown: resample inside residual blocks rather than by plain layers.
      conv_resample: whether those plain layers convolve.
      downsample_padding: of such a convolution with stride 2, "both" sides (ADM) or the "end"
        (DDPM).
      scale_shift: whether the embedding scales and shifts what is normalised, or is added before.
      attention_order: channel order of qkv, "legacy" (ADM's default) or "new".
      norm_groups: groups of every GroupNorm.
      norm_epsilon: added to their variances.
      time_embedding: order of its halves, "cos_sin" (ADM) or "sin_cos" (DDPM).
      time_shift: of its frequencies, 0 (ADM) or 1 (DDPM), see `timestep_embedding`.
      dropout: rate in the residual blocks.
      num_classes: 0 for an unconditional network.
      condition_size: length of a vector that it is told besides, as how an image was augmented; 0
        for none. It enters as in EDM (Karras et al. 2022, appendix F.2), by a layer without bias
        that starts at zero, so that zeros say nothing.
      dtype: of the computation, "float32" or "bfloat16".
      remat: recompute the activations of every block in the backward pass, to save memory.
    """

    out_channels: int
    channels: int = 64
    channel_mult: Sequence[int] = (1, 2, 3, 4)
    num_res_blocks: int = 1
    attention_resolutions: Sequence[int] = (16,)
    head_channels: int = 64
    num_heads: int = 0
    resblock_updown: bool = True
    conv_resample: bool = True
    downsample_padding: str = "both"
    scale_shift: bool = True
    attention_order: str = "legacy"
    norm_groups: int = 32
    norm_epsilon: float = 1e-5
    time_embedding: str = "cos_sin"
    time_shift: int = 0
    dropout: float = 0.0
    num_classes: int = 0
    condition_size: int = 0
    dtype: str = "float32"
    remat: bool = False

    RANGES: ClassVar = {
        "channels": (2, math.inf),
        "num_res_blocks": (1, math.inf),
        "head_channels": (1, math.inf),
        "num_heads": (0, math.inf),
        "norm_groups": (1, math.inf),
        "norm_epsilon": (math.ulp(0), 1),
        "time_shift": (0, 1),
        "dropout": (0, math.nextafter(1, 0)),
    }

    @nn.compact
    def __call__(self, z, t, labels=None, condition=None, *, deterministic=True):
        """Predicts from z_t.

        Args:
          z: noisy images [B,H,W,C].
          t: timesteps [B], or whatever else tells the noise level.
          labels: classes, int [B], if and only if `num_classes` > 0; -1 for no class.
          condition: float [B,condition_size]; None for zeros.
          deterministic: False to drop units out (needs the rng "dropout").

        Raises:
          ValueError: if a level cannot halve H or W, or widths do not divide by groups or heads.
        """
        self.check(z.shape[1:3])
        if (labels is not None) != (self.num_classes > 0):
            raise ValueError("labels must be given if and only if num_classes > 0")
        if condition is not None and condition.shape[-1] != self.condition_size:
            raise ValueError(f"condition has {condition.shape[-1]} entries, not condition_size")
        # As in ADM, the embedding and the output stay float32: an 8-bit eps_hat would be amplified
        # by 1/alpha at the noisy end.
        layer = _Layers(self, _embedding(self, t, labels, condition), deterministic)
        h = Conv(self.width(0), 3, layer.dtype, name="conv_in")(z.astype(layer.dtype))
        skips = [h]
        last = len(self.channel_mult) - 1
        for level in range(last + 1):
            features = self.width(level)
            for i in range(self.num_res_blocks):
                h = layer.res(h, features, f"down{level}_res{i}")
                h = layer.attend_at_some(h, f"down{level}_attn{i}")
                skips.append(h)
            if level != last:
                h = layer.change_size(h, features, "down", f"down{level}_down")
                skips.append(h)

        h = layer.res(h, features, "mid_res0")
        h = layer.attend(h, "mid_attn")
        h = layer.res(h, features, "mid_res1")

        for level in reversed(range(last + 1)):
            features = self.width(level)
            for i in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], -1)
                h = layer.res(h, features, f"up{level}_res{i}")
                h = layer.attend_at_some(h, f"up{level}_attn{i}")
            if level:
                h = layer.change_size(h, features, "up", f"up{level}_up")

        norm_out = Norm(self.norm_groups, epsilon=self.norm_epsilon, name="norm_out")
        h = norm_out(h.astype(jnp.float32))
        return Conv(self.out_channels, 3, jnp.float32, zero=True, name="conv_out")(h)

    def width(self, level):
        """Channels of a level; those of the first are the stem's too, as in ADM.

        Raises:
          ValueError: if they are no whole number.
        """
        width = self.channel_mult[level] * self.channels
        if width != int(width) or width < 1:
            raise ValueError(
                f"channel_mult={tuple(self.channel_mult)} gives a level of {width:g} channels with "
                f"channels={self.channels}: choose factors that give whole widths"
            )
        return int(width)

    def head_width(self, width):
        """Channels of a head of an attention of `width` channels."""
        return width // self.num_heads if self.num_heads else self.head_channels

    def check(self, size):
        """Raises ValueError if images of `size` (H, W) or these widths cannot be processed."""
        factor = 2 ** (len(self.channel_mult) - 1)
        if any(side % factor for side in size):
            raise ValueError(
                f"images of {size[0]}x{size[1]} pixels do not fit channel_mult="
                f"{tuple(self.channel_mult)}: with {len(self.channel_mult)} levels, height and "
                f"width must be multiples of {factor}; use fewer levels or another size"
            )
        sides = [max(size) // 2**level for level in range(len(self.channel_mult))]
        widths = [self.width(level) for level in range(len(sides))]
        attended = [
            width
            for width, side in zip(widths, sides)
            if side in self.attention_resolutions or side == sides[-1]
        ]
        heads = "num_heads" if self.num_heads else "head_channels"
        wrong, right = [], []
        for name, divided in (("norm_groups", widths), (heads, attended)):
            by = getattr(self, name)
            uneven = [width for width in dict.fromkeys(divided) if width % by]
            if uneven:
                wrong.append(f"{_listed(uneven)} channels do not divide by {name}={by}")
                common = math.gcd(*divided)
                most = max(d for d in range(1, min(by, common + 1)) if common % d == 0)
                right.append(f"{name}={most}" if most > 1 else "")
        if wrong:
            remedy = f", or set {' and '.join(right)}" if all(right) else ""
            raise ValueError(
                f"levels of {' and '.join(wrong)}; change channels={self.channels}{remedy}"
            )


def _listed(numbers):
    return ", ".join(map(str, numbers))


# Parts of `UNet.__call__`; their layers are the network's.


def _embedding(net, t, labels, condition):
    """What the residual blocks are told of noise level, class and condition: [B,4 channels]."""
    options = {"order": net.time_embedding, "shift": net.time_shift}
    emb = timestep_embedding(t, net.channels, **options)
    if net.condition_size:
        told = jnp.zeros((len(emb), net.condition_size)) if condition is None else condition
        zeros, width = nn.initializers.zeros, emb.shape[-1]  # one less than odd `channels`
        emb = emb + nn.Dense(width, use_bias=False, kernel_init=zeros, name="condition_in")(told)
    emb = nn.silu(Dense(4 * net.channels, jnp.float32, name="time_in")(emb))
    emb = Dense(4 * net.channels, jnp.float32, name="time_out")(emb)
    if net.num_classes:
        normal = nn.initializers.normal(1.0)
        embed = nn.Embed(net.num_classes, 4 * net.channels, embedding_init=normal)
        known = (labels >= 0)[:, None]
        emb = emb + jnp.where(known, embed(jnp.maximum(labels, 0)), 0.0)
    return emb


@dataclasses.dataclass(frozen=True, eq=False)
class _Layers:
    """The layers of a network by their names, all told the same.

    Attributes:
      net: the `UNet`.
      emb: of `_embedding`.
      deterministic: whether no units are dropped.
    """

    net: UNet
    emb: jax.Array
    deterministic: bool

    @property
    def dtype(self):
        return jnp.dtype(self.net.dtype)

    def res(self, h, features, name, resample="none"):
        net = self.net
        options = {"scale_shift": net.scale_shift, "epsilon": net.norm_epsilon, "name": name}
        block = nn.remat(ResBlock, static_argnums=(3,)) if net.remat else ResBlock
        layer = block(features, net.norm_groups, net.dropout, self.dtype, resample, **options)
        return layer(h, self.emb, self.deterministic)

    def attend(self, h, name):
        net = self.net
        options = {"epsilon": net.norm_epsilon, "name": name}
        attention = nn.remat(Attention) if net.remat else Attention
        width = net.head_width(h.shape[-1])
        return attention(width, net.norm_groups, net.attention_order, self.dtype, **options)(h)

    def attend_at_some(self, h, name):
        """Only at the levels of `attention_resolutions`."""
        attends = max(h.shape[1:3]) in self.net.attention_resolutions
        return self.attend(h, name) if attends else h

    def change_size(self, h, features, direction, name):
        net = self.net
        if net.resblock_updown:
            return self.res(h, features, name, direction)
        options = {"convolve": net.conv_resample, "name": name}
        if direction == "up":
            return Upsample(features, self.dtype, **options)(h)
        return Downsample(features, self.dtype, padding=net.downsample_padding, **options)(h)


def with_condition(params, like):
    """The same network for another length of its `condition`, which then says nothing.

    Args:
      params: of a `UNet`.
      like: a pytree of arrays or shapes as of the network that is wanted, for its `condition_in`;
        None for a network without one.
    """
    own = {name: value for name, value in params["params"].items() if name != "condition_in"}
    if like is not None and "condition_in" in like["params"]:
        wanted = like["params"]["condition_in"]
        own["condition_in"] = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), wanted)
    return {**params, "params": own}


def count_parameters(params):
    """Total number of parameters in a pytree of arrays or shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
