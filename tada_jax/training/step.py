"""Training: the state, the objective, one step of it, and its evaluation; no files.

The loop around it is in `loop.py`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics as clu_metrics

from tada_jax.data.order import Order, batch_indices
from tada_jax.methods.base import Level
from tada_jax.model import diffusion, ema
from tada_jax.system import backend
from tada_jax.system.memo import Memo
from tada_jax.system.paths import to_json
from tada_jax.system.pixels import to_float

# Independent streams of the run's seed; `solvers.STREAM` is another.
INITIALISATION, STEPS, EVALUATION = 0, 1, 2


def stream(seed, number):
    """The key of one of the streams of a seed."""
    return jax.random.fold_in(jax.random.key(seed), number)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What changes from step to step; arrays only."""

    step: jax.Array  # int32 [], steps done
    params: Any
    ema_params: Any
    opt_state: Any
    power_emas: tuple[Any, ...] = ()  # one for each of config.ema.widths


def init_state(parts, seed, *, widths=()):
    """A fresh state with post-hoc averages of `widths`; equal for equal parts and seed."""
    params = parts.init_params(stream(seed, INITIALISATION))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=parts.optimizer.init(params),
        power_emas=tuple(jax.tree.map(jnp.copy, params) for _ in widths),
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Noised:
    """A batch as the network gets it, and what it is to predict."""

    z: jax.Array  # z_t, [B,H,W,C]
    t: jax.Array  # [B]
    x0: jax.Array  # augmented, [B,H,W,C]
    eps: jax.Array  # [B,H,W,C]
    labels: jax.Array | None  # int32 [B]
    condition: jax.Array | None  # float [B,condition_size]
    w: jax.Array  # strength, [B], or [B,K] for one of each operation
    weight: jax.Array | None  # of the loss, [B]; None: 1
    known: jax.Array | None  # whether x0 is the image, [B]; None: always


def noised(rng, x0, labels, parts, numbers=None):
    """Draws t, strength, augmentation and noise for clean images; (`Noised`, key for dropout)."""
    rng_t, rng_aug, rng_noise, rng_dropout, rng_label = jax.random.split(rng, 5)
    schedule = parts.schedule

    t = parts.method.draw(rng_t, len(x0), schedule, parts.strength)
    level = Level(schedule.logsnr(t), numbers, parts.strength)
    w = parts.strength(level.logsnr)
    eps = diffusion.normal(rng_noise, x0.shape)
    example = parts.method.observed(parts.method(rng_aug, x0, eps, w), w, level)
    x0, eps, shift, condition, weight, known = example
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    z = diffusion.diffuse(x0, eps + shift, alpha, sigma)
    x0 = x0 + diffusion.expand(sigma / alpha, x0) * shift  # so that z is alpha x0 + sigma eps again
    labels = drop_labels(rng_label, labels, parts.class_dropout)
    return Noised(z, t, x0, eps, labels, condition, w, weight, known), rng_dropout


def loss_terms(params, batch, rng_dropout, parts):
    """The objective on a `Noised` batch; see `loss_fn`."""
    output = parts.apply(
        params,
        batch.z,
        batch.t,
        batch.labels,
        batch.condition,
        deterministic=False,
        rngs={"dropout": rng_dropout},
    )
    terms = diffusion.training_losses(
        parts.schedule,
        output,
        batch.x0,
        batch.eps,
        batch.z,
        batch.t,
        weight=batch.weight,
        known=batch.known,
        **parts.loss_options,
    )
    return terms | {"strength": batch.w if batch.w.ndim == 1 else batch.w.mean(-1)}


def loss_fn(params, rng, x0, labels, parts, numbers=None):
    """The objective of TADA on a batch of clean images.

    Args:
      params: of the network.
      rng: the key of this step.
      x0: images in [-1, 1], [B,H,W,C].
      labels: int32 [B], or None for an unconditional network.
      parts: the `build.Parts`.
      numbers: of the images in the training set, int32 [B], for methods that go by them.

    Returns:
      Unreduced terms, a dict of [B]: "loss", "mse", "strength", and "vlb" with a learned variance.
    """
    return loss_terms(params, *noised(rng, x0, labels, parts, numbers), parts)


def gradient(params, rng, x0, labels, parts, numbers=None, *, pieces=1):
    """The gradient of the mean loss, and the means of its terms.

    Args:
      params, rng, x0, labels, parts, numbers: as of `loss_fn`.
      pieces: in which the batch goes through the network, one after the other, so that only the
        activations of one are held. What is drawn for the batch does not depend on it, apart from
        dropout.

    Returns:
      (pytree as params, dict of scalars).
    """

    def mean_loss(params, terms_of):
        means = {name: value.mean() for name, value in terms_of(params).items()}
        return means["loss"], means

    of_terms = jax.grad(mean_loss, has_aux=True)
    if pieces == 1:
        return of_terms(params, lambda p: loss_fn(p, rng, x0, labels, parts, numbers))
    batch, rng_dropout = noised(rng, x0, labels, parts, numbers)
    # A piece has images from all over the batch, so that each device keeps its part of the batch.
    batch = jax.tree.map(lambda a: a.reshape(-1, pieces, *a.shape[1:]).swapaxes(0, 1), batch)

    def of_piece(i, piece):
        key = jax.random.fold_in(rng_dropout, i)
        return of_terms(params, lambda p: loss_terms(p, piece, key, parts))

    if backend.platform() == "cpu":  # in loops gradients of convolutions miss the fast library

        def take(i):
            return jax.tree.map(lambda a: a[i], batch)

        total = of_piece(0, take(0))
        for i in range(1, pieces):
            # A zero that is known when the gradient is: no piece begins before the last one ends.
            zero = 0.0 * sum(a.ravel()[0] for a in jax.tree.leaves(total))
            piece = take(i)
            piece = dataclasses.replace(piece, z=piece.z + zero)
            total = jax.tree.map(jnp.add, total, of_piece(i, piece))
    else:
        shapes = jax.eval_shape(of_piece, 0, jax.tree.map(lambda a: a[0], batch))
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)

        def add(total, i_piece):
            return (jax.tree.map(jnp.add, total, of_piece(*i_piece)), None)

        total, _ = jax.lax.scan(add, zeros, (jnp.arange(pieces), batch))
    return jax.tree.map(lambda a: a / pieces, total)


def drop_labels(rng, labels, rate):
    """Classes [B], each replaced by -1, "no class", with probability `rate`; None stays None.

    A network that has seen both can be guided (Ho & Salimans 2022).
    """
    if labels is None or not rate:
        return labels
    return jnp.where(jax.random.bernoulli(rng, rate, labels.shape), -1, labels)


def ema_decay(step, decay, *, warmup):
    """Decay of the parameter average after `step` steps; with `warmup` it grows towards `decay`.

    Without it, early averages consist mostly of the random initial parameters.
    """
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step)) if warmup else decay


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tally:
    """What training steps add up on the device between two lines of the log."""

    means: clu_metrics.Collection  # of the loss terms and the gradient's norm
    nonfinite: jax.Array  # int32 [], steps whose loss or gradient was not a finite number
    first_nonfinite: jax.Array  # int32 [], number of the first of them


def empty_tally(parts):
    """A `Tally` of no steps."""
    learned = parts.loss_options["variance"] == "learned_range"
    means = _means("loss", "mse", "strength", "grad_norm", *(("vlb",) if learned else ())).empty()
    return Tally(means, jnp.zeros((), jnp.int32), jnp.int32(2**31 - 1))


@functools.cache  # clu makes a class at each call, and JAX a program for each class
def _means(*names):
    return clu_metrics.Collection.create(
        **{name: clu_metrics.Average.from_output(name) for name in names}
    )


def train_step(state, tally, images, labels, numbers=None, *, seed, parts, config, where=None):
    """One step: draw t, strength, augment, noise, network, loss, Adam, EMA.

    Args:
      state: a `TrainState`.
      tally: what steps have added up so far.
      images: the batch, uint8 [B,H,W,C].
      labels: int32 [B], or None.
      numbers: of the images in the training set, int32 [B], for methods that go by them.
      seed: the run's, uint32 []; may be traced, so that runs of other seeds need no compilation.
      parts: the `build.Parts`.
      config: the run's, for its averages and what to do about numbers that are not finite.
      where: shardings of the parameters, a pytree; None on one device.

    Returns:
      (state, tally).
    """
    _, key_step = step_keys(seed)
    rng = jax.random.fold_in(key_step, state.step)

    pieces = len(images) // (config.train.microbatch or len(images))
    params = state.params
    if where is not None:  # whole for the network only
        whole = jax.tree.map(lambda at: backend.replicated(at.mesh), where)
        params = jax.lax.with_sharding_constraint(params, whole)
    x0 = to_float(images)
    grads, scalars = gradient(params, rng, x0, labels, parts, numbers, pieces=pieces)
    if where is not None:
        grads = jax.lax.with_sharding_constraint(grads, where)
    updates, opt_state = parts.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = ema_decay(state.step, config.train.ema_decay, warmup=config.train.ema_warmup)
    ema_params = optax.incremental_update(params, state.ema_params, 1.0 - decay)
    power_emas = tuple(
        ema.update(average, params, state.step, ema.exponent(width))
        for average, width in zip(state.power_emas, config.ema.widths)
    )
    new_state = TrainState(state.step + 1, params, ema_params, opt_state, power_emas)

    scalars["grad_norm"] = optax.tree.norm(grads)
    finite = jnp.isfinite(scalars["loss"]) & jnp.isfinite(scalars["grad_norm"])
    means = tally.means.merge(type(tally.means).single_from_model_output(**scalars))
    if config.train.nonfinite == "skip":

        def keep(new, old):
            return jnp.where(finite, new, old)

        stayed = dataclasses.replace(state, step=new_state.step)
        new_state = jax.tree.map(keep, new_state, stayed)
        means = jax.tree.map(keep, means, tally.means)
    first = jnp.where(finite, tally.first_nonfinite, jnp.minimum(state.step, tally.first_nonfinite))
    return new_state, Tally(means, tally.nonfinite + ~finite, first)


def step_keys(seed):
    """The keys of the order of the examples, and of everything random inside a step."""
    return jax.random.split(stream(seed, STEPS))


@dataclasses.dataclass(frozen=True)
class ResidentBatches:
    """`fetch(seed, step, images, labels)` for sets that are whole on every device; traced.

    Attributes:
      batch_size: B.
      order: an `order.Order`.
      sharding: of a batch.
    """

    batch_size: int
    order: Order
    sharding: jax.sharding.NamedSharding

    def __call__(self, seed, step, images, labels):
        """(uint8 [B,H,W,C], int32 [B] or None, their numbers int32 [B]), the batch of a step."""
        batch = self.numbers(seed, step)
        return images[batch], None if labels is None else labels[batch], batch

    def numbers(self, seed, step):
        """Which images of the training set a step sees, int32 [B]."""
        key_order, _ = step_keys(seed)
        batch = batch_indices(key_order, step, batch_size=self.batch_size, order=self.order)
        # All of it on every device: a part on each would cost a message.
        batch = jax.lax.with_sharding_constraint(batch, backend.replicated(self.sharding.mesh))
        return jax.lax.with_sharding_constraint(batch, self.sharding)


class NumberedBatches(ResidentBatches):
    """`fetch` for batches that come from the host as they are, of a method that goes by numbers."""

    def __call__(self, seed, step, images, labels):
        """What it is given, and the numbers."""
        return images, labels, self.numbers(seed, step)


def resident_batches(config, order, sharding):
    """The `ResidentBatches` of a run."""
    return ResidentBatches(config.train.batch_size, order, sharding)


def fed_batches(config, order, sharding, parts):
    """`fetch` of a run whose batches come from the host as they are."""
    if parts.method.by_number:
        return NumberedBatches(config.train.batch_size, order, sharding)
    return _as_they_are


def _as_they_are(seed, step, images, labels):
    return images, labels, None


def _fresh(parts, config):
    """`init_state` by the seed alone; the same function each time, so that JAX traces it once."""
    widths = tuple(config.ema.widths)
    depends_on = parts.network, parts.image_shape, parts.optimizer, widths
    return _FRESH.get(depends_on, lambda: functools.partial(init_state, parts, widths=widths))


_FRESH = Memo()


def state_shapes(parts, config):
    """The `TrainState` of a run as shapes, a pytree."""
    return jax.eval_shape(jax.jit(_fresh(parts, config)), np.uint32(0))


def state_sharding(parts, config, mesh):
    """Where each array of the `TrainState` lies, a pytree; see `backend.state_sharding`."""
    return backend.state_sharding(mesh, state_shapes(parts, config), config.train.sharding)


def fresh_state(parts, config, mesh):
    """The `TrainState` that a run starts from, on its devices."""
    # It is computed once: on CPUs a program that is made in haste is ready sooner.
    hasty = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(
        _fresh(parts, config),
        out_shardings=state_sharding(parts, config, mesh),
        compiler_options=hasty if jax.default_backend() == "cpu" else None,
    )(np.uint32(config.seed))


def make_steps(parts, config, mesh, fetch):
    """Compiled `steps(state, tally, seed, images, labels, count)`: `count` steps in one call.

    The state and the tally are donated. `fetch(seed, step, images, labels)` takes the batch of a
    step from what the call is given: `resident_batches(...)`, or `fed_batches(...)`, one step a
    call. Images may be flat, [N,H*W*C]: a TPU copies a whole set of another shape before it looks
    an image up. Equal runs get the same function.
    """
    depends_on = {k: v for k, v in config.train.items() if k not in _OTHER_FIELDS}
    settings = to_json([depends_on, config.ema.widths], sort_keys=True)
    return _STEPS.get(
        (parts, mesh, fetch, settings), lambda: _make_steps(parts, config, mesh, fetch)
    )


_OTHER_FIELDS = ("total_steps", "steps_per_call", "stop")  # of `train`, on which no step depends
_STEPS = Memo()


def _make_steps(parts, config, mesh, fetch):
    where = state_sharding(parts, config, mesh)

    def step(state, tally, seed, images, labels):
        images, *others = fetch(seed, state.step, images, labels)
        images = images.reshape(len(images), *parts.image_shape)
        options = {"seed": seed, "parts": parts, "config": config, "where": where.params}
        with backend.traced_for(mesh):
            return train_step(state, tally, images, *others, **options)

    @functools.partial(
        jax.jit,
        static_argnames="count",
        donate_argnums=(0, 1),
        out_shardings=(where, backend.replicated(mesh)),
    )
    def steps(state, tally, seed, images, labels, count):
        if count == 1:  # convolutions inside a loop run on fewer threads on CPUs
            return step(state, tally, seed, images, labels)

        def body(carry, _):
            return (step(*carry, seed, images, labels), None)

        return jax.lax.scan(body, (state, tally), length=count)[0]

    return steps
