"""A run in words and pictures: what `--dry_run` says, and what is said as training begins."""

import jax
import numpy as np
from clu import parameter_overview

from tada_jax.data import inspection
from tada_jax.methods.table import METHODS
from tada_jax.metrics import judge
from tada_jax.setup import length
from tada_jax.setup.plan import plan
from tada_jax.system import backend, figures
from tada_jax.system.paths import write_whole
from tada_jax.training import device_memory
from tada_jax.training import workdir as workdirs
from tada_jax.training.resume import params_of_another_run
from tada_jax.training.step import state_shapes
from tada_jax.weights import load

LEAST_STRENGTH = 0.005  # mean over the noise levels, below which images stay as they are


def describe(config):
    """What a run of this configuration would be: everything but the training, and no file written.

    Returns:
      Lines of text: the configuration, the data report, the parameters, the memory, and advice.

    Raises:
      UserError: for whatever would stop the run, in one line.
    """
    planned = plan(config)
    if planned.config.train.stop == "window":
        judge.check(planned.dataset)
    seen = inspect(planned)
    resident = planned.image_bytes if planned.resident else 0
    needed = device_memory.estimate(planned.parts, config, planned.mesh.size, resident)
    shapes = state_shapes(planned.parts, config).params
    return [
        "configuration",
        *(f"  {name} = {value!r}" for name, value in workdirs.flatten(config.to_dict()).items()),
        "data",
        *(f"  {line}" for line in seen.lines()),
        "network",
        parameter_overview.get_parameter_overview(shapes, include_stats=False),
        *_weights(planned, shapes),
        f"memory: {needed}",
        *_strength(planned),
        f"window: {length.expected(config, len(planned.dataset.train.images))}",
        *(
            f"advice: {advice}"
            for advice in (*seen.advice, *_run_advice(planned), *_memory_advice(planned, needed))
        ),
    ]


def _weights(planned, shapes):
    """Lines on the weights of others, or the other run, that a run begins with; none without."""
    config = planned.config
    if config.init.weights is None and config.init.workdir is not None:
        params_of_another_run(config, shapes)
        c = config.init
        return [f"weights: those of {c.workdir}, checkpoint {c.checkpoint}"]
    if config.init.weights is None:
        return []
    parts = planned.parts
    found = load.load(config, parts.network, parts.image_shape, shapes)
    fields = load.config_lines(found.weights, max(parts.image_shape[:2]))
    return [
        "weights",
        *(f"  {line}" for line in found.lines),
        "  the same as flags:",
        *(f"    --config.{name}={load.shown(value)}" for name, value in fields.items()),
    ]


def _run_advice(planned):
    """A line if a run will hardly have begun when it ends."""
    total, warmup = planned.config.train.total_steps, planned.config.optimizer.warmup_steps
    if total < 2 * warmup:
        yield (
            f"the learning rate rises over optimizer.warmup_steps={warmup:,} of {total:,} steps: "
            "set it to a tenth of them"
        )


def _strength(planned):
    """Lines on how strongly TADA augments, where, and if at all; none for a constant strength."""
    if METHODS[planned.config.method].strength == "tada":
        mean = _mean_strength(planned.parts)
        band = f"{planned.schedule.about}; " if planned.schedule else ""
        yield f"strength: {band}w is {mean:.2f} on average over the noise levels (strength.png)"
        if mean < LEAST_STRENGTH:
            yield (
                "advice: TADA hardly augments at any noise level, so that this run is one of "
                "config.method='none': set another config.tada.schedule, or a larger "
                "config.tada.budget, config.tada.delta or config.sensitivity.thresholds"
            )


def _mean_strength(parts):
    """Mean of w over the noise levels of training, and over operations."""
    shares = (np.arange(256) + 0.5) / 256
    levels = jax.jit(lambda u: parts.strength(parts.schedule.logsnr(parts.schedule.quantile(u))))
    return float(np.mean(levels(shares)))


def _memory_advice(planned, needed):
    """A line if the run will not fit its device, or a common one."""
    limit = backend.device_bytes()
    size = limit or 16 * backend.GIB
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
        f"training needs about {needed.total / backend.GIB:,.0f} GiB a device, more than the "
        f"{size / backend.GIB:.0f} GiB that {where}: {remedy}"
    ]


def introduce(session, state):
    """Says what is about to be trained on what."""
    planned, progress = session.plan, session.progress
    config = planned.config
    if not backend.is_first():
        return
    if state.step:
        progress.say(planned.dataset.source)
    else:
        seen = inspect(planned)
        advised = (*seen.advice, *_run_advice(planned))
        lines = [*seen.lines(), *(f"advice: {advice}" for advice in advised)]
        for line in lines:
            progress.say(line)
        write_whole(session.workdir / "data.txt", "\n".join(lines) + "\n")
    progress.say(
        f"network of {parameter_overview.count_parameters(state.params):,} parameters, "
        f"{planned.mesh.size} x {jax.devices()[0].device_kind}, everything in {session.workdir}"
    )
    for line in _strength(planned):
        progress.say(line)
    idle = backend.idle_accelerator()
    if idle:
        progress.say(f"warning: {idle}")
    if state.step:
        progress.say(f"continuing at step {int(state.step):,}")
    elif config.init.workdir is not None and config.init.weights is None:
        progress.say(f"starting from the parameters of {config.init.workdir}")


def draw_beginning(session):
    """Draws what augmentation will do, and the first images, before a run's first checkpoint."""
    planned = session.plan
    config, images = planned.config, planned.dataset.train.images
    if not backend.is_first():
        return
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
