"""What the fields of a configuration may be; whatever else is refused by name before a run begins.

What depends on several fields or on the images is refused by `build.py` where the parts are made.
"""

import functools
import math

import numpy as np

from tada_jax import data
from tada_jax.band import estimate
from tada_jax.data import order as orders
from tada_jax.methods.table import METHODS
from tada_jax.model import continuous, diffusion, ema, schedule, solvers, unet
from tada_jax.setup import length
from tada_jax.system import backend
from tada_jax.system.errors import UserError

FEWEST_SAMPLES = 50  # below which no metric is worth printing

FOLLOWING = ("fitted", "freeform", "weighted", "per_operation")  # schedules that follow the profile


CHOICES = {
    "method": METHODS,
    "tada.schedule": ("paper", *FOLLOWING, "constant", "table"),
    "tada.band": ("given", "auto"),
    "sensitivity.proxy": ("auto", *estimate.PROXIES),
    "schedule.name": (*schedule.SCHEDULES, *continuous.CONTINUOUS),
    "diffusion.parameterisation": diffusion.PARAMETERISATIONS,
    "diffusion.variance": diffusion.VARIANCES,
    "diffusion.weighting": diffusion.WEIGHTINGS,
    "sample.sampler": solvers.SAMPLERS,
    "sample.stride": ("auto", *schedule.STRIDES),
    "model.dtype": ("float32", "bfloat16"),
    "model.attention_order": ("legacy", "new"),
    "model.downsample_padding": ("both", "end"),
    "model.time_embedding": ("cos_sin", "sin_cos"),
    "data.order": orders.ORDERS,
    "data.fit": data.FITS,
    "data.color": data.COLORS,
    "data.labels": data.LABELS,
    "data.pages": data.PAGES,
    "data.unreadable": data.UNREADABLE,
    "train.nonfinite": ("stop", "skip"),
    "train.stop": ("steps", "window"),
    "train.sharding": backend.SHARDINGS,
    "log.best_metric": ("", *length.BY_LOSS, *length.BY_SAMPLES),
    "export.format": ("diffusers", "adm"),
    "export.scheduler": ("ddim", "ddpm"),
    "evaluate.convention": ("clean-fid", "pytorch-fid"),
}

_ANY, _SHARE, _BELOW_1 = (0, math.inf), (0, 1), (0, math.nextafter(1, 0))
_COUNT, _SEED, _POSITIVE = (1, math.inf), (0, 2**32 - 1), (math.ulp(0), math.inf)


def _of(section, ranges):
    return {f"{section}.{field}": bounds for field, bounds in ranges.items()}


# Those of parts are stated where the parts are.
RANGES = {
    **functools.reduce(dict.__or__, (_of(r.kind.section, r.kind.RANGES) for r in METHODS.values())),
    **_of("schedule.edm", continuous.Edm.RANGES),
    **_of("schedule.flow", continuous.Flow.RANGES),
    **_of("diffusion", diffusion.RANGES),
    **_of("model", unet.UNet.RANGES),
    **_of("sensitivity", estimate.RANGES),
    "seed": _SEED,
    "constant_strength": _SHARE,
    "data.device_gib": _ANY,
    "tada.budget": _ANY,
    "optimizer.learning_rate": _POSITIVE,
    "optimizer.warmup_steps": _ANY,
    "optimizer.b1": _BELOW_1,
    "optimizer.b2": _BELOW_1,
    "optimizer.weight_decay": _ANY,
    "optimizer.clip_norm": _ANY,
    "train.batch_size": _COUNT,
    "train.microbatch": _ANY,
    "train.total_steps": _COUNT,
    "train.steps_per_call": _ANY,
    "train.ema_decay": _BELOW_1,
    "train.class_dropout": _BELOW_1,
    "ema.snapshot_every": _COUNT,
    "log.every": _COUNT,
    "log.eval_every": _COUNT,
    "log.sample_every": _COUNT,
    "log.checkpoint_every": _COUNT,
    "log.keep_checkpoints": _COUNT,
    "log.metrics_every": _ANY,
    "log.metrics_count": _COUNT,
    "sample.count": _COUNT,
    "sample.batch_size": _COUNT,
    "sample.seed": _SEED,
    "sample.eta": _SHARE,
    "sample.guidance": (0, 100),
    "evaluate.count": (FEWEST_SAMPLES, math.inf),
    "evaluate.fit_steps": _COUNT,
    "analyze.images": _COUNT,
    "analyze.count": (FEWEST_SAMPLES, math.inf),
    "analyze.train_steps": _ANY,
    "analyze.window": (0.1, math.inf),
    "analyze.sweep": _ANY,
}


def check(config):
    """Refuses values that no part would refuse by itself.

    Raises:
      UserError: naming the field, its value and what it may be.
    """
    for field, known in CHOICES.items():
        value = _value(config, field)
        if value not in known:
            raise UserError(
                f"config.{field}={value!r} is unknown: choose one of {', '.join(known)}"
            )
    for field in ("sample.checkpoint", "init.checkpoint"):
        value = _value(config, field)
        if value not in ("latest", "best") and not value.isdigit():
            raise UserError(f"config.{field}={value!r} is unknown: latest, best, or a step as 5000")
    for field, (low, high) in RANGES.items():
        value = _value(config, field)
        word = f", or {length.AUTO!r}" if field == "train.total_steps" else ""
        if word and value == length.AUTO:
            continue
        if not isinstance(value, int | float):
            raise UserError(f"config.{field}={value!r} cannot be: it must be a number{word}")
        if not low <= value <= high:
            bounds = f"at least {low}" if high == math.inf else f"between {low} and {high}"
            bounds = "positive" if low == math.ulp(0) else bounds
            bounds = f"at least {low} and below 1" if (low, high) == _BELOW_1 else bounds
            raise UserError(f"config.{field}={value} cannot be: it must be {bounds}{word}")
    _check_lists(config)
    kind = METHODS[config.method].kind
    if kind.own_operations:
        _check_own_operations(config)
    kind.check(config)
    c = config.diffusion
    if c.weighting == "p2" and -c.p2_gamma * math.log(c.p2_k + math.exp(-40.0)) > 80.0:
        raise UserError(
            f"config.diffusion.p2_gamma={c.p2_gamma:g} with p2_k={c.p2_k:g} cannot be: where there "
            "is only noise, 1/(p2_k + SNR)^p2_gamma is no finite number: set p2_k=1, or p2_gamma=1"
        )
    whole, piece = config.train.batch_size, config.train.microbatch
    if piece and whole % piece:
        raise UserError(
            f"config.train.microbatch={piece} does not divide config.train.batch_size={whole}: "
            "choose a divisor, or 0 for the whole batch at once"
        )
    auto = config.train.total_steps == length.AUTO
    measured = auto or config.log.metrics_every or config.log.best_metric in length.BY_SAMPLES
    by_window = config.train.stop == "window" and not auto
    if by_window and not config.log.metrics_every:
        raise UserError(
            "config.train.stop='window' needs looks at samples: set config.log.metrics_every, to "
            "a twentieth of the steps, or config.train.total_steps='auto'"
        )
    if measured and config.log.metrics_count < 2:
        raise UserError(
            f"config.log.metrics_count={config.log.metrics_count} samples have no covariance: "
            "take at least 2, or set config.log.metrics_every=0 and log.best_metric to a loss"
        )
    if config.train.class_dropout and not config.model.class_conditional:
        raise UserError(
            f"config.train.class_dropout={config.train.class_dropout:g} conceals classes from a "
            "network that is told none: set config.model.class_conditional=True, or it to 0"
        )


def _value(config, field):
    try:
        return functools.reduce(lambda node, key: node[key], field.split("."), config)
    except (KeyError, TypeError) as e:
        raise UserError(
            f"config.{field} is missing: begin a configuration with base.get_config() of "
            "configs/base.py"
        ) from e


def _check_lists(config):
    """Fields that hold several values."""
    thresholds = _value(config, "sensitivity.thresholds")
    if len(thresholds) != 2 or not all(isinstance(t, float) and t > 0 for t in thresholds):
        raise UserError(
            f"config.sensitivity.thresholds={thresholds} cannot be: needs a positive K in nats and "
            "a positive V as a share, as (0.02,0.004)"
        )
    for width in (*config.ema.widths, config.sample.ema_width):
        if width is None:
            continue
        if not isinstance(width, float):
            raise UserError(f"config.ema.widths: {width!r} cannot be, widths are as 0.05")
        try:
            ema.exponent(width)
        except ValueError as e:
            raise UserError(f"config.ema.widths: {e}") from e
    if len(set(config.ema.widths)) < len(config.ema.widths):
        raise UserError(f"config.ema.widths={tuple(config.ema.widths)} names a width twice")
    mult = config.model.channel_mult
    widths = [m * config.model.channels for m in mult if isinstance(m, int | float)]
    if not mult or len(widths) < len(mult) or any(w < 1 or w != int(w) for w in widths):
        raise UserError(
            f"config.model.channel_mult={mult}: needs one or more factors that give whole widths "
            f"with config.model.channels={config.model.channels}, as (1,2,2) or (0.5,1,2)"
        )
    if any(not isinstance(side, int) for side in config.model.attention_resolutions):
        raise UserError(
            "config.model.attention_resolutions: needs whole numbers of pixels, as (16,8)"
        )


def follows_profile(config):
    """Whether the strength of the method follows the sensitivity profile of the data set."""
    c = config.tada
    fitted = c.schedule in FOLLOWING
    tadas = METHODS[config.method].strength == "tada"
    return tadas and (fitted or (c.schedule, c.band) == ("paper", "auto"))


def _check_own_operations(config):
    """Refuses strengths that are made for other operations than the method's own."""
    if follows_profile(config):
        raise UserError(
            f"config.tada.schedule={config.tada.schedule!r} follows the profile of "
            f"config.augment.ops, and config.method={config.method!r} has operations of its own: "
            "name the band by tada.schedule='paper', tada.band='given', tada.r_rough and r_fine"
        )
    table = config.tada.schedule == "table" and METHODS[config.method].strength == "tada"
    if table and any(np.ndim(w) for _, w in config.tada.table):
        raise UserError(
            "config.tada.table has a strength for each of config.augment.ops, and config.method="
            f"{config.method!r} has operations of its own: give one number a level"
        )
