"""Which network some tensors are of: everything that their names and shapes tell.

What they do not tell, as the width of a head, has a default of the family that they come from.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tada_jax.model.unet import UNet
from tada_jax.weights import names


@dataclasses.dataclass(frozen=True)
class Inferred:
    """A network that weights are of.

    Attributes:
      family: "guided-diffusion", "improved-diffusion" or "diffusers".
      network: fields of `UNet` that the weights tell, apart from those below.
      assumed: fields of `UNet` that they do not tell, by the family.
      schedule: fields of the section `schedule` likewise.
      in_channels: of images.
      learned_variance: whether it has outputs for it.
      attends: for each level, whether it has attention.
      table: makes `names.Entry`s for a `UNet` of these fields.
      resolution: for which it was made, pixels; None where nothing tells.
      told: whether the file says what is `assumed` and the schedule itself, as ours do.
    """

    family: str
    network: dict[str, Any]
    assumed: dict[str, Any]
    schedule: dict[str, Any]
    in_channels: int
    learned_variance: bool
    attends: tuple[bool, ...]
    table: Callable[[UNet], list[names.Entry]]
    resolution: int | None = None
    told: bool = False

    def attention_resolutions(self, side):
        """The sides of levels with attention, for images whose longer side is `side` pixels."""
        return tuple(side // 2**level for level, has in enumerate(self.attends) if has)

    def unet(self, side, **others):
        """The `UNet` for images whose longer side is `side` pixels; `others` replace fields."""
        fields = self.network | self.assumed | others
        outputs = self.in_channels * (2 if self.learned_variance else 1)
        return UNet(outputs, attention_resolutions=self.attention_resolutions(side), **fields)


def infer(shapes: dict[str, tuple[int, ...]], config: dict | None = None) -> Inferred:
    """The network of tensors.

    Args:
      shapes: of the tensors by their names.
      config: of diffusers' `config.json`, where there is one.

    Raises:
      ValueError: as the end of a sentence that begins with the file, if they are of none that is
        known.
    """
    if "time_embed.0.weight" in shapes and "input_blocks.0.0.weight" in shapes:
        return _of_adm(shapes)
    if "time_embedding.linear_1.weight" in shapes and "conv_in.weight" in shapes:
        if config is None:
            raise ValueError(
                "has the names of diffusers, whose settings are in config.json: name the folder "
                "that has both"
            )
        return _of_diffusers(shapes, config)
    for beginning, whose in _OTHERS.items():
        if any(name.startswith(beginning) for name in shapes):
            raise ValueError(f"is of {whose}, whose network is another one: {_READ}")
    some = ", ".join(list(shapes)[:3]) or "no tensors"
    raise ValueError(f"is of no network that is known (it has {some}): {_READ}")


_READ = "guided-diffusion's, improved-diffusion's and diffusers' UNet2DModel are read"
_OTHERS = {
    "model.diffusion_model.": "latent diffusion",
    "model.map_noise.": "EDM",
    "map_noise.": "EDM",
    "module.": "a model that was saved in parallel (its names begin with module.)",
    "model.": "a model inside another (its names begin with model.)",
    "init_conv.": "denoising-diffusion-pytorch",
    "model.init_conv.": "denoising-diffusion-pytorch",
    "x_embedder.": "DiT",
}


def _shape(shapes, name, axes):
    """The shape of a tensor that must be there, with so many axes, none of them empty."""
    if name not in shapes:
        raise ValueError(f"lacks {name}: fetch it again, or save the whole state dict")
    shape = shapes[name]
    if len(shape) != axes or not all(shape):
        raise ValueError(f"has {name} of the shape {list(shape)}, which does not fit")
    return shape


def _multiples(widths, channels):
    made = [width / channels for width in widths]
    return tuple(int(m) if m == int(m) else m for m in made)


# guided-diffusion and its kin


def _of_adm(shapes) -> Inferred:
    channels = _shape(shapes, "time_embed.0.weight", 2)[1]
    in_channels = _shape(shapes, "input_blocks.0.0.weight", 4)[1]
    outputs = _shape(shapes, "out.2.weight", 4)[0]
    inputs = _modules(shapes, "input_blocks")
    up = _modules(shapes, "output_blocks")
    if not up:
        raise ValueError("lacks output_blocks: fetch it again, or save the whole state dict")
    last = max(up)
    sides = {block: {module for module, inside in parts} for block, parts in up.items()}

    def resamples(block):
        """Whether a block of the way up enlarges: by a residual block or a convolution."""
        inside = {(module, part) for module, part in up[block] if module}
        return any(part in ("in_layers", "conv") for _, part in inside)

    enlarging = [block for block in sorted(up) if resamples(block)]
    gaps = [block for block in range(max(inputs) + 1) if block not in inputs]  # average pools
    if enlarging:
        blocks = enlarging[0]
    elif gaps:
        blocks = gaps[0] - 1
    else:
        blocks = last
    levels, rest = divmod(last + 1, blocks + 1)
    expected = 1 + levels * blocks + levels - 1
    if rest or max(inputs) + 1 != expected or len(sides) != last + 1:
        raise ValueError(
            f"has {max(inputs) + 1} input blocks and {last + 1} output blocks, which are no whole "
            "levels: fetch it again, or save the whole state dict"
        )
    firsts = [1 + level * (blocks + 1) for level in range(levels)]
    widths = [_shape(shapes, f"input_blocks.{i}.0.out_layers.3.weight", 4)[0] for i in firsts]
    attends = tuple(f"input_blocks.{i}.1.qkv.weight" in shapes for i in firsts)
    # Of a single level nothing tells, and nothing depends on it.
    updown = levels == 1 or any(
        part == "in_layers" for block in enlarging for module, part in up[block] if module
    )
    embedded = _shape(shapes, "input_blocks.1.0.emb_layers.1.weight", 2)[0]
    scale_shift = embedded == 2 * widths[0]
    improved = not updown
    classes = 0
    if "label_emb.weight" in shapes:
        classes = _shape(shapes, "label_emb.weight", 2)[0]
    network = {
        "channels": channels,
        "channel_mult": _multiples(widths, channels),
        "num_res_blocks": blocks,
        "resblock_updown": updown,
        "conv_resample": bool(enlarging) or levels == 1,
        "scale_shift": scale_shift,
        "num_classes": classes,
    }
    assumed = {"norm_groups": 32, "attention_order": "legacy"}
    assumed |= {"head_channels": 64, "num_heads": 4 if improved else 0}
    schedule = {"name": "linear", "total_timesteps": 1000, "rescale_timesteps": False}
    if improved:
        schedule = {"name": "cosine", "total_timesteps": 4000, "rescale_timesteps": True}
    return Inferred(
        "improved-diffusion" if improved else "guided-diffusion",
        network,
        assumed,
        schedule,
        in_channels,
        _learned(outputs, in_channels),
        attends,
        lambda network: names.of_adm(network, attends),
        _RESOLUTIONS.get(network["channel_mult"]),
    )


# Of published models: ADM's choice of widths goes with the resolution.
_RESOLUTIONS = {
    (1, 2, 2, 2): 32,
    (1, 2, 3, 4): 64,
    (1, 1, 2, 3, 4): 128,
    (1, 1, 2, 2, 4, 4): 256,
    (0.5, 1, 1, 2, 2, 4, 4): 512,
}


def _modules(shapes, stack) -> dict[int, set[tuple[int, str]]]:
    """{block: {(module in it, part of that)}} of names as `input_blocks.3.0.in_layers.2.weight`."""
    found = {}
    for name in shapes:
        match = re.match(rf"{stack}\.(\d+)\.(\d+)\.(\w+)", name)
        if match:
            found.setdefault(int(match[1]), set()).add((int(match[2]), match[3]))
    return found


def _learned(outputs, in_channels) -> bool:
    if outputs not in (in_channels, 2 * in_channels):
        raise ValueError(
            f"is of a network from {in_channels} channels to {outputs}: as many, or twice as many "
            "with a learned variance, can be used (a super-resolution or inpainting model cannot)"
        )
    return outputs == 2 * in_channels


# diffusers


class _Config:
    """The config.json of diffusers, whose fields have types; null counts as missing."""

    def __init__(self, fields: dict):
        self._fields = fields

    def whole(self, name, default, least=0, most=100_000):
        """A whole number between two."""
        value = self._fields.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"has {name}={_short(value)}, no number from {least} to {most:,}")
        return value

    def wholes(self, name):
        """A list of positive whole numbers."""
        value = self._fields.get(name)
        numbers = isinstance(value, list) and all(
            isinstance(x, int) and not isinstance(x, bool) and x > 0 for x in value
        )
        if not numbers or not value:
            raise ValueError(f"has {name}={_short(value)}, no list of whole numbers")
        return value

    def texts(self, name):
        """A list of texts."""
        value = self._fields.get(name)
        if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
            raise ValueError(f"has {name}={_short(value)}, no list of texts")
        return value

    def one_of(self, name, default, known):
        """One of some values."""
        value = self._fields.get(name)
        value = default if value is None else value
        if not any(value is each or value == each for each in known):
            raise ValueError(
                f"has {name}={_short(value)}, and {', '.join(map(str, known))} is known"
            )
        return value

    def number(self, name, default):
        """A positive number."""
        value = self._fields.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            raise ValueError(f"has {name}={_short(value)}, no number between 0 and 1")
        return float(value)

    def side(self, name):
        """The longer side of a size, a number or two; None without."""
        value = self._fields.get(name)
        sides = value if isinstance(value, list) else [value]
        if value is None or not sides or not all(type(x) is int and x > 0 for x in sides):
            return None
        return max(sides)


def _short(value) -> str:
    return repr(value)[:40]


def _of_diffusers(shapes, fields) -> Inferred:
    config = _Config(fields)
    widths = config.wholes("block_out_channels")
    levels = len(widths)
    down, up = config.texts("down_block_types"), config.texts("up_block_types")
    strange = sorted({*down, *up} - _BLOCKS)
    if strange:
        raise ValueError(
            f"is of a network of {', '.join(strange)} blocks: of UNet2DModel, those of "
            f"{', '.join(sorted(_BLOCKS))} are known"
        )
    if not len(down) == len(up) == levels:
        raise ValueError(
            f"has {levels} block_out_channels, {len(down)} down_block_types and {len(up)} "
            "up_block_types, which must be as many"
        )
    attends = tuple(kind.startswith("Attn") for kind in down)
    if attends != tuple(kind.startswith("Attn") for kind in reversed(up)):
        raise ValueError("has other attention on the way up than on the way down")
    for field, (known, what) in _FIXED.items():
        value = fields.get(field)
        if value is not None and not any(value == each for each in known):
            raise ValueError(f"has {field}={_short(value)}, and {what}")
    in_channels = config.whole("in_channels", 3, 1)
    outputs = config.whole("out_channels", 3, 1)
    groups = config.whole("norm_num_groups", 32, 1)
    if config.whole("attn_norm_num_groups", groups, 1) != groups:
        raise ValueError("has attentions with other norm_num_groups than its other blocks")
    one_head = "attention_head_dim" in fields and fields["attention_head_dim"] is None
    head = config.whole("attention_head_dim", 8, 1)
    times = ("default", "scale_shift")
    shift = config.one_of("resnet_time_scale_shift", "default", times) == "scale_shift"
    if shift and fields.get("attn_norm_num_groups") is None:
        raise ValueError(
            "has no attn_norm_num_groups beside scale_shift, with which diffusers leaves the "
            "normalisation before its middle attention out"
        )
    padding = config.whole("downsample_padding", 1, 0, 1)
    flipped = config.one_of("flip_sin_to_cos", True, (True, False))
    classes = 0
    if "class_embedding.weight" in shapes:
        classes = _shape(shapes, "class_embedding.weight", 2)[0]
    network = {
        "channels": widths[0],
        "channel_mult": _multiples(widths, widths[0]),
        # Each has tensors: no more than there are, whatever the number says.
        "num_res_blocks": config.whole("layers_per_block", 2, 1, len(shapes)),
        "resblock_updown": _resampling(config, [*down, *up]),
        "conv_resample": True,
        "downsample_padding": "both" if padding else "end",
        "scale_shift": shift,
        "norm_groups": groups,
        "norm_epsilon": config.number("norm_eps", 1e-5),
        "time_embedding": "cos_sin" if flipped else "sin_cos",
        "time_shift": config.whole("freq_shift", 0, 0, 1),
        "num_classes": classes,
        **({"num_heads": 1} if one_head else {"head_channels": head, "num_heads": 0}),
        "attention_order": "new",  # that is how its three parts are joined
    }
    old = any(name.endswith("attentions.0.query.weight") for name in shapes)
    return Inferred(
        "diffusers",
        network,
        {},
        {"name": "linear", "total_timesteps": 1000, "rescale_timesteps": False},
        in_channels,
        _learned(outputs, in_channels),
        attends,
        lambda network: names.of_diffusers(network, attends, old_attention=old),
        config.side("sample_size"),
    )


_BLOCKS = {
    "DownBlock2D",
    "AttnDownBlock2D",
    "ResnetDownsampleBlock2D",
    "UpBlock2D",
    "AttnUpBlock2D",
    "ResnetUpsampleBlock2D",
}
_FIXED = {
    "center_input_sample": ((False,), "inputs are not shifted here"),
    "time_embedding_type": (("positional",), "t is told by a positional embedding here"),
    "act_fn": (("silu", "swish"), "activations are SiLU here"),
    "mid_block_scale_factor": ((1,), "blocks are not scaled here"),
    "add_attention": ((True,), "there is always attention in the middle here"),
    "resnet_time_scale_shift": (("default", "scale_shift"), "the embedding is added, or scales"),
    "class_embed_type": ((None,), "classes are told by an embedding here"),
    "mid_block_type": (("UNetMidBlock2D",), "there is always a middle block here"),
}


def _resampling(config, kinds) -> bool:
    """Whether sizes change inside residual blocks."""
    with_attention = any(kind.startswith("Attn") for kind in kinds)
    ways_known = ("conv", "resnet")
    fields = ("downsample_type", "upsample_type")
    asked = {config.one_of(field, "conv", ways_known) for field in fields}
    plain = {kind for kind in kinds if kind in ("DownBlock2D", "UpBlock2D")}
    inside = {kind for kind in kinds if kind.startswith("Resnet")}
    ways = set()
    if with_attention:
        ways |= {way == "resnet" for way in asked}
    if plain:
        ways.add(False)
    if inside:
        ways.add(True)
    if len(ways) > 1:
        raise ValueError("changes sizes inside residual blocks in some of its levels alone")
    return ways.pop()


def check(
    shapes: dict[str, tuple[int, ...]], entries: list[names.Entry], wanted: dict[tuple, tuple]
) -> None:
    """Makes sure that tensors are all there, of the right shapes, and nothing else.

    Args:
      shapes: of the tensors by their names.
      entries: the table of the network.
      wanted: shapes of its parameters by their paths, as of `names.shapes`.

    Raises:
      ValueError: as the end of a sentence that begins with the file.
    """
    known = {name for entry in entries for name in entry.names}
    missing = sorted(known - shapes.keys())
    if missing:
        raise ValueError(f"lacks {_listed(missing)}: fetch it again, or save the whole state dict")
    extra = sorted(shapes.keys() - known)
    if extra:
        raise ValueError(f"has {_listed(extra)} besides, which the network has no place for")
    for entry in entries:
        zeros = [np.broadcast_to(np.float32(0), shapes[name]) for name in entry.names]
        try:
            shape = entry.to_ours(zeros).shape
        except ValueError:
            shape = None
        if shape != wanted[entry.path]:
            found = list(shapes[entry.names[0]])
            raise ValueError(f"has {entry.names[0]} of the shape {found}, which does not fit")


def _listed(some) -> str:
    return ", ".join(some[:3]) + (f" and {len(some) - 3:,} more" if len(some) > 3 else "")
