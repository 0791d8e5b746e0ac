"""The names of a network's parameters in other codebases, a table each.

guided-diffusion, improved-diffusion and P2-weighting number the blocks of ADM in the order in which
they are made; diffusers' UNet2DModel, which can be the same network, has them by level. Kernels are
[O,I,H,W] and [O,I] there, [H,W,I,O] and [I,O] here; diffusers keeps the three parts of an
attention's projection apart.
"""

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

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
      inputs, outputs: channels.
      heads: of an attention.
    """

    name: str
    kind: str
    level: int | None = None
    index: int | None = None
    inputs: int = 0
    outputs: int = 0
    heads: int = 0

    @property
    def skips(self):
        """Whether a residual block has a projection on its way around."""
        return self.inputs != self.outputs


def blocks(network: UNet, attends: Sequence[bool]) -> Iterator[Block]:
    """The blocks of a network, in the order in which they are computed.

    Args:
      network: the U-Net.
      attends: for each level, whether it has attention.
    """
    embedding = 4 * network.channels
    if network.num_classes:
        yield Block("Embed_0", "embedding", inputs=network.num_classes, outputs=embedding)
    yield Block("time_in", "dense", inputs=network.channels // 2 * 2, outputs=embedding)
    yield Block("time_out", "dense", inputs=embedding, outputs=embedding)
    yield Block("conv_in", "conv", outputs=network.width(0))
    levels = range(len(network.channel_mult))
    here = network.width(0)
    widths = [here]
    resample = "res" if network.resblock_updown else "resample"

    def attention(name, level, index):
        heads = here // network.head_width(here)
        return Block(name, "attention", level, index, here, here, heads)

    for level in levels:
        out = network.width(level)
        for i in range(network.num_res_blocks):
            yield Block(f"down{level}_res{i}", "res", level, i, here, out)
            here = out
            if attends[level]:
                yield attention(f"down{level}_attn{i}", level, i)
            widths.append(here)
        if level != levels[-1]:
            yield Block(f"down{level}_down", resample, level, None, here, here)
            widths.append(here)
    yield Block("mid_res0", "res", None, 0, here, here)
    yield attention("mid_attn", None, None)
    yield Block("mid_res1", "res", None, 1, here, here)
    for level in reversed(levels):
        out = network.width(level)
        for i in range(network.num_res_blocks + 1):
            joined = here + widths.pop()  # with what comes from the way down
            yield Block(f"up{level}_res{i}", "res", level, i, joined, out)
            here = out
            if attends[level]:
                yield attention(f"up{level}_attn{i}", level, i)
        if level:
            yield Block(f"up{level}_up", resample, level, None, here, here)
    yield Block("norm_out", "norm", outputs=here)
    yield Block("conv_out", "conv", inputs=here, outputs=network.out_channels)


def shapes(network: UNet, attends: Sequence[bool], in_channels: int) -> dict:
    """The shape of each parameter by its path, {("conv_in", "kernel"): (3, 3, 3, 128), ...}.

    What `network.init` would give, without tracing it.

    Args:
      network, attends: as of `blocks`.
      in_channels: of images.
    """
    made = {}

    def add(path, *shape, bias=True, name="kernel"):
        made[(*path, name)] = shape
        if bias:
            made[(*path, "bias")] = shape[-1:]

    emb = 4 * network.channels
    for block in blocks(network, attends):
        path, i, o = (block.name,), block.inputs, block.outputs
        if block.kind == "embedding":
            add(path, i, o, bias=False, name="embedding")
        elif block.kind == "dense":
            add(path, i, o)
        elif block.kind == "norm":
            add(path, o, name="scale")
        elif block.kind == "conv":
            add(path, 3, 3, i or in_channels, o)
        elif block.kind == "attention":
            add((*path, "norm"), i, name="scale")
            add((*path, "qkv"), i, 3 * i)
            add((*path, "proj"), i, i)
        elif block.kind == "resample":
            if network.conv_resample:
                add((*path, "conv"), 3, 3, i, o)
        else:
            add((*path, "norm_in"), i, name="scale")
            add((*path, "conv_in"), 3, 3, i, o)
            add((*path, "emb"), emb, (2 if network.scale_shift else 1) * o)
            add((*path, "norm_out"), o, name="scale")
            add((*path, "conv_out"), 3, 3, o, o)
            if block.skips:
                add((*path, "skip"), 1, 1, i, o)
    return made


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


def _residual(block, name, inside, skip) -> list[Entry]:
    """A residual block; `inside` are the names of its five layers, `skip` of its projection."""
    makes = (_norm, _conv, _dense, _norm, _conv)
    ours = ("norm_in", "conv_in", "emb", "norm_out", "conv_out")
    entries = []
    for make, part, theirs in zip(makes, ours, inside):
        entries += make((block.name, part), f"{name}.{theirs}")
    return entries + (_conv((block.name, "skip"), f"{name}.{skip}") if block.skips else [])


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
    inside = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3")
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
            entries += _residual(block, name, inside, "skip_connection")
        elif block.kind == "attention":
            entries += _norm((block.name, "norm"), f"{name}.norm")
            entries += _conv1d((block.name, "qkv"), f"{name}.qkv")
            entries += _conv1d((block.name, "proj"), f"{name}.proj_out")
        elif network.conv_resample:
            layer = "conv" if block.name.endswith("_up") else "op"
            entries += _conv((block.name, "conv"), f"{name}.{layer}")
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
    inside = ("norm1", "conv1", "time_emb_proj", "norm2", "conv2")
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
            entries += _residual(block, name, inside, "conv_shortcut")
        elif network.conv_resample:
            entries += _conv((block.name, "conv"), f"{name}.conv")
    return entries


def to_ours(
    entries: Sequence[Entry],
    tensors: Mapping[str, np.ndarray],
    release: Callable[[np.ndarray], None] = lambda array: None,
) -> dict:
    """Parameters of a `UNet`, float32, from tensors by name.

    Args:
      entries: the table of the network.
      tensors: by name.
      release: called with each after it was used, to give back what its reading took.

    Raises:
      KeyError: if one is missing.
      ValueError: if a number is not finite, naming the tensor.
    """

    def convert(entry):
        theirs = [tensors[name] for name in entry.names]
        made = entry.to_ours(theirs)
        made = np.ascontiguousarray(made, np.float32)
        if not np.isfinite(made.sum(dtype=np.float64)):  # which is quicker than to look at each
            raise ValueError(f"has numbers in {entry.names[0]} that are not finite")
        for array in theirs:
            release(array)
        return made

    params = {}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for entry, made in zip(entries, pool.map(convert, entries)):
            node = params
            for key in entry.path[:-1]:
                node = node.setdefault(key, {})
            node[entry.path[-1]] = made
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
