"""From a configuration to the parts of a run; with `limits.py` where a wrong one is refused.

The modules that do the work take numbers and raise ValueError. This one knows the fields of
`configs/base.py`, hands them over by name, and turns what is refused into a `UserError` that names
the field.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tada_jax import tada
from tada_jax.augment import Policy
from tada_jax.data import classes
from tada_jax.data import order as orders
from tada_jax.data.cache import digest
from tada_jax.methods.base import Method
from tada_jax.methods.table import METHODS
from tada_jax.model import continuous, diffusion, schedule, solvers, unet
from tada_jax.setup import limits
from tada_jax.system.errors import UserError
from tada_jax.system.memo import Memo
from tada_jax.system.paths import to_json


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """Everything that a run closes over; arrays that change live in `step.TrainState`.

    Attributes:
      image_shape: (H, W, C).
      schedule: the noise levels, a `schedule.Schedule` or one of `continuous.py`.
      strength: log SNR [B] -> w [B], the method's; or [B,K] for one of each operation.
      policy: the augmentation's.
      method: what happens to training examples.
      network: a `unet.UNet`.
      loss_options: keyword arguments of `diffusion.training_losses`.
      class_dropout: how often training conceals the class from a conditional network.
      optimizer: an optax transformation.
      sample: (predict, keys) -> float images, the reverse process.
      guidance: of that, by the class.
      label: the number of the class of all samples; None: all in turn.
      class_names: of the labels, in order; () if they have none.
    """

    image_shape: tuple[int, int, int]
    schedule: schedule.Schedule | continuous.Continuous
    strength: Callable[[jax.Array], jax.Array]
    policy: Policy
    method: Method
    network: unet.UNet
    loss_options: dict[str, Any]
    class_dropout: float
    optimizer: optax.GradientTransformation
    sample: Callable[..., jax.Array]
    guidance: float = 1.0
    label: int | None = None
    class_names: tuple[str, ...] = ()

    def apply(self, params, z, t, labels=None, condition=None, **options):
        """The network's output for z_t at times t of the schedule; see `unet.UNet`."""
        z = diffusion.expand(self.schedule.input_scale(t), z) * z
        told = self.schedule.network_time(t)
        return self.network.apply(params, z, told, labels, condition, **options)

    def init_params(self, rng):
        """Fresh parameters of the network."""
        labels = jnp.zeros(1, jnp.int32) if self.network.num_classes else None
        return self.network.init(rng, jnp.zeros((1, *self.image_shape)), jnp.zeros(1), labels)


@contextlib.contextmanager
def _blame(section):
    """Turns a ValueError into a UserError about `config.<section>`."""
    try:
        yield
    except ValueError as e:
        raise UserError(f"config.{section}: {e}") from e


def parts(config, image_shape, num_classes=0, found=None, class_names=()):
    """The parts of a run for images of `image_shape` (H, W, C); the same ones for equal runs.

    Args:
      config: the run's.
      image_shape: (H, W, C).
      num_classes: of the labels; 0 without.
      found: what `strength.find` found for a schedule that follows the profile, if it does.
      class_names: of the labels, in order; () if they have none.

    Raises:
      UserError: naming the field of the configuration that cannot be.
    """
    limits.check(config)
    depends_on = {k: v for k, v in config.to_dict().items() if k not in _OTHER_SECTIONS}
    depends_on["train"] = {"class_dropout": config.train.class_dropout}
    depends_on["sample"] = _of_sampler(config)
    of_images = [tuple(image_shape), num_classes, tuple(class_names)]
    key = to_json([depends_on, of_images, found], sort_keys=True)
    return _PARTS.get(key, lambda: _parts(config, image_shape, num_classes, found, class_names))


# On which no part depends.
_OTHER_SECTIONS = ("seed", "data", "init", "ema", "log", "evaluate", "compare", "analyze", "export")
_OTHER_SAMPLE_FIELDS = ("count", "batch_size", "use_ema", "ema_width", "ema_step", "checkpoint")
_PARTS, _ORDERS, _OPTIMIZERS = Memo(), Memo(), Memo()


def _parts(config, image_shape, num_classes, found, class_names):
    noise, how = levels(config), method(config, image_shape)
    return Parts(
        image_shape=tuple(image_shape),
        schedule=noise,
        strength=strength(config, image_shape, found),
        policy=policy(config),
        method=how,
        network=network(config, image_shape, num_classes, how.condition_size),
        loss_options=dict(config.diffusion),
        class_dropout=config.train.class_dropout,
        optimizer=optimizer(config),
        sample=sampler(config, noise, image_shape),
        **guidance(config, num_classes, class_names),
        class_names=tuple(class_names),
    )


def levels(config):
    """The noise levels: a `schedule.Schedule` of timesteps, or one of `continuous.py`.

    Raises:
      UserError: naming the field that cannot be.
    """
    c = config.schedule
    if c.name not in continuous.CONTINUOUS:
        with _blame("schedule"):
            return schedule.make(c.name, c.total_timesteps, rescaled=c.rescale_timesteps)
    if config.diffusion.variance == "learned_range":
        raise UserError(
            f"config.diffusion.variance='learned_range' needs timesteps, and config.schedule.name="
            f"{c.name!r} has none: set it to fixed_small or fixed_large"
        )
    own = {"sigma_data": config.diffusion.sigma_data} if c.name == "edm" else {}
    with _blame(f"schedule.{c.name}"):
        return continuous.CONTINUOUS[c.name](**c[c.name], **own)


def guidance(config, num_classes, class_names=()):
    """The fields of `Parts` by which a class guides samples.

    Raises:
      UserError: if the network cannot be guided so.
    """
    c, conditional = config.sample, config.model.class_conditional
    if c.guidance != 1.0 and not (conditional and config.train.class_dropout > 0):
        raise UserError(
            f"config.sample.guidance={c.guidance:g} needs a network that was trained with "
            "config.model.class_conditional=True and config.train.class_dropout=0.1: set it to 1"
        )
    if c.label is None:
        return {"guidance": c.guidance, "label": None}
    if not conditional:
        raise UserError(
            f"config.sample.label={c.label} cannot be: the network has no classes, which needs "
            "config.model.class_conditional=True"
        )
    number = classes.number_of(c.label, classes.names(num_classes, class_names))
    return {"guidance": c.guidance, "label": number}


def strength(config, image_shape, found=None):
    """The method's strength as a function of log SNR, [B] -> [B], or [B,K] for K operations.

    Args:
      config: the run's.
      image_shape: (H, W, C).
      found: {"r_rough", "r_fine"} or {"levels", "strengths"} of `strength.find`, if the schedule
        follows the profile.

    Raises:
      UserError: naming the field that cannot be.
    """
    options = dict(config.tada)
    for name in ("schedule", "band", "budget", "table"):
        options.pop(name)
    if options["resolution"] is None:
        options["resolution"] = math.sqrt(image_shape[0] * image_shape[1])
    if options["kappa"] != "auto":
        try:
            options["kappa"] = float(options["kappa"])
        except ValueError as e:
            raise UserError(
                f'config.tada.kappa={options["kappa"]!r} cannot be: a number or "auto"'
            ) from e
        if not math.isfinite(options["kappa"]):
            raise UserError(f"config.tada.kappa={options['kappa']} cannot be: it must be finite")
    kind = METHODS[config.method].strength
    if kind == "none":
        options["constant"] = 0.0
    elif kind == "constant" or config.tada.schedule == "constant":
        options["constant"] = config.constant_strength
    function = functools.partial(tada.strength, **options)
    if limits.follows_profile(config):
        if found is None:  # a run that is only sampled
            return _unknown_strength
        if "levels" in found:
            function = functools.partial(tada.interpolated, **found)
        else:
            function = functools.partial(tada.strength, **options | found | {"calibration": "none"})
    elif kind == "tada" and config.tada.schedule == "table":
        function = _table(config)
    with _blame("tada"):
        function(0.0)
    return function


def _unknown_strength(logsnr):
    raise RuntimeError("the strength of this run follows a profile that was not looked up")


def _table(config):
    """The schedule of config.tada.table."""
    rows = config.tada.table
    try:
        levels = [float(r) for r, _ in rows]
        strengths = np.array([np.asarray(w, np.float64) for _, w in rows])
    except (TypeError, ValueError) as e:
        raise UserError(
            f"config.tada.table={rows!r} cannot be: needs pairs (r, w), as ((-5,1),(-2,0),(3,1)), "
            "with w a number or one for each of config.augment.ops"
        ) from e
    wrong = strengths.ndim > 1 and strengths.shape[1:] != (len(config.augment.ops),)
    if wrong:
        raise UserError(
            f"config.tada.table={rows!r} cannot be: it has {strengths.shape[1]} strengths a level, "
            f"and config.augment.ops has {len(config.augment.ops)} operations"
        )
    return functools.partial(tada.interpolated, levels=levels, strengths=strengths)


def policy(config):
    """The `augment.Policy` of the method, unless it has operations of its own."""
    full, own = augmentation(config), METHODS[config.method]
    if not own.operations:
        full = dataclasses.replace(full, ops=())
    return full if own.xflip_p is None else dataclasses.replace(full, xflip_p=own.xflip_p)


def method(config, image_shape):
    """What happens to training examples, a `methods.base.Method`.

    Raises:
      UserError: if the method cannot be carried out on images of `image_shape` (H, W, C).
    """
    kind = METHODS[config.method].kind
    with _blame(kind.section):
        return kind.from_config(config, policy(config), image_shape)


def augmentation(config):
    """The `augment.Policy` of the section `augment`, whatever the method makes of it."""
    options = dict(config.augment)
    options["ops"] = tuple(options["ops"])
    options["magnitude"] = dict(options["magnitude"])
    options["max_ops"] = options["max_ops"] or None
    with _blame("augment"):
        return Policy(**options)


def network(config, image_shape, num_classes, condition_size=0):
    """The U-Net for images of `image_shape` (H, W, C).

    Conditional on `num_classes` classes if the config says so, and on a vector of `condition_size`
    numbers.
    """
    options = dict(config.model, condition_size=condition_size)
    if options.pop("class_conditional"):
        if not num_classes:
            raise UserError(
                "config.model.class_conditional=True needs labels, and this data set has none: "
                "set it to False"
            )
        options["num_classes"] = num_classes
    learned = config.diffusion.variance == "learned_range"
    made = unet.UNet(out_channels=image_shape[-1] * (2 if learned else 1), **options)
    factor = 2 ** (len(config.model.channel_mult) - 1)
    with _blame("model"):
        try:
            made.check(image_shape[:2])
        except ValueError as e:
            if not any(side % factor for side in image_shape[:2]):
                raise
            h, w = image_shape[:2]
            side = max(factor, min(h, w) // factor * factor)
            square = "" if h == w else " with config.data.fit=crop"
            whole = -(-max(h, w) // factor) * factor
            raise ValueError(
                f"{e}, as config.data.resolution={side}{square}; or ={whole} with "
                "config.data.fit=pad, which keeps every pixel in a frame of config.data.background"
            ) from e
    return made


def optimizer(config):
    """Adam or AdamW with linear warm-up and clipping by global norm; one for equal settings."""
    settings = to_json(config.optimizer.to_dict(), sort_keys=True)
    return _OPTIMIZERS.get(settings, lambda: _optimizer(config.optimizer))


def _optimizer(c):
    rate = optax.linear_schedule(0.0, c.learning_rate, c.warmup_steps)
    if not c.warmup_steps:
        rate = c.learning_rate
    clip = optax.clip_by_global_norm(c.clip_norm) if c.clip_norm else optax.identity()
    return optax.chain(clip, optax.adamw(rate, c.b1, c.b2, weight_decay=c.weight_decay))


def sampled(built, config):
    """The same parts with the sampler of another configuration.

    Raises:
      UserError: naming the field that cannot be.
    """
    limits.check(config)

    def replaced():
        return dataclasses.replace(
            built,
            sample=sampler(config, built.schedule, built.image_shape),
            **guidance(config, built.network.num_classes, built.class_names),
        )

    return _PARTS.get((built, to_json(_of_sampler(config), sort_keys=True)), replaced)


def _of_sampler(config):
    return {k: v for k, v in config.sample.items() if k not in _OTHER_SAMPLE_FIELDS}


def order(config, labels, count):
    """The `order.Order` of `count` training examples with `labels`, int32 [N] or None."""
    by_labels = config.data.order != "shuffled" and labels is not None
    of_labels = digest(np.asarray(labels).tobytes()) if by_labels else None
    with _blame("data.order"):
        made = _ORDERS.get(
            (config.data.order, count, of_labels),
            lambda: orders.make(config.data.order, count, labels),
        )
    if config.train.batch_size * made.length >= 2**31:
        raise UserError(
            f"config.train.batch_size={config.train.batch_size} is too large for epochs of "
            f"{made.length:,} images: their product must stay below 2^31"
        )
    return made


def sampler(config, noise, image_shape):
    """The reverse process (predict, keys [B]) -> images [B,H,W,C] in [-1, 1]."""
    c = config.sample
    with _blame("sample"):
        stride = solvers.stride_for(c.sampler, c.stride)
        short = noise.walk(c.steps, stride=stride, side=math.sqrt(image_shape[0] * image_shape[1]))
    options = {"eta": c.eta} if c.sampler == "ddim" else {}
    return functools.partial(
        solvers.SAMPLERS[c.sampler],
        schedule=short,
        shape=tuple(image_shape),
        parameterisation=config.diffusion.parameterisation,
        variance=config.diffusion.variance,
        sigma_data=config.diffusion.sigma_data,
        clip_x0=config.sample.clip_x0,
        **options,
    )
