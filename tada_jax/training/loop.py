"""The training loop: a run from its data to its last checkpoint, through any interruption.

`train(config, workdir)` is the whole of `main.py --mode=train`, `describe` that of `--dry_run`.
"""

import contextlib
import dataclasses
import errno
import functools
import itertools
import operator
import time
from typing import Any

import jax
import numpy as np
from clu import parameter_overview

from tada_jax import data
from tada_jax.data import classes, inspection
from tada_jax.data.feed import Feed
from tada_jax.data.order import HostBatches, Order
from tada_jax.methods import METHODS
from tada_jax.metrics.judge import GLANCES, Judge, TooFewImages, copying
from tada_jax.model import unet
from tada_jax.model.schedule import SCHEDULES
from tada_jax.setup import build, limits
from tada_jax.setup import strength as strengths
from tada_jax.study.samples import NotFinite, make_sampler
from tada_jax.system import backend, figures, logs
from tada_jax.system.errors import UserError
from tada_jax.system.interrupt import StopRequest
from tada_jax.system.paths import expanded, write_whole
from tada_jax.training import memory
from tada_jax.training import step as training_step
from tada_jax.training import workdir as workdirs
from tada_jax.training.checkpoint import Checkpoints, Damaged, move_aside, restore_one
from tada_jax.training.run import load_run

# In a run of several processes they agree every so many calls on whether one was told to stop.
CALLS_BETWEEN_AGREEMENTS = 10


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run before its first file is written: everything that follows from its configuration."""

    config: Any
    dataset: data.Dataset
    order: Order
    parts: build.Parts
    mesh: jax.sharding.Mesh
    schedule: strengths.Found | None = None  # of the strength, if it follows the profile

    @property
    def title(self):
        """For figures."""
        return f"{self.dataset.name}, {self.config.method}"

    @property
    def image_bytes(self):
        """Of the training set."""
        return memory.size(self.dataset.train.images)

    @functools.cached_property
    def pool(self):
        """The same data set with all of its training images."""
        return pool_of(self.config, self.dataset)

    def judge(self, say=None, extractor=None):
        """What samples of the run are measured against, a `judge.Judge`.

        Raises:
          UserError: if the data set has too few held-out images, or the extractor cannot be had.
        """
        return backend.in_turn(lambda: self._judge(say, extractor))

    def _judge(self, say, extractor=None):
        return Judge(self.config, self.dataset, self.pool, extractor=extractor, say=say)

    def judge_of_training(self, say):
        """The same, or None and a warning where the data set has too few images to measure."""

        def judge_or_reason():
            try:
                return self._judge(say)
            except TooFewImages as e:
                return e

        judge = backend.in_turn(judge_or_reason)
        if isinstance(judge, Judge):
            return judge
        say(f"warning: no quick metrics of samples: {judge}")
        return None

    @property
    def resident(self):
        """Whether the training set fits the device by the stated budget."""
        return self.image_bytes <= self.config.data.device_gib * memory.GIB


def pool_of(config, dataset):
    """The data set of a run with all of its training images."""
    if config.data.train_size is None:
        return dataset
    whole = config.copy_and_resolve_references().unlock()
    whole.data.train_size = None
    return load_data(whole)


def load_data(config):
    """The data set that the configuration names.

    Raises:
      UserError: if it cannot be had.
    """
    c = config.data
    names = [field.name for field in dataclasses.fields(data.Options)]
    options = {name: c[name] for name in names if name in c and name != "name"}
    return data.load(c.name, train_size=c.train_size, seed=config.seed, **options)


def plan(config, workdir=None, say=None):
    """Reads the data and builds everything that a run needs.

    Args:
      config: the run's.
      workdir: its folder; a schedule that it found there when it began stays as it was.
      say: called with lines of text about what takes time.

    Raises:
      UserError: for whatever cannot be, in one line.
    """
    limits.check(config)
    field = "microbatch" if config.train.microbatch else "batch_size"
    warn = logs.say if backend.is_first() else None
    mesh = backend.data_mesh(config.train[field], field=f"train.{field}", warn=warn)
    dataset = backend.in_turn(lambda: load_data(config))
    train_set, found = dataset.train, None
    if limits.follows_profile(config):
        found = backend.in_turn(lambda: strengths.find(config, dataset, workdir, say))
    return Plan(
        config=config,
        dataset=dataset,
        order=build.order(config, train_set.labels, len(train_set.images)),
        parts=build.parts(
            config,
            train_set.images.shape[1:],
            dataset.num_classes,
            found and found.schedule,
            dataset.class_names,
        ),
        mesh=mesh,
        schedule=found,
    )


def train(config, workdir):
    """Trains as `config` says in the folder `workdir`, continuing the run that is there.

    SIGTERM or Ctrl-C saves a checkpoint and returns; a second one ends the process at once.

    Args:
      config: a configuration as of `configs/base.py`.
      workdir: folder for checkpoints, metrics and pictures; made if missing.

    Returns:
      The `TrainState` after the last step that was done.

    Raises:
      UserError: for a mistake of the user's or a failing disk, in one line.
    """
    started = time.monotonic()
    workdir_ = workdirs.absolute(workdir)
    first = backend.is_first()
    _check_place(config, workdir_)
    planned = plan(config, workdir_, logs.say if first else None)
    with contextlib.ExitStack() as stack:
        occupy = lambda: stack.enter_context(workdirs.occupied(config, workdir_))  # noqa: E731
        backend.in_turn(occupy if first else lambda: None)
        stack.enter_context(_one_line_for_disk_errors(workdir_))
        checkpoints = Checkpoints(
            workdir_, keep=config.log.keep_checkpoints, metric=config.log.best_metric
        )
        stack.callback(checkpoints.close)
        progress = logs.Progress(config.train.total_steps, unit="step", active=first)
        stack.callback(progress.end)
        state = resume_or_init(checkpoints, planned, progress.say)
        snapshots = None
        if config.ema.widths:
            snapshots = Checkpoints(workdir_, keep=None, folder="ema")
            stack.callback(snapshots.close)
        if first:
            workdirs.describe(config, workdir_)
            classes.keep(planned.dataset, workdir_)
            if planned.schedule:
                strengths.keep(planned.schedule, workdir_)
        first_step = int(state.step)
        log = logs.Log(workdir_, first_step=first_step, active=first)
        stack.callback(log.close)
        session = _Session(planned, workdir_, checkpoints, snapshots, log, progress)
        _introduce(session, state)
        if first_step >= config.train.total_steps:
            progress.say(f"this run has already done its {first_step:,} steps")
            return state
        observe = _observer(session)  # may fit small networks first: a signal ends that at once
        stop = stack.enter_context(StopRequest())
        state = _loop(session, state, observe, stop, started)
        checkpoints.wait()
        if snapshots:
            snapshots.wait()
        if state.step < config.train.total_steps:
            progress.say(
                f"stopped after step {int(state.step):,}, which is saved: the same command "
                "continues"
            )
    return state


def _check_place(config, path):
    """Refuses to make a run of the folder that its images lie in.

    Raises:
      UserError: since the pictures that a run draws would count as images of the data set.
    """
    if config.data.path and expanded(config.data.path).resolve() == path:
        raise UserError(
            f"--workdir={path} is the folder of the images, config.data.path: name another, it may "
            "lie inside"
        )


@dataclasses.dataclass(frozen=True)
class _Session:
    """A plan being carried out in a folder."""

    plan: Plan
    workdir: Any
    checkpoints: Checkpoints
    snapshots: Checkpoints | None  # of the post-hoc averages
    log: logs.Log
    progress: logs.Progress


@contextlib.contextmanager
def _one_line_for_disk_errors(workdir):
    try:
        yield
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        raise UserError(
            "the device has too little memory for this run: take a smaller "
            "config.train.microbatch or batch_size, sample.batch_size, model.remat=True or "
            "model.dtype='bfloat16' (--dry_run estimates what is needed)"
        ) from e
    except OSError as e:
        saved = [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]
        kept = f"step {max(saved):,} is saved" if saved else "nothing was saved yet"
        what = ": ".join(str(part) for part in (e.filename, e.strerror or e) if part)
        full = e.errno == errno.ENOSPC or "No space left" in what or "RESOURCE_EXHAUSTED" in what
        remedy = "free some space" if full else "make it writable"
        raise UserError(
            f"workdir {workdir}: {'the disk is full' if full else what}; {kept}: {remedy}, and the "
            "same command continues"
        ) from e


def resume_or_init(checkpoints, planned, say):
    """The state of the newest checkpoint that is whole, or a fresh one."""
    config, widths = planned.config, planned.config.ema.widths
    sharding = training_step.state_sharding(planned.parts, config, planned.mesh)
    seed = np.uint32(config.seed)
    fresh = lambda seed: training_step.init_state(planned.parts, seed, widths=widths)  # noqa: E731
    step, state, damaged = restore_one(checkpoints, "latest", jax.eval_shape(fresh, seed), sharding)
    if state is not None:
        _check_data(checkpoints, step, planned)
    for bad, reason in damaged.items():
        aside = checkpoints.set_aside(bad)
        say(f"warning: the checkpoint of step {bad:,} is damaged ({reason}): moved to {aside}")
    if state is not None:
        return state
    stale = checkpoints.path.parent / "ema"  # of a run whose checkpoints are gone
    if backend.is_first() and stale.is_dir() and any(stale.iterdir()):
        say(f"warning: {stale} is of another run: moved to {move_aside(stale)}")
    state = jax.jit(fresh, out_shardings=sharding)(seed)
    if config.init.workdir is None:
        return state
    params = jax.device_put(_params_of_another_run(config, state.params), sharding.params)
    copy = lambda: jax.tree.map(lambda a: a + 0, params)  # noqa: E731
    return dataclasses.replace(
        state, params=params, ema_params=copy(), power_emas=tuple(copy() for _ in widths)
    )


def _check_data(checkpoints, step, planned):
    """Refuses to go on with other images than those of a checkpoint."""
    saved, dataset = checkpoints.meta(step), planned.dataset
    if saved["image_digest"] != dataset.digest:
        renumbered = classes.renumbered(saved["class_names"], dataset.class_names)
        if renumbered:
            raise UserError(
                f"the run in {checkpoints.path.parent} cannot go on with {dataset.source}: "
                f"{renumbered}: choose another --workdir"
            )
        raise UserError(
            f"{dataset.source}: these are not the images that the run in "
            f"{checkpoints.path.parent} was trained on, {saved['num_images']:,} of them: restore "
            "them, or choose another --workdir"
        )


def _params_of_another_run(config, like):
    """The parameters to begin fine-tuning with.

    Raises:
      UserError: if the other run cannot be read, or its network has other shapes.
    """
    c = config.init
    run = load_run(c.workdir, checkpoint=c.checkpoint)
    for field in ("schedule.name", "diffusion.parameterisation"):
        section, _, name = field.partition(".")
        mine, theirs = config[section][name], run.config[section][name]
        timesteps = {mine, theirs} <= set(SCHEDULES)  # the network is told t by either
        if mine != theirs and not timesteps:
            raise UserError(
                f"config.init.workdir={c.workdir} was trained with config.{field}={theirs!r}, and "
                f"{mine!r} means something else to the same network: make them equal"
            )
    ops = [tuple(each.augment.ops) for each in (config, run.config)]
    told = run.config.method == config.method and METHODS[config.method].way == "ar"
    if told and ops[0] != ops[1]:
        raise UserError(
            f"config.init.workdir={c.workdir} was told of {ops[1]} by its labels, and "
            f"config.augment.ops={ops[0]} would mean something else to it: make them equal, or "
            "choose another config.method"
        )
    params = run.ema_params if c.use_ema else run.params
    if run.config.method != config.method:
        params = unet.with_condition(params, like)
    here, there = (
        {jax.tree_util.keystr(k): v.shape for k, v in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (like, params)
    )
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            raise UserError(
                f"config.init.workdir={c.workdir} has another network: {name} is "
                f"{there.get(name, 'absent')} there and {here.get(name, 'absent')} here; make "
                "config.model, the channels and the variance equal to those of its config.json"
            )
    return params


def _introduce(session, state):
    """Says what is about to be trained on what, and draws what augmentation will do."""
    planned, progress = session.plan, session.progress
    config, images = planned.config, planned.dataset.train.images
    if not backend.is_first():
        return
    if state.step:
        progress.say(planned.dataset.source)
    else:
        seen = inspect(planned)
        lines = [*seen.lines(), *(f"advice: {advice}" for advice in seen.advice)]
        for line in lines:
            progress.say(line)
        write_whole(session.workdir / "data.txt", "\n".join(lines) + "\n")
    progress.say(
        f"network of {parameter_overview.count_parameters(state.params):,} parameters, "
        f"{planned.mesh.size} x {jax.devices()[0].device_kind}, everything in {session.workdir}"
    )
    if state.step:
        progress.say(f"continuing at step {int(state.step):,}")
    elif config.init.workdir is not None:
        progress.say(f"starting from the parameters of {config.init.workdir}")
    figures.strength_figure(
        session.workdir / "strength.png",
        planned.parts,
        images,
        title=planned.title,
        seed=config.seed,
    )
    shown = images[: config.sample.count]
    figures.save_png(session.workdir / "real.png", figures.grid(shown))


def inspect(planned):
    """The data report of a plan, an `inspection.Inspection`."""
    return inspection.inspect(planned.dataset, batch_size=planned.config.train.batch_size)


def steps_to_next_event(step, config):
    """Steps until something other than training happens; at least 1."""
    log = config.log
    intervals = [log.every, log.eval_every, log.sample_every, log.checkpoint_every]
    intervals += [log.metrics_every] if log.metrics_every else []
    intervals += [config.ema.snapshot_every] if config.ema.widths else []
    return min(config.train.total_steps - step, *(n - step % n for n in intervals))


# As many steps in a row that are not finite stop a run that would rather skip them.
MOST_SKIPPED = 50


def check_finite(tally, step, steps, session, skipped=0):
    """What to log about steps whose loss or gradient was not finite; stops the run if it must.

    Args:
      tally: of the last `steps` steps, on the host.
      step: steps done.
      steps: how many the tally covers.
      session: of the run.
      skipped: steps before them that were skipped, without a good one in between.
    """
    count = int(tally.nonfinite)
    if not count:
        return {}
    at = int(tally.first_nonfinite) + 1
    none_good = skipped + count >= MOST_SKIPPED and count == steps
    if session.plan.config.train.nonfinite == "skip" and not none_good:
        session.progress.say(
            f"warning: skipped {count} of the last {steps} steps, whose loss or gradient was not "
            f"finite, the first at step {at:,}"
        )
        return {"nonfinite": float(count)}
    saved = session.checkpoints.latest_step()
    raise UserError(
        f"the loss or its gradient is not finite at step {at:,} (last good checkpoint: "
        f"{'none' if saved is None else f'step {saved:,}'}): try a smaller "
        "config.optimizer.learning_rate, more warmup_steps, model.dtype='float32', or "
        "train.nonfinite='skip'"
        + ("" if saved is None else "; only the last without another --workdir")
    )


def _training_data(session, first_step):
    """Where batches come from: (fetch of `step.make_steps`, arguments of the next call)."""
    planned = session.plan
    config, split = planned.config, planned.dataset.train
    labels = split.labels if planned.parts.network.num_classes else None
    over_batch = backend.over_batch(planned.mesh)
    if planned.resident:
        whole = tuple(backend.put_whole(a, planned.mesh) for a in (split.images, labels))
        fetch = training_step.resident_batches(config, planned.order, over_batch)
        return fetch, contextlib.nullcontext(itertools.repeat(whole))
    key, _ = training_step.step_keys(config.seed)
    batches = HostBatches(key, batch_size=config.train.batch_size, order=planned.order)
    feed = Feed(data.Split(split.images, labels), batches, over_batch, first_step=first_step)
    session.progress.say(
        f"{planned.image_bytes / memory.GIB:.1f} GiB of images stay on the host, above "
        f"config.data.device_gib={config.data.device_gib:g}"
    )
    return training_step.fed_batches, contextlib.closing(feed)


def _loop(session, state, observe, stop, started):
    """Steps, and everything that happens between them, until the end or a signal."""
    planned, log, progress = session.plan, session.log, session.progress
    config, parts, mesh = planned.config, planned.parts, planned.mesh
    dataset, total, first = planned.dataset, config.train.total_steps, backend.is_first()

    fetch, feeding = _training_data(session, int(state.step))
    steps, seed = training_step.make_steps(parts, config, mesh, fetch), np.uint32(config.seed)
    empty_tally = jax.jit(
        lambda: training_step.empty_tally(parts), out_shardings=backend.replicated(mesh)
    )
    on_cpu = jax.default_backend() == "cpu"
    steps_per_call = config.train.steps_per_call or (1 if on_cpu else 10)
    if not planned.resident:
        steps_per_call = 1
    meta = {
        "image_shape": list(parts.image_shape),
        "num_classes": dataset.num_classes,
        "class_names": list(dataset.class_names),
        "num_images": len(dataset.train.images),
        "image_digest": planned.dataset.digest,
    }

    step = first_step = logged_step = timed_step = int(state.step)
    tally, mark, calls = empty_tally(), time.monotonic(), 0
    loss, seconds, skipped, read_back = float("nan"), 0.0, 0, False
    with feeding as batches:
        while step < total:
            count = steps_per_call if steps_per_call <= steps_to_next_event(step, config) else 1
            state, tally = steps(state, tally, seed, *next(batches), count)
            calls += 1
            if on_cpu:  # several host devices deadlock when too many programs are in flight
                jax.block_until_ready(tally)
            if step == first_step:
                jax.block_until_ready(tally)
                progress.say(f"first step after {time.monotonic() - started:.1f} s")
                timed_step, mark = step + count, time.monotonic()
            step += count
            stopping = stop.signal is not None
            if jax.process_count() > 1:
                agree = calls % CALLS_BETWEEN_AGREEMENTS == 0
                stopping = agree and backend.any_process(stopping)
            if steps_to_next_event(step - 1, config) > 1 and not stopping:
                if seconds:
                    progress.update(step, _note(loss, config, seconds), seconds)
                continue  # nothing is due after this step: the devices run on without waiting

            due = lambda every: step % every == 0 or step == total  # noqa: B023, E731
            host_tally = jax.device_get(tally)
            nonfinite = check_finite(host_tally, step, step - logged_step, session, skipped)
            count_bad = int(host_tally.nonfinite)
            scalars = nonfinite
            if count_bad < step - logged_step:
                skipped = 0
                means = host_tally.means.compute()
                scalars |= {name: float(value) for name, value in means.items()}
                loss = scalars["loss"]
            else:
                skipped += count_bad
            if step > timed_step:
                seconds = (time.monotonic() - mark) / (step - timed_step)
                speed = config.train.batch_size / seconds
                scalars |= {"images_per_s": speed, "steps_per_s": 1 / seconds}
                progress.update(step, _note(loss, config, seconds), seconds)
            saving = due(config.log.checkpoint_every)
            seen = observe(state, step, saving)
            log.write(step, scalars | seen)
            if seen and first:
                warning = copying(logs.read(session.workdir))
                if warning:
                    progress.say(f"warning: {warning}")
                _draw_curves(session)
            if config.ema.widths and due(config.ema.snapshot_every):
                widths = list(config.ema.widths)
                session.snapshots.save(step, state.power_emas, {"widths": widths})
                session.snapshots.wait()  # no checkpoint without the snapshots before it
            if saving or stopping:
                session.checkpoints.save(step, state, meta, rank(seen, config.log.best_metric))
                if not read_back:
                    _read_back(session, step, state)
                    read_back = True
            if stopping:
                break
            tally, logged_step, timed_step, mark = empty_tally(), step, step, time.monotonic()
    return state


def _read_back(session, step, state):
    """Reads the first checkpoint of a session back: better no run than one that cannot be kept.

    Raises:
      UserError: if it is not what was saved.
    """
    try:
        session.checkpoints.verify(step, state)
    except Damaged as e:
        raise UserError(
            f"workdir {session.workdir}: the checkpoint of step {step:,} was saved, and cannot be "
            f"read back ({e}): what is written there is not kept, choose another --workdir"
        ) from e


def _observer(session):
    """`observe(state, step, saving) -> scalars`: what is looked at between steps, where it is due.

    Losses on training and held-out images, quick metrics of samples, and a grid of them.
    """
    planned, log = session.plan, session.log
    config, parts, mesh, dataset = planned.config, planned.parts, planned.mesh, planned.dataset
    best, c = config.log.best_metric, config.sample

    evaluate = training_step.make_evaluation(parts, config, mesh)
    evaluated = {
        name: [
            backend.put_whole(
                None if a is None else a[training_step.spread(len(a), evaluate.examples)], mesh
            )
            for a in (split.images, split.labels if parts.network.num_classes else None)
        ]
        for name, split in (("train", dataset.train), ("test", dataset.test))
        if len(split.images)
    }
    every, judge = config.log.metrics_every, None
    most = max(c.count, config.log.metrics_count if every or best in GLANCES else 0)
    draw = make_sampler(parts, mesh, batch_size=min(c.batch_size, most))
    if every or best in GLANCES:
        judge = planned.judge_of_training(session.progress.say)

    def losses(state):
        scalars = {}
        for name, arrays in evaluated.items():
            found = evaluate(state.ema_params, *arrays)
            scalars[f"{name}_mse"] = found.mean
            scalars[f"{name}_mse_by_logsnr"] = found.by_logsnr()
        return scalars

    def observe(state, step, saving):
        due = lambda n: n and (step % n == 0 or step == config.train.total_steps)  # noqa: E731
        scalars = {}
        if due(config.log.eval_every) or (saving and best in ("test_mse", "train_mse")):
            scalars |= losses(state)
        glancing = judge is not None and (due(every) or (saving and best in GLANCES))
        wanted = c.count if due(config.log.sample_every) else 0
        count = max(wanted, config.log.metrics_count if glancing else 0)
        if not count:
            return scalars
        try:
            params = state.ema_params if c.use_ema else state.params
            samples = draw(params, range(count), seed=c.seed)
        except NotFinite as e:
            session.progress.say(f"warning: step {step:,}: {e}")
            return scalars
        if glancing:
            try:
                scalars |= judge.glance(samples[: config.log.metrics_count])
            except (ValueError, UserError) as e:  # of degenerate samples: no reason to stop
                reason = " ".join(str(e).split())
                session.progress.say(f"warning: step {step:,}: no quick metrics: {reason}")
        if wanted:
            picture = figures.grid(samples[:wanted])
            if backend.is_first():
                path = session.workdir / "samples" / f"step_{step:07d}.png"
                figures.save_png(path, picture)
            log.image(step, "samples", picture)
        return scalars

    return observe


def rank(scalars, name):
    """The number by which checkpoints are ranked, the smaller the better; None if there is none."""
    value = scalars.get(name)
    if value is None or not np.isfinite(value):
        return None
    return {"leak": abs, "copy_margin": operator.neg}.get(name, float)(value)


def _note(loss, config, seconds):
    return f"loss {loss:.4f}  {config.train.batch_size / seconds:,.0f} images/s"


def _draw_curves(session):
    planned = session.plan
    lines, seed = logs.read(session.workdir), planned.config.seed
    counts = [len(split.images) for split in (planned.dataset.train, planned.dataset.test)]
    title = f"{planned.title}: {counts[0]:,} training images, seed {seed}"
    figures.training_figure(session.workdir / "training.png", lines, title=title)
    count = planned.config.log.metrics_count
    figures.quality_figure(session.workdir / "quality.png", lines, title=title, count=count)
    figures.noise_level_figure(
        session.workdir / "noise_levels.png", lines, title=planned.title, images=counts, seed=seed
    )


def describe(config):
    """What a run of this configuration would be: everything but the training, and no file written.

    Returns:
      Lines of text: the configuration, the data report, the parameters, the memory, and advice.

    Raises:
      UserError: for whatever would stop the run, in one line.
    """
    planned = plan(config)
    seen = inspect(planned)
    resident = planned.image_bytes if planned.resident else 0
    needed = memory.estimate(planned.parts, config, planned.mesh.size, resident)
    shapes = jax.eval_shape(lambda: training_step.init_state(planned.parts, config.seed).params)
    return [
        "configuration",
        *(f"  {name} = {value!r}" for name, value in workdirs.flatten(config.to_dict()).items()),
        "data",
        *(f"  {line}" for line in seen.lines()),
        "network",
        parameter_overview.get_parameter_overview(shapes, include_stats=False),
        f"memory: {needed}",
        *(f"advice: {advice}" for advice in (*seen.advice, *_memory_advice(planned, needed))),
    ]


def _memory_advice(planned, needed):
    """A line if the run will not fit its device, or a common one."""
    limit = memory.available()
    size = limit or 16 * memory.GIB
    if needed.total <= size:
        return []
    h, w, _ = planned.parts.image_shape
    where = "this device has" if limit else "a 16 GB card has"
    # What grows with the images' area is nearly all; a third is left for what does not.
    smaller = next((r for r in (256, 128) if needed.total * r * r <= 0.7 * size * h * w), 64)
    square = "" if h == w else " with config.data.fit=crop"
    remedy = (
        f"set config.data.resolution={smaller}{square}"
        if min(h, w) > smaller
        else "take a smaller config.train.microbatch or batch_size, model.remat=True or "
        "model.dtype='bfloat16'"
    )
    return [
        f"training needs about {needed.total / memory.GIB:,.0f} GiB a device, more than the "
        f"{size / memory.GIB:.0f} GiB that {where}: {remedy}"
    ]
