"""What is looked at between steps, where it is due: losses, quick metrics, samples, curves."""

import operator

import numpy as np

from tada_jax.metrics import judge as judges
from tada_jax.model.sampler import NotFinite, make_sampler
from tada_jax.setup import length
from tada_jax.system import backend, figures, logs
from tada_jax.system.errors import UserError
from tada_jax.training import clock, yardstick
from tada_jax.training.alarm import copying, entering, tinted
from tada_jax.training.heldout import make_evaluation, put_splits


class Observer:
    """`observe(state, step, saving) -> scalars`, for the log.

    Losses on training and held-out images, quick metrics of samples, and a grid of them. What takes
    time to make ready, as the small networks of the metrics, is so when it is first due.

    Args:
      session: a `Session`.
      stopping: () -> whether the run is being stopped, which ends the fit of a small network.
    """

    def __init__(self, session, stopping):
        self._session = session
        planned, c = session.plan, session.plan.config
        self._config, self._best = c, c.log.best_metric
        self._evaluate = make_evaluation(planned.parts, c, planned.mesh)
        self._glances = bool(c.log.metrics_every) or self._best in length.BY_SAMPLES
        most = max(c.sample.count, c.log.metrics_count if self._glances else 0)
        batch_size = min(c.sample.batch_size, most)
        self._draw = make_sampler(planned.parts, planned.mesh, batch_size=batch_size)
        self._judge, self._yardstick = None, yardstick.of(c)
        if self._glances:
            if backend.is_first():
                self._compare_yardsticks()
            self._judge = judges.of_training(planned, session.progress.say, stopping)
        self._evaluated = None  # of `put_splits`, once it is needed

    def __call__(self, state, step, saving):
        """Looks at the state after a step.

        Args:
          state: a `TrainState`.
          step: how many steps it has seen.
          saving: whether it is about to be saved, and ranked.
        """
        log = self._config.log
        by_loss = self._best in length.BY_LOSS
        by_samples = self._best in length.BY_SAMPLES
        scalars = {}
        if self._is_due(log.eval_every, step) or (saving and by_loss):
            scalars |= self.losses(state)
        glancing = self._glances and (
            self._is_due(log.metrics_every, step) or (saving and by_samples)
        )
        wanted = self._config.sample.count if self._is_due(log.sample_every, step) else 0
        return scalars | self._samples(state, step, wanted, glancing and self._judge_is_ready())

    def _compare_yardsticks(self):
        looks = [line for line in logs.read(self._session.workdir) if yardstick.NAME in line]
        if looks and looks[-1][yardstick.NAME] != self._yardstick:
            self._session.progress.say(
                f"warning: the quick metrics up to step {looks[-1]['step']:,} were measured "
                "otherwise (config.sample, config.evaluate, log.metrics_count, JAX or the device "
                "differ): the best checkpoint and the window are those of the looks from here on"
            )

    def _is_due(self, every, step):
        return bool(every) and (step % every == 0 or step == self._config.train.total_steps)

    def losses(self, state):
        """Squared errors on training and held-out images, all together and by noise level."""
        if self._evaluated is None:
            planned = self._session.plan
            self._evaluated = put_splits(
                planned.dataset,
                self._evaluate.examples,
                planned.mesh,
                labelled=bool(planned.parts.network.num_classes),
            )
        scalars = {}
        for name, arrays in self._evaluated.items():
            found = self._evaluate(state.ema_params, *arrays)
            scalars[f"{name}_mse"] = found.mean
            scalars[f"{name}_mse_by_logsnr"] = found.by_logsnr()
        return scalars

    def _judge_is_ready(self):
        """Whether samples can be measured; fits the small networks when that is first asked."""
        if self._judge is None:
            return False
        try:
            judges.prepare_in_turn(self._judge)
        except judges.Stopped:
            return False
        except judges.TooFewImages as e:
            self._session.progress.say(f"warning: no quick metrics of samples: {e}")
            self._judge = None
            return False
        return True

    def _samples(self, state, step, wanted, glancing):
        """Draws samples, writes a grid of the first `wanted`, and measures them if `glancing`."""
        session, c = self._session, self._config
        count = max(wanted, c.log.metrics_count if glancing else 0)
        if not count:
            return {}
        params = state.ema_params if c.sample.use_ema else state.params
        try:
            samples = self._draw(params, range(count), seed=c.sample.seed)
        except NotFinite as e:
            session.progress.say(f"warning: step {step:,}: {e}")
            return {}
        if wanted:
            picture = figures.grid(samples[:wanted])
            if backend.is_first():
                path = session.workdir / "samples" / f"step_{step:07d}.png"
                figures.save_png(path, picture)
            session.log.image(step, "samples", picture)
        return self._glance(samples[: c.log.metrics_count], step) if glancing else {}

    def _glance(self, samples, step):
        try:
            return self._judge.glance(samples) | {yardstick.NAME: self._yardstick}
        except (ValueError, UserError) as e:  # of degenerate samples: no reason to stop
            reason = " ".join(str(e).split())
            self._session.progress.say(f"warning: step {step:,}: no quick metrics: {reason}")
            return {}


def has_left_window(session):
    """Whether a run has begun to copy, by its log; all processes ask, and hear the same."""
    own = None
    if backend.is_first():
        own = clock.read(logs.read(session.workdir), **_counts(session.plan))
    return backend.any_process(own is not None and own.left)


def rank_of(session, seen):
    """`rank` by what was seen at a step, and the run's `config.log.best_metric`."""
    return rank(seen, session.plan.config.log.best_metric, **_counts(session.plan))


def _counts(planned):
    held_out = len(planned.dataset.test.images)
    return {"samples": planned.config.log.metrics_count, "held_out": held_out}


def rank(scalars, name, **counts):
    """The number by which checkpoints are ranked, the smaller the better; None if there is none.

    Args:
      scalars: what was seen at the step.
      name: `config.log.best_metric`.
      **counts: `samples` and `held_out`, as of `clock.read`, if it is "window": the Frechet
        distance, while no more samples are copies than held-out images.
    """
    if name == "window":
        if "copies" not in scalars:
            return None
        most = clock.least_share(scalars["copies_real"], **counts)
        name = "fd" if scalars["copies"] < most else "past the window"
    value = scalars.get(name)
    if value is None or not np.isfinite(value):
        return None
    return {"leak": abs, "copy_margin": operator.neg}.get(name, float)(value)


def draw_curves(session):
    """Draws what the log has so far; says so if the run enters the window, or begins to copy."""
    planned, workdir = session.plan, session.workdir
    lines, seed = logs.read(workdir), planned.config.seed
    counts = _counts(planned)
    if enters := entering(lines, **counts):
        session.progress.say(enters)
    for warning in filter(None, (copying(lines, **counts), tinted(lines))):
        session.progress.say(f"warning: {warning}")
    now = clock.read(lines, **counts)
    counts = [len(split.images) for split in (planned.dataset.train, planned.dataset.test)]
    title = f"{planned.title}: {counts[0]:,} training images, seed {seed}"
    figures.training_figure(workdir / "training.png", lines, title=title)
    count = planned.config.log.metrics_count
    figures.quality_figure(
        workdir / "quality.png", lines, title=title, count=count, marks=now.marks() if now else {}
    )
    figures.noise_level_figure(
        workdir / "noise_levels.png", lines, title=planned.title, images=counts, seed=seed
    )
