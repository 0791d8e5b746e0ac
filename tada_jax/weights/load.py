"""Parameters for a network from weights of others: checked, converted, adapted where possible."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from tada_jax.model import schedule, unet
from tada_jax.system.errors import UserError
from tada_jax.weights import adapt, inference, names
from tada_jax.weights.read import Weights, read

# Fields of a UNet that the weights may tell, and that need not be equal.
_OTHER = ("num_classes", "attention_order")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Parameters and how they came about.

    Attributes:
      params: float32, of the network that was asked for.
      weights: from which they are.
      lines: for the report.
    """

    params: Any
    weights: Weights
    lines: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A network that others have trained.

    Attributes:
      network: `network.apply(params, z, t)` predicts, z in [B,H,W,C]; with classes also of labels.
      params: float32.
      weights: where they come from, and what they tell of schedule and prediction.
    """

    network: unet.UNet
    params: Any
    weights: Weights


def load_weights(path, side=None, **fields) -> Pretrained:
    """A network that others have trained, from a file or folder.

    Args:
      path: as of `read.read`.
      side: the longer side of images, pixels; None for that which the weights were made for.
      **fields: of `UNet`, which replace what the weights do not tell, as head_channels=32.

    Raises:
      UserError: if they cannot be read, or `side` has to be told.
    """
    weights = read(path)
    side = side or weights.inferred.resolution
    if side is None:
        raise UserError(f"{path} does not tell for which images it was made: pass side=64, or so")
    network = weights.inferred.unet(side, **fields)
    try:
        network.check((side, side))
    except ValueError as error:
        raise UserError(f"init.weights={path}: {error}") from error
    return Pretrained(network, _params(weights, network), weights)


def load(config, network: unet.UNet, image_shape, like) -> Loaded:
    """The parameters of a run's network from the weights of config.init.weights.

    Args:
      config: the run's.
      network: its network.
      image_shape: (H, W, C).
      like: parameters of it, or their shapes.

    Raises:
      UserError: if the weights cannot be read or are of another network, naming the fields that
        would make it theirs.
    """
    weights = read(config.init.weights)
    found, channels = weights.inferred, image_shape[-1]
    refuse_other_network(weights, network, image_shape)
    _refuse_other_prediction(weights, config)
    theirs = network.clone(
        out_channels=found.in_channels * (2 if found.learned_variance else 1),
        num_classes=found.network["num_classes"],
        condition_size=0,
    )
    params = _params(weights, theirs)
    lines = [_describe(weights, params), *weights.said, *_assumed(weights, config, network)]
    if config.init.workdir is not None:
        lines.append(f"init.workdir={config.init.workdir} is not used beside init.weights")
    learned = network.out_channels == 2 * channels
    params, changes = _adapted(params, like, found, channels, learned)
    lines += changes
    if network.condition_size:
        lines.append(
            f"never told how images are augmented, as config.method={config.method!r} will: the "
            "layer for it starts at zero, and until it has learned (300 steps were too few in "
            "docs/transfer.md) samples look augmented"
        )
    side = max(image_shape[:2])
    if found.resolution not in (None, side):
        levels = ", ".join(str(level) for level, has in enumerate(found.attends) if has) or "none"
        lines.append(
            f"made for {found.resolution} pixels, and images have {side}: attention is at the same "
            f"levels ({levels}), which see other sizes there"
        )
    return Loaded(jax.tree.map(np.asarray, params), weights, tuple(filter(None, lines)))


def _adapted(params, like, found, channels, learned):
    """(parameters of the network that is wanted, a line for each change, "" for none)."""
    parts = 2 if found.learned_variance else 1
    params, of_classes = adapt.classes(params, like)
    params, of_channels = adapt.channels(params, found.in_channels, channels, parts)
    params, of_variance = adapt.variance(params, channels, learned=learned)
    return unet.with_condition(params, like), [of_classes, of_channels, of_variance]


def _params(weights: Weights, network) -> dict:
    """Parameters of the network that weights are of."""
    found, tensors = weights.inferred, weights.tensors
    entries = found.table(network)
    try:
        wanted = names.shapes(network, found.attends, found.in_channels)
        inference.check({name: tuple(tensors.shape(name)) for name in tensors}, entries, wanted)
        return names.to_ours(entries, tensors, tensors.release)
    except ValueError as error:
        raise UserError(f"init.weights={weights.path} {error}") from error


def _refuse_other_prediction(weights: Weights, config) -> None:
    """Refuses weights that are known to predict something else than the run's network."""
    theirs, mine = weights.diffusion["parameterisation"], config.diffusion.parameterisation
    if theirs != mine:
        raise UserError(
            f"init.weights={weights.path} predicts {theirs}, and config.diffusion.parameterisation="
            f"{mine!r}: pass --config.diffusion.parameterisation={theirs}"
        )
    if config.schedule.name not in schedule.SCHEDULES:
        raise UserError(
            f"init.weights={weights.path} is told timesteps, and config.schedule.name="
            f"{config.schedule.name!r} has none: pass --config.schedule.name="
            f"{weights.inferred.schedule['name']}"
        )


def _assumed(weights: Weights, config, network) -> list[str]:
    """A line on what their family has otherwise, or they were trained with; [] if nothing."""
    found = weights.inferred
    other = {f"model.{name}": (getattr(network, name), v) for name, v in found.assumed.items()}
    other |= {f"schedule.{name}": (config.schedule[name], v) for name, v in found.schedule.items()}
    if network.num_heads:  # which is what counts then
        other.pop("model.head_channels", None)
    if found.told:  # the network's are refused, if they are others
        other = {name: both for name, both in other.items() if name.startswith("schedule.")}
    lines = [f"{name}={mine!r} ({theirs!r})" for name, (mine, theirs) in other.items()]
    differing = [line for line, (mine, theirs) in zip(lines, other.values()) if mine != theirs]
    if not differing:
        return []
    if found.told:
        return [
            "trained otherwise than the configuration says, which counts (theirs): "
            + ", ".join(differing)
        ]
    return [
        f"not told by the weights, and taken as the configuration says (usual in {found.family}): "
        + ", ".join(differing)
    ]


def _describe(weights: Weights, params) -> str:
    """One line: whose weights, and of which network."""
    found, count = weights.inferred, unet.count_parameters(params)
    own = found.network
    parts = [f"{own['channels']} channels x {own['channel_mult']}"]
    parts.append(f"{own['num_res_blocks']} blocks a level")
    if own["num_classes"]:
        parts.append(f"{own['num_classes']:,} classes")
    if found.learned_variance:
        parts.append("a learned variance")
    return f"{weights.path.name}, {found.family}: {count:,} parameters, {', '.join(parts)}"


def config_lines(weights: Weights, side: int) -> dict[str, Any]:
    """The fields of a configuration that has the network of weights, {"model.channels": 128, ...}.

    Args:
      weights: of `read.read`.
      side: the longer side of images, pixels.
    """
    found = weights.inferred
    own = {k: v for k, v in found.network.items() if k != "num_classes"}
    fields = {f"model.{name}": value for name, value in (own | found.assumed).items()}
    fields["model.attention_resolutions"] = found.attention_resolutions(side)
    fields |= {f"schedule.{name}": value for name, value in found.schedule.items()}
    return fields | {f"diffusion.{name}": value for name, value in weights.diffusion.items()}


def _told_otherwise(found, network, side) -> dict[str, Any]:
    """Fields of a network that differ from those that the file tells, and their values there."""
    theirs, wrong = found.unet(side), {}
    for name in ("norm_groups", "attention_order"):
        if getattr(network, name) != getattr(theirs, name):
            wrong[name] = getattr(theirs, name)
    widths = {theirs.width(level) for level, has in enumerate(found.attends) if has}
    widths.add(theirs.width(len(theirs.channel_mult) - 1))  # that of the middle
    if any(network.head_width(width) != theirs.head_width(width) for width in widths):
        wrong |= {"head_channels": theirs.head_channels, "num_heads": theirs.num_heads}
    return wrong


def refuse_other_network(weights: Weights, network: unet.UNet, image_shape) -> None:
    """Refuses weights of a network that differs in more than `adapt` can change.

    Raises:
      UserError: naming the fields that would make it theirs.
    """
    found, wrong = weights.inferred, {}
    for name, value in found.network.items():
        mine = getattr(network, name)
        same = math.isclose(mine, value) if isinstance(value, float) else mine == value
        if name not in _OTHER and not (same or (name == "channel_mult" and tuple(mine) == value)):
            wrong[name] = value
    side = max(image_shape[:2])
    if found.told:
        wrong |= _told_otherwise(found, network, side)
    levels = range(len(network.channel_mult))
    attends = tuple(side // 2**level in network.attention_resolutions for level in levels)
    if attends != found.attends:
        wrong["attention_resolutions"] = found.attention_resolutions(side)
    if wrong:
        flags = " ".join(f"--config.model.{name}={shown(value)}" for name, value in wrong.items())
        raise UserError(
            f"init.weights={weights.path} is of another network than config.model: pass {flags}"
        )


def shown(value) -> str:
    """A value as a flag on the command line has it."""
    if isinstance(value, tuple):
        return "'(" + ",".join(map(str, value)) + ("," if len(value) == 1 else "") + ")'"
    return str(value)
