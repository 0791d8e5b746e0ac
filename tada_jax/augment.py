"""Random augmentation of normalised strength w in [0, 1]; w = 0 is the identity, bit for bit.

    y = augment(rng, x, w)                 # one image  [H,W,C]
    y = augment_batch(rng, x, w)           # [B,H,W,C], one strength per image: w [B]
                                           # or one per image and operation: w [B,len(ops)]

A random operation is two things kept apart: the draw (here) and the deterministic operation
(`transforms`). `draw` makes normalised draws that are 0 where an operation does not fire and are
already scaled by w; `apply` composes them into one resampling and one colour matrix. Everything is
traced: neither the strength nor the policy's numbers cause a recompilation.

Operations, their scales and their order: EDM (Karras et al. 2022), appendix F.2. Their scaling by w
and the policy (probability p, up to M different operations): TADA; see `Policy`.

For equal draws, four are the mirror images of EDM's, top and bottom exchanged. Here `rotate_int`
and `rotate_frac` turn clockwise as an image is looked at, the axis of `aniso` turns so too, and
`translate_int` moves down for a positive second draw; in EDM's program they turn counter-clockwise
and it moves up. `translate_frac` moves right and down in both, and the rest is alike.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from tada_jax import transforms

# Name -> number of entries in the label vector, in the order in which operations apply.
GEOMETRIC = {
    "yflip": 1,
    "rotate_int": 2,
    "translate_int": 2,
    "scale": 1,
    "rotate_frac": 2,
    "aniso": 2,
    "translate_frac": 2,
}
COLOR = {"brightness": 1, "contrast": 1, "lumaflip": 1, "hue": 2, "saturation": 1}
OPERATIONS = {**GEOMETRIC, **COLOR}
DISCRETE = ("yflip", "rotate_int", "lumaflip")  # no magnitude: w scales how often they fire
MAPPINGS = ("magnitude", "probability")

# Effect of a normalised draw of 1.
SCALE_LOG2 = 0.2
ANISO_LOG2 = 0.2
BEYOND_NORMAL = 9.0  # deviations, which no draw reaches; an infinite bound makes some of them so
TRANSLATE_FRAC = 0.125  # of the image's side
BRIGHTNESS = 0.2
CONTRAST_LOG2 = 0.5
SATURATION_LOG2 = 1.0


@dataclasses.dataclass(frozen=True)
class Policy:
    """Which operations may happen, how often, and how the strength w acts on them.

    Attributes:
      ops: names from `OPERATIONS`, in any order; the horizontal flip is apart.
      p: probability that an image is augmented at all; if `max_ops` is None, of every operation.
      max_ops: M; an augmented image undergoes n ~ U{1..M} *different* operations (TADA). None:
        every operation fires independently with probability p (EDM).
      xflip_p: probability of a horizontal flip, never scaled by w.
      magnitude: operation -> factor on its draws (a bound for those drawn uniformly); default 1.
      truncate: normal draws are truncated at this many standard deviations.
      mapping: how w acts. "magnitude" (A): continuous draws are multiplied by w, and discrete
        operations, having no magnitude, fire w times as often. "probability" (B): every operation
        fires w times as often, at full magnitude.

    Raises:
      ValueError: for an unknown or repeated operation or mapping, or a number out of `RANGES`.
    """

    ops: tuple[str, ...] = (
        "scale",
        "rotate_frac",
        "aniso",
        "translate_frac",
        "brightness",
        "contrast",
        "hue",
        "saturation",
    )
    p: Any = 0.8
    max_ops: Any = 2
    xflip_p: Any = 0.5
    magnitude: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    truncate: Any = 3.0
    mapping: str = "magnitude"

    RANGES: ClassVar = {  # of what a configuration may say, both ends included
        "p": (0, 1),
        "xflip_p": (0, 1),
        "max_ops": (0, math.inf),
        "truncate": (0, math.inf),
        **{f"magnitude.{name}": (0, 100) for name in OPERATIONS if name not in DISCRETE},
    }

    def __post_init__(self):
        for name in (*self.ops, *self.magnitude):
            if name not in OPERATIONS:
                known = ", ".join(OPERATIONS)
                raise ValueError(f"unknown augmentation operation {name!r}; known are: {known}")
        if len(set(self.ops)) < len(self.ops):
            raise ValueError(f"an augmentation operation is listed twice: {self.ops}")
        if self.mapping not in MAPPINGS:
            raise ValueError(f"mapping must be one of {MAPPINGS}, got {self.mapping!r}")
        magnitudes = {f"magnitude.{name}": value for name, value in self.magnitude.items()}
        for name, (low, high) in self.RANGES.items():
            value = magnitudes.get(name, getattr(self, name, None))
            # Traced numbers, and what JAX puts in their place, have no value to look at.
            if isinstance(value, (int, float)) and not low <= value <= high:
                raise ValueError(f"{name}={value} cannot be: it must be from {low} to {high}")

    @property
    def label_names(self):
        """Names of the operations that have entries in the label vector, in its order."""
        return ("xflip", *(name for name in OPERATIONS if name in self.ops))

    @property
    def label_size(self):
        """Length of the label vector."""
        return 1 + sum(OPERATIONS[name] for name in self.ops)


jax.tree_util.register_dataclass(
    Policy,
    data_fields=("p", "max_ops", "xflip_p", "magnitude", "truncate"),
    meta_fields=("ops", "mapping"),
)


def _choose(rng, policy):
    """Which of the policy's operations fire: bool [len(ops)]."""
    rng_any, rng_count, rng_rank = jax.random.split(rng, 3)
    k = len(policy.ops)
    if policy.max_ops is None:
        return jax.random.bernoulli(rng_any, policy.p, (k,))
    count = jax.random.randint(rng_count, (), 1, jnp.minimum(policy.max_ops, k) + 1)
    rank = jax.random.permutation(rng_rank, k)
    return (rank < count) & jax.random.bernoulli(rng_any, policy.p)


def _when_fired(name, normal, uniform):
    """What an operation draws when it fires, before any scaling: [] or [2].

    Args:
      name: of the operation.
      normal: [2], standard normal.
      uniform: [2], uniform on [-1, 1).
    """
    if name in ("yflip", "lumaflip"):
        return jnp.floor(uniform[0] + 1.0)  # 0 or 1
    if name == "rotate_int":
        return jnp.floor(2.0 * uniform[0] + 2.0)  # 0, 1, 2 or 3
    if name == "translate_int":
        return uniform
    if name in ("rotate_frac", "hue"):
        return jnp.pi * uniform[0]
    if name == "translate_frac":
        return normal
    return normal[0]


def draw(rng, w, policy):
    """Normalised draws of one image, scaled by the strength.

    Args:
      rng: a typed key.
      w: strength in [0, 1], a scalar; or [len(policy.ops)], one for each of them.
      policy: the `Policy`.

    Returns:
      A dict: operation -> draw, 0 where it does not fire ([2] for the translations, [] for the
      others); "xflip" -> 0 or 1; "aniso_axis" -> angle in radians, if "aniso" is in the policy.
    """
    rng_flip, rng_fire, rng_normal, rng_uniform, rng_thin = jax.random.split(rng, 5)
    draws = {"xflip": jax.random.bernoulli(rng_flip, policy.xflip_p).astype(jnp.float32)}
    k = len(policy.ops)
    if not k:
        return draws
    # One call for all operations: each costs a compiler more time than all the arithmetic here.
    fires = _choose(rng_fire, policy)
    w, bound = jnp.broadcast_to(w, (k,)), jnp.minimum(policy.truncate, BEYOND_NORMAL)
    normal = jax.random.truncated_normal(rng_normal, -bound, bound, (k, 2))
    uniform = jax.random.uniform(rng_uniform, (k, 2), minval=-1.0, maxval=1.0)
    kept = jax.random.uniform(rng_thin, (k,)) < w
    for i, name in enumerate(policy.ops):
        value, fire = _when_fired(name, normal[i], uniform[i]), fires[i]
        if policy.mapping == "probability" or name in DISCRETE:
            fire &= kept[i]
        else:
            value = w[i] * value
        if name not in DISCRETE:
            value = policy.magnitude.get(name, 1.0) * value
        draws[name] = jnp.where(fire, value, 0.0)
        if name == "aniso":  # along a random axis in half of the cases, along x in the others
            draws["aniso_axis"] = jnp.where(normal[i, 1] > 0, jnp.pi * uniform[i, 0], 0.0)
    return draws


def _effective(draws, shape):
    """The draws that do something to an image of `shape` (H, W, C), the others being 0.

    Whole-pixel shifts are rounded, in units of the draw; a grey image has neither hue nor
    saturation.
    """
    effective = dict(draws)
    if "translate_int" in draws:
        unit = TRANSLATE_FRAC * jnp.asarray([shape[1], shape[0]], jnp.float32)
        effective["translate_int"] = jnp.round(draws["translate_int"] * unit) / unit
    if shape[2] == 1:
        for name in {"hue", "saturation"} & draws.keys():
            effective[name] = jnp.zeros_like(draws[name])
    return effective


def labels(draws, policy, shape):
    """The label vector of EDM's label conditioning: all zeros for an image left as it is.

    Entries in the order of `policy.label_names`, which is EDM's: angles as (cos - 1, sin), the
    anisotropy as its draw times (cos, sin) of its axis, whole-pixel shifts as rounded, the others
    as drawn. They tell of what happened: draws without an effect on the image are 0. Equal labels
    do not mean the same in EDM's networks: for the quarter turn (entries exchanged), and for the
    sine of the turn, the sine of the axis and the vertical whole-pixel shift (opposite signs), see
    the head of this file.

    Args:
      draws: of `draw`.
      policy: the `Policy` that they were drawn by.
      shape: (H, W, C) of the image.

    Returns:
      float32 [policy.label_size].
    """
    draws = _effective(draws, shape)
    entries = {name: draws[name] for name in policy.label_names}
    for name in ("rotate_frac", "hue"):
        if name in entries:
            entries[name] = (jnp.cos(draws[name]) - 1.0, jnp.sin(draws[name]))
    if "rotate_int" in entries:
        turns = draws["rotate_int"]
        entries["rotate_int"] = ((turns == 1) | (turns == 2), (turns == 2) | (turns == 3))
    if "aniso" in entries:
        axis = draws["aniso_axis"]
        entries["aniso"] = (draws["aniso"] * jnp.cos(axis), draws["aniso"] * jnp.sin(axis))
    flat = [jnp.ravel(jnp.asarray(e, jnp.float32)) for e in entries.values()]
    return jnp.concatenate(flat)


def _inverse_geometry(draws, height, width):
    """3x3 matrix from a pixel of the result to its source, flips excepted."""
    size = jnp.asarray([width, height], jnp.float32)
    matrix = jnp.eye(3)
    if "rotate_int" in draws:
        matrix = matrix @ transforms.quarter_turns(-draws["rotate_int"])
    if "translate_int" in draws:
        x, y = jnp.round(draws["translate_int"] * TRANSLATE_FRAC * size)
        matrix = matrix @ transforms.translation(-x, -y)
    if "scale" in draws:
        factor = jnp.exp2(-SCALE_LOG2 * draws["scale"])
        matrix = matrix @ transforms.scaling(factor, factor)
    if "rotate_frac" in draws:
        matrix = matrix @ transforms.rotation(-draws["rotate_frac"])
    if "aniso" in draws:
        axis, factor = draws["aniso_axis"], jnp.exp2(-ANISO_LOG2 * draws["aniso"])
        stretch = transforms.scaling(factor, 1.0 / factor)
        matrix = matrix @ transforms.rotation(axis) @ stretch @ transforms.rotation(-axis)
    if "translate_frac" in draws:
        x, y = draws["translate_frac"] * TRANSLATE_FRAC * size
        matrix = matrix @ transforms.translation(-x, -y)
    return matrix


def _color_matrix(draws):
    """4x4 colour matrix of all colour operations, in their order."""
    make = {
        "brightness": lambda d: transforms.brightness(BRIGHTNESS * d),
        "contrast": lambda d: transforms.contrast(jnp.exp2(CONTRAST_LOG2 * d)),
        "lumaflip": transforms.luma_flip,
        "hue": transforms.hue_rotation,
        "saturation": lambda d: transforms.saturation(jnp.exp2(SATURATION_LOG2 * d)),
    }
    matrix = jnp.eye(4)
    for name in COLOR:
        if name in draws:
            matrix = make[name](draws[name]) @ matrix
    return matrix


def apply(x, draws):
    """Applies draws to one image [H,W,C]: flips, one resampling, one colour matrix.

    What did not fire costs no precision: flips only reorder pixels, and an image whose geometric
    (or colour) draws are all 0, or come to nothing in it, keeps its pixels (or colours) bit for
    bit.
    """
    draws = _effective(draws, x.shape)
    x = jnp.where(draws["xflip"] > 0, x[:, ::-1], x)
    if "yflip" in draws:
        x = jnp.where(draws["yflip"] > 0, x[::-1], x)
    with jax.default_matmul_precision("highest"):  # of the small matrices, not only the images
        geometric = [draws[name] for name in GEOMETRIC if name in draws and name != "yflip"]
        if geometric:
            moved = transforms.apply_geometry(x, _inverse_geometry(draws, *x.shape[:2]))
            x = jnp.where(_any(geometric), moved, x)
        color = [draws[name] for name in COLOR if name in draws]
        if color:
            x = jnp.where(_any(color), transforms.apply_color(x, _color_matrix(draws)), x)
    return x


def _any(draws):
    return jnp.any(jnp.concatenate([jnp.ravel(d) for d in draws]) != 0)


def _check(x, w, policy, *, images):
    """Refuses what is no image and no strength of one, or of `images` (a tuple of their number)."""
    k, given = len(policy.ops), f"{x.dtype}{list(x.shape)}"
    if x.ndim != 3 + len(images) or not jnp.issubdtype(x.dtype, jnp.floating):
        axes = "[B,H,W,C]" if images else "[H,W,C]"
        raise ValueError(f"x must be floats {axes} in [-1, 1], got {given}")
    if x.shape[-1] not in (1, 3) and not COLOR.keys().isdisjoint(policy.ops):
        raise ValueError(f"x must have 1 or 3 channels for operations on colours, got {given}")
    if jnp.shape(w) not in (images, (*images, k)):
        wanted = f"[B] or [B,{k}] for B={images[0]} images" if images else f"a scalar or [{k}]"
        raise ValueError(f"w must be {wanted}, got {list(jnp.shape(w))}")


def augment(rng, x, w, policy=Policy(), *, return_labels=False):
    """Augments one image with strength w.

    Args:
      rng: a typed key.
      x: float image [H,W,C] in [-1, 1], of 1 or 3 channels; of any, where colours stay. The result
        is not clipped.
      w: strength in [0, 1], a scalar; or [len(policy.ops)], one for each of them. With w = 0 and
        `xflip_p` = 0, x comes back bit for bit.
      policy: the `Policy`; its numbers may be traced.
      return_labels: also return the label vector (see `labels`), for networks conditioned on it.

    Returns:
      The augmented image [H,W,C], or (image, labels [policy.label_size]).

    Raises:
      ValueError: for an image of integers, one whose channels are no colours where the policy
        changes those, or a w of another shape.
    """
    _check(x, w, policy, images=())
    draws = draw(rng, w, policy)
    y = apply(x, draws)
    return (y, labels(draws, policy, x.shape)) if return_labels else y


def augment_batch(rng, x, w, policy=Policy(), *, return_labels=False):
    """`augment` of every image [B,H,W,C] with a key of its own; w [B] or [B,len(policy.ops)].

    Raises:
      ValueError: as `augment`.
    """
    _check(x, w, policy, images=x.shape[:1])
    keys = jax.random.split(rng, x.shape[0])

    def one(key, image, w):
        return augment(key, image, w, policy, return_labels=return_labels)

    return jax.vmap(one)(keys, x, w)
