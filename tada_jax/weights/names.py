"""The names of a network's parameters in other codebases, a table each.

guided-diffusion, improved-diffusion and P2-weighting number the blocks of ADM in the order in which
they are made; diffusers' UNet2DModel, which can be the same network, has them by level. Kernels are
[O,I,H,W] and [O,I] there, [H,W,I,O] and [I,O] here; diffusers keeps the three parts of an
attention's projection apart.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tada_jax.model.unet import UNet


@dataclasses.dataclass(frozen=True)
class Entry:
    """A parameter in both codebases.

    Attributes:
      path: of ours, as ("down0_res0", "conv_in", "kernel").
      names: of theirs; three where an attention's projection is in parts.
      to_ours: of arrays of theirs.
      to_theirs: of an array of ours, as many arrays as there are names.
    """

    path: tuple[str, ...]
    names: tuple[str, ...]
    to_ours: Callable[[Sequence[np.ndarray]], np.ndarray]
    to_theirs: Callable[[np.ndarray], Sequence[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Block:
    """Some layers of the network that both codebases have.

    Attributes:
      name: ours, as "down0_res0".
      kind: "conv", "norm", "dense", "embedding", "res", "attention" or "resample", which is a
        convolution below `conv`.
      level: 0 for full size; None outside of the levels.
      index: of the block in its level and direction; None where there is one alone.
      skips: whether a residual block has a projection on its way around.
      heads: of an attention.
    """

    name: str
    kind: str
    level: int | None = None
    index: int | None = None
    skips: bool = False
    heads: int = 0


def blocks(network: UNet, attends: Sequence[bool]) -> Iterator[Block]:
    """The blocks of a network, in the order in which they are computed.

    Args:
      network: the U-Net.
      attends: for each level, whether it has attention.
    """
    if network.num_classes:
        yield Block("Embed_0", "embedding")
    yield Block("time_in", "dense")
    yield Block("time_out", "dense")
    yield Block("conv_in", "conv")
    levels = range(len(network.channel_mult))
    here = network.width(0)
    widths = [here]
    resample = "res" if network.resblock_updown else "resample"

    def attention(name, level, index):
        heads = here // network.head_width(here)
        return Block(name, "attention", level, index, heads=heads)

    for level in levels:
        out = network.width(level)
        for i in range(network.num_res_blocks):
            yield Block(f"down{level}_res{i}", "res", level, i, skips=here != out)
            here = out
            if attends[level]:
                yield attention(f"down{level}_attn{i}", level, i)
            widths.append(here)
        if level != levels[-1]:
            yield Block(f"down{level}_down", resample, level)
            widths.append(here)
    yield Block("mid_res0", "res", None, 0)
    yield attention("mid_attn", None, None)
    yield Block("mid_res1", "res", None, 1)
    for level in reversed(levels):
        out = network.width(level)
        for i in range(network.num_res_blocks + 1):
            joined = here + widths.pop()  # with what comes from the way down
            yield Block(f"up{level}_res{i}", "res", level, i, skips=joined != out)
            here = out
            if attends[level]:
                yield attention(f"up{level}_attn{i}", level, i)
        if level:
            yield Block(f"up{level}_up", resample, level)
    yield Block("norm_out", "norm")
    yield Block("conv_out", "conv")


# Arrays


def _as_is(array):
    return array


def _conv_to_ours(array):
    return np.transpose(array, (2, 3, 1, 0))


def _conv_to_theirs(array):
    return np.transpose(array, (3, 2, 0, 1))


def _transposed(array):
    return np.transpose(array)


def _conv1d_to_ours(array):
    """Of [O,I,1], as ADM's attention has it, or [O,I]."""
    return np.transpose(array.reshape(array.shape[:2]))


def _conv1d_to_theirs(array):
    return np.transpose(array)[..., None]


def _single(path, name, to_ours=_as_is, to_theirs=_as_is) -> Entry:
    return Entry(path, (name,), lambda some: to_ours(some[0]), lambda array: [to_theirs(array)])


def _conv(path, name) -> list[Entry]:
    return [
        _single((*path, "kernel"), f"{name}.weight", _conv_to_ours, _conv_to_theirs),
        _single((*path, "bias"), f"{name}.bias"),
    ]


def _dense(path, name) -> list[Entry]:
    return [
        _single((*path, "kernel"), f"{name}.weight", _transposed, _transposed),
        _single((*path, "bias"), f"{name}.bias"),
    ]


def _conv1d(path, name) -> list[Entry]:
    return [
        _single((*path, "kernel"), f"{name}.weight", _conv1d_to_ours, _conv1d_to_theirs),
        _single((*path, "bias"), f"{name}.bias"),
    ]


def _norm(path, name) -> list[Entry]:
    return [
        _single((*path, "scale"), f"{name}.weight"),
        _single((*path, "bias"), f"{name}.bias"),
    ]


def _embedding(path, name) -> list[Entry]:
    return [_single((*path, "embedding"), f"{name}.weight")]


def _three(path, names, order, heads) -> list[Entry]:
    """A projection to q, k and v that theirs keeps in three: [O,I] each, and biases [O]."""
    axis = 1 if order == "legacy" else 0  # of the three, in (heads, 3, d) or (3, heads, d)

    def joined(parts):
        parts = [part.reshape(heads, -1, *part.shape[1:]) for part in parts]
        whole = np.stack(parts, axis)
        return whole.reshape(-1, *whole.shape[3:])

    def split(whole):
        shape = (heads, 3, -1) if axis else (3, heads, -1)
        parts = np.moveaxis(whole.reshape(*shape, *whole.shape[1:]), axis, 0)
        return [part.reshape(-1, *whole.shape[1:]) for part in parts]

    return [
        Entry(
            (*path, "kernel"),
            tuple(f"{name}.weight" for name in names),
            lambda some: _transposed(joined(some)),
            lambda array: split(_transposed(array)),
        ),
        Entry((*path, "bias"), tuple(f"{name}.bias" for name in names), joined, split),
    ]


# guided-diffusion


def of_adm(network: UNet, attends: Sequence[bool]) -> list[Entry]:
    """The table of guided-diffusion, improved-diffusion and P2-weighting; arguments as `blocks`."""
    residual = {
        "norm_in": (_norm, "in_layers.0"),
        "conv_in": (_conv, "in_layers.2"),
        "emb": (_dense, "emb_layers.1"),
        "norm_out": (_norm, "out_layers.0"),
        "conv_out": (_conv, "out_layers.3"),
    }
    fixed = {
        "time_in": (_dense, "time_embed.0"),
        "time_out": (_dense, "time_embed.2"),
        "Embed_0": (_embedding, "label_emb"),
        "conv_in": (_conv, "input_blocks.0.0"),
        "norm_out": (_norm, "out.0"),
        "conv_out": (_conv, "out.2"),
        "mid_attn": (None, "middle_block.1"),
        "mid_res0": (None, "middle_block.0"),
        "mid_res1": (None, "middle_block.2"),
    }
    entries, place = [], {"down": 0, "up": -1}  # of the last block
    for block in blocks(network, attends):
        if block.name in fixed:
            make, name = fixed[block.name]
            if make:
                entries += make((block.name,), name)
                continue
        else:
            way = "down" if block.name.startswith("down") else "up"
            if block.kind == "attention":
                side = 1
            elif block.name.endswith("_up"):  # behind the last residual block, and its attention
                side = 2 if attends[block.level] else 1
            else:
                place[way] += 1
                side = 0
            stack = "input_blocks" if way == "down" else "output_blocks"
            name = f"{stack}.{place[way]}.{side}"
        if block.kind == "res":
            for part, (make, theirs) in residual.items():
                entries += make((block.name, part), f"{name}.{theirs}")
            if block.skips:
                entries += _conv((block.name, "skip"), f"{name}.skip_connection")
        elif block.kind == "attention":
            entries += _norm((block.name, "norm"), f"{name}.norm")
            entries += _conv1d((block.name, "qkv"), f"{name}.qkv")
            entries += _conv1d((block.name, "proj"), f"{name}.proj_out")
        elif network.conv_resample:
            inside = "conv" if block.name.endswith("_up") else "op"
            entries += _conv((block.name, "conv"), f"{name}.{inside}")
    return entries


# diffusers


def of_diffusers(
    network: UNet, attends: Sequence[bool], *, old_attention: bool = False
) -> list[Entry]:
    """The table of diffusers' UNet2DModel.

    Args:
      network, attends: as of `blocks`.
      old_attention: whether attentions have the names of diffusers before 0.18, as in the files of
        google/ddpm-*.
    """
    residual = {
        "norm_in": (_norm, "norm1"),
        "conv_in": (_conv, "conv1"),
        "emb": (_dense, "time_emb_proj"),
        "norm_out": (_norm, "norm2"),
        "conv_out": (_conv, "conv2"),
    }
    fixed = {
        "time_in": (_dense, "time_embedding.linear_1"),
        "time_out": (_dense, "time_embedding.linear_2"),
        "Embed_0": (_embedding, "class_embedding"),
        "conv_in": (_conv, "conv_in"),
        "norm_out": (_norm, "conv_norm_out"),
        "conv_out": (_conv, "conv_out"),
    }
    parts = ("query", "key", "value") if old_attention else ("to_q", "to_k", "to_v")
    out = "proj_attn" if old_attention else "to_out.0"
    last = len(network.channel_mult) - 1
    entries = []
    for block in blocks(network, attends):
        if block.name in fixed:
            make, name = fixed[block.name]
            entries += make((block.name,), name)
            continue
        if block.level is None:
            where = "mid_block"
        elif block.name.startswith("down"):
            where = f"down_blocks.{block.level}"
        else:
            where = f"up_blocks.{last - block.level}"
        if block.kind == "attention":
            name = f"{where}.attentions.{block.index or 0}"
            entries += _norm((block.name, "norm"), f"{name}.group_norm")
            names = [f"{name}.{part}" for part in parts]
            entries += _three((block.name, "qkv"), names, network.attention_order, block.heads)
            entries += _dense((block.name, "proj"), f"{name}.{out}")
            continue
        if block.index is None:
            name = f"{where}.{'down' if block.name.startswith('down') else 'up'}samplers.0"
        else:
            name = f"{where}.resnets.{block.index}"
        if block.kind == "res":
            for part, (make, theirs) in residual.items():
                entries += make((block.name, part), f"{name}.{theirs}")
            if block.skips:
                entries += _conv((block.name, "skip"), f"{name}.conv_shortcut")
        elif network.conv_resample:
            entries += _conv((block.name, "conv"), f"{name}.conv")
    return entries


def to_ours(entries: Sequence[Entry], tensors: dict[str, np.ndarray]) -> dict:
    """Parameters of a `UNet`, float32, from tensors by name.

    Raises:
      KeyError: if one is missing.
    """
    params = {}
    for entry in entries:
        node = params
        for key in entry.path[:-1]:
            node = node.setdefault(key, {})
        made = entry.to_ours([tensors[name] for name in entry.names])
        node[entry.path[-1]] = np.ascontiguousarray(made, np.float32)
    return {"params": params}


def to_theirs(entries: Sequence[Entry], params: dict) -> dict[str, np.ndarray]:
    """Tensors by their names, float32 and contiguous, from parameters of a `UNet`."""
    tensors = {}
    for entry in entries:
        node = params["params"]
        for key in entry.path:
            node = node[key]
        made = entry.to_theirs(np.asarray(node, np.float32))
        # Contiguous, since safetensors writes the numbers of a view in the order of its base.
        tensors |= {name: np.ascontiguousarray(a) for name, a in zip(entry.names, made)}
    return tensors
