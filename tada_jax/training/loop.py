"""The training loop: a run from its data to its last checkpoint, through any interruption.

`train(config, workdir)` is the whole of `main.py --mode=train`.
"""

import contextlib
import errno
import time

import jax
import numpy as np

from tada_jax.data import classes
from tada_jax.metrics import judge
from tada_jax.setup import fitted_strength as strengths
from tada_jax.setup import length
from tada_jax.setup.plan import plan
from tada_jax.system import backend, logs
from tada_jax.system.errors import UserError
from tada_jax.system.interrupt import StopRequest
from tada_jax.system.paths import expanded
from tada_jax.training import calls, yardstick
from tada_jax.training import step as steps
from tada_jax.training import workdir as workdirs
from tada_jax.training.alarm import check_finite
from tada_jax.training.checkpoint import Checkpoints
from tada_jax.training.describe import draw_beginning, introduce
from tada_jax.training.observe import Observer, draw_curves, has_left_window, rank_of
from tada_jax.training.resume import given_params, init, read_back, resume
from tada_jax.training.session import Session

# In a run of several processes they agree every so many calls on whether one was told to stop.
CALLS_BETWEEN_AGREEMENTS = 10


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
    asked, config = config, planned.config
    if config.train.stop == "window":
        judge.check(planned.dataset)  # without a look it would not end
    with contextlib.ExitStack() as stack:
        occupied = workdirs.occupied(config, workdir_) if first else contextlib.nullcontext()
        backend.in_turn(lambda: stack.enter_context(occupied))
        stack.enter_context(_one_line_for_disk_errors(workdir_))
        trained = workdirs.has_checkpoints(workdir_)
        compiled = None if trained else calls.compile_first(planned)
        checkpoints = Checkpoints(
            workdir_,
            keep=config.log.keep_checkpoints,
            metric=config.log.best_metric,
            measured=yardstick.of_ranks(config),
        )
        stack.callback(checkpoints.close)
        progress = logs.Progress(config.train.total_steps, unit="step", active=first)
        stack.callback(progress.end)
        state = resume(checkpoints, planned, progress.say)
        if state is None:
            state = init(planned, given_params(planned, progress.say))
        snapshots = None
        if config.ema.widths:
            snapshots = Checkpoints(workdir_, keep=None, folder="ema")
            stack.callback(snapshots.close)
        if first:
            workdirs.describe(asked, workdir_, int(state.step))
            classes.keep(planned.dataset, workdir_)
            if planned.schedule:
                strengths.keep(planned.schedule, workdir_)
        first_step = int(state.step)
        log = logs.Log(workdir_, first_step=first_step, active=first)
        stack.callback(log.close)
        session = Session(planned, workdir_, checkpoints, snapshots, log, progress)
        introduce(session, state)
        if asked.train.total_steps == length.AUTO and first:
            progress.say(length.in_words(config))
        if first_step >= config.train.total_steps:
            more = f", of which config.train.total_steps={config.train.total_steps} asks for fewer"
            progress.say(
                f"this run has already done its {first_step:,} steps"
                + more * (first_step > config.train.total_steps)
            )
            return state
        by_window = config.train.stop == "window"
        if by_window and has_left_window(session):
            progress.say(f"this run ended at step {first_step:,}, since it had begun to copy")
            return state
        stop = stack.enter_context(StopRequest())
        observe = Observer(session, stopping=lambda: stop.signal is not None)
        if compiled:
            compiled.wait()
        state = _loop(session, state, observe, stop, started)
        checkpoints.wait()
        if snapshots:
            snapshots.wait()
        if by_window and has_left_window(session):
            progress.say(
                f"ended at step {int(state.step):,}, since it begins to copy (config.train.stop="
                "'window')"
            )
        elif state.step < config.train.total_steps:
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


@contextlib.contextmanager
def _one_line_for_disk_errors(workdir):
    try:
        yield
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise backend.of_another_process(e) or e from e
        raise UserError(
            "the device has too little memory for this run: take a smaller "
            "config.train.microbatch or batch_size, sample.batch_size, model.remat=True or "
            "model.dtype='bfloat16' (--dry_run estimates what is needed)"
        ) from e
    except OSError as e:
        saved = workdirs.saved_steps(workdir)
        kept = f"step {saved[-1]:,} is saved" if saved else "nothing was saved yet"
        what = ": ".join(str(part) for part in (e.filename, e.strerror or e) if part)
        full = e.errno == errno.ENOSPC or "No space left" in what or "RESOURCE_EXHAUSTED" in what
        remedy = "free some space" if full else "make it writable"
        raise UserError(
            f"workdir {workdir}: {'the disk is full' if full else what}; {kept}: {remedy}, and the "
            "same command continues"
        ) from e


class _Window:
    """The steps since the last line of the log: what they added up, and how long they took.

    Attributes:
      tally: a `step.Tally` on the devices.
      loss: mean over the last window that had a finite one.
      seconds: that a step took in the last window; 0 before the first.
      skipped: steps that were skipped since the last good one, up to the last window.
    """

    def __init__(self, session, first_step):
        parts, mesh = session.plan.parts, session.plan.mesh
        self._session, self._batch = session, session.plan.config.train.batch_size
        self._empty = jax.jit(
            lambda: steps.empty_tally(parts), out_shardings=backend.replicated(mesh)
        )
        self.loss, self.seconds, self.skipped = float("nan"), 0.0, 0
        self.begin(first_step)

    def begin(self, step):
        """Begins another after `step` steps."""
        self.tally, self._from = self._empty(), step
        self.begin_timing(step)

    def begin_timing(self, step):
        """Takes the time from here: the first step was compiled."""
        self._timed_from, self._began = step, time.monotonic()

    def scalars(self, step):
        """What the steps up to `step` come to, for the log; waits for them.

        Raises:
          UserError: if they are not finite, and the run shall not go on.
        """
        tally, count = jax.device_get(self.tally), step - self._from
        scalars = check_finite(tally, count, self._session, self.skipped)
        if int(tally.nonfinite) < count:
            self.skipped = 0
            scalars |= {name: float(mean) for name, mean in tally.means.compute().items()}
            self.loss = scalars["loss"]
        else:
            self.skipped += count
        if step > self._timed_from:
            self.seconds = (time.monotonic() - self._began) / (step - self._timed_from)
            speed = self._batch / self.seconds
            scalars |= {"images_per_s": speed, "steps_per_s": 1 / self.seconds}
        return scalars

    def show(self, step):
        """Shows how far the run is."""
        if self.seconds:
            note = f"loss {self.loss:.4f}  {self._batch / self.seconds:,.0f} images/s"
            self._session.progress.update(step, note, self.seconds)


def _loop(session, state, observe, stop, started):
    """Steps, and everything that happens between them, until the end or a signal."""
    planned, progress = session.plan, session.progress
    config, total, first = planned.config, planned.config.train.total_steps, backend.is_first()
    on_cpu = jax.default_backend() == "cpu"
    advance, seed = calls.advance(planned), np.uint32(config.seed)
    step = first_step = int(state.step)
    window, called, is_read_back = _Window(session, step), 0, False
    with calls.batches(session, first_step) as batches:
        while step < total:
            count = calls.count(planned, step)
            state, window.tally = advance(state, window.tally, seed, *next(batches), count)
            called += 1
            if on_cpu:  # several host devices deadlock when too many programs are in flight
                jax.block_until_ready(window.tally)
            if step == first_step:
                jax.block_until_ready(window.tally)
                progress.say(f"first step after {time.monotonic() - started:.1f} s")
                draw_beginning(session)
                window.begin_timing(step + count)
            step += count
            stopping = stop.signal is not None
            if jax.process_count() > 1:
                agree = called % CALLS_BETWEEN_AGREEMENTS == 0
                stopping = agree and backend.any_process(stopping)
            if calls.to_next_event(step - 1, config) > 1 and not stopping:
                window.show(step)
                continue  # nothing is due after this step: the devices run on without waiting

            scalars = window.scalars(step)
            window.show(step)
            saving = _is_due(config.log.checkpoint_every, step, config)
            seen = observe(state, step, saving)
            session.log.write(step, scalars | seen)
            if seen and first:
                draw_curves(session)
            over = config.train.stop == "window" and bool(seen) and has_left_window(session)
            if config.ema.widths and (over or _is_due(config.ema.snapshot_every, step, config)):
                widths = list(config.ema.widths)
                session.snapshots.save(step, state.power_emas, {"widths": widths})
                session.snapshots.wait()  # no checkpoint without the snapshots before it
            if saving or stopping or over:
                session.checkpoints.save(step, state, _meta(planned), rank_of(session, seen))
                if not is_read_back:
                    read_back(session, step, state)
                    is_read_back = True
            if stopping or over:
                break
            window.begin(step)
    return state


def _is_due(every, step, config):
    return step % every == 0 or step == config.train.total_steps


def _meta(planned):
    """What a checkpoint says of the data, a dict for JSON."""
    dataset = planned.dataset
    return {
        "image_shape": list(planned.parts.image_shape),
        "num_classes": dataset.num_classes,
        "class_names": list(dataset.class_names),
        "num_images": len(dataset.train.images),
        "image_digest": dataset.digest,
        "held_out_digest": dataset.held_out_digest,
    }
