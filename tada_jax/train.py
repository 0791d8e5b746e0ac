"""Training: the state, the objective, one step of it, and the loop.

`train(config, workdir)` is the whole of `main.py --mode=train`; everything in it can be imported.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics as clu_metrics
from clu import parameter_overview

from tada_jax import backend, build, data, diffusion, generate, logs, report
from tada_jax import workdir as workdirs
from tada_jax.augment import augment_batch
from tada_jax.checkpoint import Checkpoints
from tada_jax.data.order import batch_indices
from tada_jax.errors import UserError

# Independent streams of the run's seed; `sampling.STREAM` is another.
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


def init_state(parts, seed):
    """A fresh state; equal for equal parts and seed."""
    params = parts.init_params(stream(seed, INITIALISATION))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=parts.optimizer.init(params),
    )


def to_float(images):
    """uint8 0..255 -> float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def loss_fn(params, rng, x0, labels, parts):
    """The objective of TADA on a batch of clean images.

    Args:
      params: of the network.
      rng: the key of this step.
      x0: images in [-1, 1], [B,H,W,C].
      labels: int32 [B], or None for an unconditional network.
      parts: the `build.Parts`.

    Returns:
      Unreduced terms, a dict of [B]: "loss", "mse", "strength", and "vlb" with a learned variance.
    """
    rng_t, rng_aug, rng_noise, rng_dropout = jax.random.split(rng, 4)
    schedule = parts.schedule

    t = jax.random.randint(rng_t, x0.shape[:1], 0, len(schedule))  # [B]
    w = parts.strength(schedule.logsnr(t))  # [B]
    x0 = augment_batch(rng_aug, x0, w, parts.policy)  # [B,H,W,C]
    eps = jax.random.normal(rng_noise, x0.shape)
    z = diffusion.diffuse(x0, eps, schedule.alpha(t), schedule.sigma(t))
    output = parts.network.apply(
        params, z, t, labels, deterministic=False, rngs={"dropout": rng_dropout}
    )
    terms = diffusion.training_losses(schedule, output, x0, eps, z, t, **parts.loss_options)
    return terms | {"strength": w}


def ema_decay(step, decay, *, warmup):
    """Decay of the parameter average after `step` steps; with `warmup` it grows towards `decay`.

    Without it, early averages consist mostly of the random initial parameters.
    """
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step)) if warmup else decay


def metrics_class(parts):
    """The clu.metrics Collection of averages that training steps accumulate on the device."""
    names = ["loss", "mse", "strength", "grad_norm"]
    if parts.loss_options["variance"] == "learned_range":
        names.append("vlb")
    return clu_metrics.Collection.create(
        **{name: clu_metrics.Average.from_output(name) for name in names}
    )


def train_step(state, metrics, images, labels, *, parts, config, batch_sharding):
    """One step: gather, draw t, strength, augment, noise, network, loss, Adam, EMA.

    Args:
      state: a `TrainState`.
      metrics: averages so far, of `metrics_class(parts)`.
      images: the training set, uint8 [N,H,W,C], whole on every device.
      labels: int32 [N], or None.
      parts: the `build.Parts`.
      config: the run's, for its seed, batch size and EMA.
      batch_sharding: how a batch is split over the devices.

    Returns:
      (state, metrics).
    """
    key_order, key_step = jax.random.split(stream(config.seed, STEPS))
    batch = batch_indices(
        key_order, state.step, batch_size=config.train.batch_size, num_examples=len(images)
    )
    batch = jax.lax.with_sharding_constraint(batch, batch_sharding)
    x0 = to_float(images[batch])
    y = None if labels is None else labels[batch]
    rng = jax.random.fold_in(key_step, state.step)

    def mean_loss(params):
        terms = loss_fn(params, rng, x0, y, parts)
        return terms["loss"].mean(), terms

    grads, terms = jax.grad(mean_loss, has_aux=True)(state.params)
    updates, opt_state = parts.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = ema_decay(state.step, config.train.ema_decay, warmup=config.train.ema_warmup)
    ema_params = optax.incremental_update(params, state.ema_params, 1.0 - decay)

    means = {name: value.mean() for name, value in terms.items()}
    new = type(metrics).single_from_model_output(grad_norm=optax.tree.norm(grads), **means)
    return TrainState(state.step + 1, params, ema_params, opt_state), metrics.merge(new)


def make_steps(parts, config, mesh):
    """Compiled `steps(state, metrics, images, labels, count)`: `count` steps in one call.

    The state and the metrics are donated.
    """
    step = functools.partial(
        train_step, parts=parts, config=config, batch_sharding=backend.over_batch(mesh)
    )

    def steps(state, metrics, images, labels, count):
        if count == 1:  # convolutions inside a loop run on fewer threads on CPUs
            return step(state, metrics, images, labels)
        body = lambda carry, _: (step(*carry, images, labels), None)  # noqa: E731
        return jax.lax.scan(body, (state, metrics), length=count)[0]

    return jax.jit(
        steps,
        static_argnames="count",
        donate_argnums=(0, 1),
        out_shardings=backend.replicated(mesh),
    )


def make_evaluation(parts, config, mesh, examples=1024):
    """`evaluate(params, images, labels) -> float`: squared error of the target, not augmented.

    The same noise, and timesteps spread evenly over the schedule, at every call, so that values at
    different steps compare. Images are used as often as it takes to see `examples` of them.
    """
    size = config.train.batch_size
    batches = -(-examples // size)
    stride = next(s for s in itertools.count(61) if math.gcd(s, size * batches) == 1)
    schedule = parts.schedule

    def batch_mse(params, images, labels, i):
        number = i * size + jnp.arange(size)
        number = jax.lax.with_sharding_constraint(number, backend.over_batch(mesh))
        x0 = to_float(images[number % len(images)])
        y = None if labels is None else labels[number % len(images)]
        # A stride coprime to the count visits every level once, unrelated to the image's number.
        level = (number * stride + 0.5) % (size * batches) / (size * batches)
        t = (level * len(schedule)).astype(jnp.int32)
        rng = jax.random.fold_in(stream(config.seed, EVALUATION), i)
        eps = jax.random.normal(rng, x0.shape)
        z = diffusion.diffuse(x0, eps, schedule.alpha(t), schedule.sigma(t))
        output = parts.network.apply(params, z, t, y)
        terms = diffusion.training_losses(schedule, output, x0, eps, z, t, **parts.loss_options)
        return terms["mse"].mean()

    @jax.jit
    def evaluate(params, images, labels):
        one = lambda i: batch_mse(params, images, labels, i)  # noqa: E731
        return jax.lax.map(one, jnp.arange(batches)).mean()

    return lambda *args: float(evaluate(*args))


def load_data(config):
    """The data set that the configuration names."""
    c = config.data
    return data.load(
        c.name,
        path=c.path,
        train_size=c.train_size,
        test_fraction=c.test_fraction,
        seed=config.seed,
    )


def resume_or_init(checkpoints, parts, config, mesh):
    """The state of the newest checkpoint, or a fresh one."""
    fresh = lambda: init_state(parts, config.seed)  # noqa: E731
    sharding = backend.replicated(mesh)
    if checkpoints.latest_step() is None:
        return jax.jit(fresh, out_shardings=sharding)()
    return checkpoints.restore(jax.eval_shape(fresh), sharding)


def steps_to_next_event(step, config):
    """Steps until something other than training happens; at least 1."""
    log = config.log
    intervals = (log.every, log.eval_every, log.sample_every, log.checkpoint_every)
    return min(config.train.total_steps - step, *(n - step % n for n in intervals))


def check_finite(scalars, step, checkpoints):
    """Stops the run if the loss or the gradient is not a finite number."""
    if not np.isfinite([scalars["loss"], scalars["grad_norm"]]).all():
        saved = checkpoints.latest_step()
        raise UserError(
            f"the loss or its gradient is not finite at step {step:,} (last checkpoint: "
            f"{'none' if saved is None else f'step {saved:,}'}): try a smaller "
            "config.optimizer.learning_rate, more warmup_steps, or model.dtype='float32'"
            + ("" if saved is None else ", in another --workdir")
        )


@dataclasses.dataclass(frozen=True)
class _Run:
    """What `train` and its parts share."""

    config: Any
    workdir: Any
    dataset: data.Dataset
    parts: build.Parts
    mesh: jax.sharding.Mesh
    checkpoints: Checkpoints
    log: logs.Log
    progress: logs.Progress

    @property
    def title(self):
        return f"{self.dataset.name}, {self.config.method}"


def train(config, workdir):
    """Trains as `config` says in the folder `workdir`, continuing the run that is there.

    Args:
      config: a configuration as of `configs/base.py`.
      workdir: folder for checkpoints, metrics and pictures; made if missing.

    Returns:
      The final `TrainState`.

    Raises:
      UserError: for a mistake of the user's, in one line.
    """
    started = time.monotonic()
    build.check(config)
    mesh = backend.data_mesh(config.train.batch_size)
    dataset = load_data(config)
    if config.train.batch_size * len(dataset.train.images) >= 2**31:
        raise UserError(
            f"config.train.batch_size={config.train.batch_size} is too large for "
            f"{len(dataset.train.images):,} images: their product must stay below 2^31"
        )
    parts = build.parts(config, dataset.train.images.shape[1:], dataset.num_classes)
    workdir = workdirs.prepare(config, workdir)

    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(workdir, keep=config.log.keep_checkpoints)
        stack.callback(checkpoints.close)
        state = resume_or_init(checkpoints, parts, config, mesh)
        first_step = int(state.step)
        log = logs.Log(workdir, first_step=first_step)
        stack.callback(log.close)
        progress = logs.Progress(config.train.total_steps)
        stack.callback(progress.end)
        run = _Run(config, workdir, dataset, parts, mesh, checkpoints, log, progress)
        _introduce(run, state)
        if first_step >= config.train.total_steps:
            progress.say(f"this run has already done its {first_step:,} steps")
            return state
        state = _loop(run, state, started)
    report.training_figure(workdir / "training.png", logs.read(workdir), title=run.title)
    return state


def _introduce(run, state):
    """Says what is about to be trained on what, and draws what augmentation will do."""
    config, images = run.config, run.dataset.train.images
    run.progress.say(f"{run.dataset.source}, {'x'.join(map(str, images.shape[1:]))}")
    run.progress.say(
        f"network of {parameter_overview.count_parameters(state.params):,} parameters, "
        f"{run.mesh.size} x {jax.devices()[0].device_kind}, everything in {run.workdir}"
    )
    if state.step:
        run.progress.say(f"continuing at step {int(state.step):,}")
    report.strength_figure(
        run.workdir / "strength.png", run.parts, images, title=run.title, seed=config.seed
    )
    report.save_png(run.workdir / "real.png", report.grid(images[: config.sample.count]))


def _loop(run, state, started):
    """Steps, and everything that happens between them, up to `config.train.total_steps`."""
    config, total = run.config, run.config.train.total_steps
    whole = backend.replicated(run.mesh)
    train_set, test_set = (
        jax.device_put((s.images, s.labels if run.parts.network.num_classes else None), whole)
        for s in (run.dataset.train, run.dataset.test)
    )
    steps = make_steps(run.parts, config, run.mesh)
    evaluate = make_evaluation(run.parts, config, run.mesh)
    sample = generate.make_sampler(run.parts, run.mesh)
    empty_metrics = jax.jit(metrics_class(run.parts).empty, out_shardings=whole)
    on_cpu = jax.default_backend() == "cpu"
    steps_per_call = config.train.steps_per_call or (1 if on_cpu else 10)
    meta = {
        "image_shape": list(run.parts.image_shape),
        "num_classes": run.dataset.num_classes,
    }

    step = first_step = logged_step = int(state.step)
    metrics, mark = empty_metrics(), time.monotonic()
    while step < total:
        count = steps_per_call if steps_per_call <= steps_to_next_event(step, config) else 1
        state, metrics = steps(state, metrics, *train_set, count)
        if on_cpu:  # several host devices deadlock when too many of their programs are in flight
            jax.block_until_ready(metrics)
        if step == first_step:
            jax.block_until_ready(metrics)
            run.progress.say(f"first step after {time.monotonic() - started:.1f} s")
            logged_step, mark = step + count, time.monotonic()
        step += count
        if steps_to_next_event(step - 1, config) > 1:
            continue  # nothing is due after this step: the devices run on without waiting

        due = lambda every: step % every == 0 or step == total  # noqa: B023, E731
        scalars = {name: float(value) for name, value in metrics.compute().items()}
        check_finite(scalars, step, run.checkpoints)
        if step > logged_step:
            seconds = (time.monotonic() - mark) / (step - logged_step)
            speed = config.train.batch_size / seconds
            scalars |= {"images_per_s": speed, "steps_per_s": 1 / seconds}
            run.progress.update(step, scalars["loss"], speed, seconds)
        if due(config.log.eval_every):
            scalars["train_mse"] = evaluate(state.ema_params, *train_set)
            if len(run.dataset.test.images):
                scalars["test_mse"] = evaluate(state.ema_params, *test_set)
        run.log.write(step, scalars)
        if due(config.log.sample_every):
            images = sample(state.ema_params, config.sample, count=config.sample.count)
            picture = report.grid(images)
            report.save_png(run.workdir / "samples" / f"step_{step:07d}.png", picture)
            run.log.image(step, "samples", picture)
        if due(config.log.checkpoint_every):
            run.checkpoints.save(step, state, meta)
        metrics, logged_step, mark = empty_metrics(), step, time.monotonic()
    return state
