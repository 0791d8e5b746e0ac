"""Parameters for a network from weights of others: checked, converted, adapted where possible."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from tada_jax.model import unet
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
      lines: for the report.
    """

    params: Any
    lines: tuple[str, ...]


def load(path, network: unet.UNet, image_shape, like) -> Loaded:
    """The parameters of a network from weights of others.

    Args:
      path: as of `read.read`.
      network: which is wanted.
      image_shape: (H, W, C).
      like: fresh parameters of it.

    Raises:
      UserError: if the weights cannot be read or are of another network, naming the fields that
        would make it theirs.
    """
    weights = read(path)
    found = weights.inferred
    refuse_other_network(weights, network, image_shape)
    theirs = dataclasses.replace(
        network,
        out_channels=found.in_channels * (2 if found.learned_variance else 1),
        num_classes=found.network["num_classes"],
        condition_size=0,
    )
    entries = found.table(theirs)
    try:
        _check(weights, entries, theirs, (*image_shape[:2], found.in_channels))
        params = names.to_ours(entries, weights.tensors)
        for entry in entries:
            _finite(params, entry)
    except ValueError as error:
        raise UserError(f"init.weights={weights.path} {error}") from error
    lines = [describe(weights, params), *weights.said]
    params, line = adapt.classes(params, like)
    lines.append(line)
    channels, parts = image_shape[-1], 2 if found.learned_variance else 1
    params, line = adapt.channels(params, found.in_channels, channels, parts)
    lines.append(line)
    learned = network.out_channels == 2 * channels
    params, line = adapt.variance(params, channels, learned=learned)
    lines.append(line)
    params = unet.with_condition(params, like)
    side = max(image_shape[:2])
    if found.resolution not in (None, side):
        levels = ", ".join(str(level) for level, has in enumerate(found.attends) if has) or "none"
        lines.append(
            f"made for {found.resolution} pixels, and images have {side}: attention is at the same "
            f"levels ({levels}), which see other sizes there"
        )
    return Loaded(jax.tree.map(np.asarray, params), tuple(filter(None, lines)))


def describe(weights: Weights, params) -> str:
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


def _check(weights: Weights, entries, network, shape) -> None:
    def init():
        labels = np.zeros(1, np.int32) if network.num_classes else None
        return network.init(jax.random.key(0), np.zeros((1, *shape)), np.zeros(1), labels)

    tensors = {
        name: np.broadcast_to(np.float32(0), tuple(weights.tensors.shape(name)))
        for name in weights.tensors
    }
    inference.check(tensors, entries, jax.eval_shape(init))


def _finite(params, entry) -> None:
    node = params["params"]
    for key in entry.path:
        node = node[key]
    if not np.isfinite(node).all():
        raise ValueError(f"has numbers in {entry.names[0]} that are not finite")
