"""A run that was trained, loaded from its folder in one call."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from tada_jax.data import classes
from tada_jax.model import ema
from tada_jax.model.sampler import make_sampler
from tada_jax.setup import build, length, limits
from tada_jax.setup import fitted_strength as strengths
from tada_jax.system import backend, logs
from tada_jax.system.errors import UserError
from tada_jax.training import workdir as workdirs
from tada_jax.training.checkpoint import Checkpoints
from tada_jax.training.damage import Damaged
from tada_jax.training.restore import restore_one
from tada_jax.training.step import state_shapes


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network with everything that is needed to use it.

    Attributes:
      workdir: its folder.
      config: its configuration.
      parts: the `build.Parts`: schedule, network, strength, augmentation, ...
      step: of the checkpoint.
      params, ema_params: of the network; the averaged ones are those to sample.
      meta: what was saved with the checkpoint about the data.
      num_classes: of the data set, 0 if unlabelled.
      class_names: of the labels; their numbers if they have no names.
    """

    workdir: pathlib.Path
    config: ConfigDict
    parts: build.Parts
    step: int
    params: Any
    ema_params: Any
    num_classes: int
    class_names: tuple[str, ...] = ()
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)

    def sample(self, count, *, seed=0, use_ema=None, **options):
        """Draws images; image i depends on (seed, i) only.

        Args:
          count: how many.
          seed: of the samples.
          use_ema: whether to take the averaged parameters; None: as the configuration says.
          **options: fields of the configuration's section `sample` that differ from the run's, as
            sampler="dpmpp_2m", steps=20, ema_width=0.1; `label` is the name or number of a class.

        Returns:
          uint8 [count,H,W,C].

        Raises:
          UserError: for an option that cannot be.
        """
        for name, value in {"count": count, "seed": seed}.items():
            if not hasattr(value, "__index__"):
                raise UserError(f"sample: {name}={value!r} must be a whole number")
        if count < 1 or not 0 <= seed < 2**32:
            raise UserError(f"sample: count={count} must be positive, seed={seed} in 0 .. 2^32-1")
        config = self.config.copy_and_resolve_references().unlock()
        unknown = options.keys() - config.sample.keys()
        if unknown:
            raise UserError(f"sample: {sorted(unknown)[0]!r} is no option of sampling")
        if "checkpoint" in options:
            raise UserError(
                f"sample: this run is loaded already: load_run({str(self.workdir)!r}, "
                f"checkpoint={options['checkpoint']!r}) takes another checkpoint"
            )
        if use_ema is not None:  # instead of a post-hoc average too
            options = {"use_ema": use_ema, "ema_width": None, **options}
        if "label" in options:  # apart, since a name may stand for a number that is there
            label = options.pop("label")
            with config.ignore_type():
                config.sample.label = label if label is None else str(label)
        try:
            config.sample.update(options)
        except TypeError as e:
            raise UserError(f"sample: {' '.join(str(e).split())}") from e
        parts = build.sampled(self.parts, config)
        warning = unlearnt(self, parts, count)
        if warning:
            logs.say(f"warning: {warning}")
        batch_size = min(config.sample.batch_size, count)
        sampler = make_sampler(parts, self.mesh, batch_size=batch_size)
        sampled = dataclasses.replace(self, config=config)
        return sampler(sampled.sampled_params, range(count), seed=seed)

    @functools.cached_property
    def classes(self):
        """The classes of the data set, a tuple of `data.classes.Class`.

        Raises:
          UserError: if the file in which they are kept is damaged.
        """
        return classes.kept(self.workdir, self.class_names)

    @property
    def one_class(self):
        """The class that its samples are of, a `data.classes.Class`; None if they are of any."""
        label = self.parts.label
        return None if label is None else classes.Class(label, self.class_names[label])

    @property
    def weights_name(self):
        """Which parameters its configuration samples, for the names of files."""
        c = self.config.sample
        if c.ema_width is not None:
            return f"ema{c.ema_width:g}"
        return "ema" if c.use_ema else "raw"

    @property
    def weights_title(self):
        """The same in words."""
        c, t = self.config.sample, self.config.train
        if c.ema_width is not None:
            return f"post-hoc EMA of width {c.ema_width:g}"
        return f"EMA of decay {t.ema_decay:g}" if c.use_ema else "raw parameters"

    @property
    def sampled_step(self):
        """The training step of those parameters."""
        c = self.config.sample
        if c.ema_width is None or not (self.workdir / "ema").is_dir():
            return self.step
        if c.ema_step is not None:
            return c.ema_step
        return max((s for s in self._snapshot_steps if s <= self.step), default=self.step)

    @functools.cached_property
    def _snapshot_steps(self):
        """Steps of the snapshots for post-hoc averages."""
        names = [p.name for p in (self.workdir / "ema").iterdir()]
        return sorted(int(name) for name in names if name.isdigit())

    @functools.cached_property
    def sampled_params(self):
        """Those parameters.

        Raises:
          UserError: if they are a post-hoc EMA that was not prepared in training.
        """
        c = self.config.sample
        if c.ema_width is not None:
            return self.posthoc_ema(c.ema_width, c.ema_step)
        return self.ema_params if c.use_ema else self.params

    def posthoc_ema(self, width, step=None):
        """Parameters averaged over training with another length, from the stored snapshots.

        Args:
          width: relative, above 0 and below 0.289, see `ema.py`.
          step: as of which; None: of the last snapshot up to the checkpoint.

        Returns:
          A pytree as `params`.

        Raises:
          UserError: if there are no snapshots, or the width or the step cannot be.
        """
        if not (self.workdir / "ema").is_dir():
            raise UserError(
                f"{self.workdir} has no snapshots for a post-hoc EMA: train with "
                "--config.ema.widths='(0.05,0.1)'"
            )
        if step is None:
            step = max((s for s in self._snapshot_steps if s <= self.step), default=self.step)
        widths = self.config.ema.widths
        snapshots = Checkpoints(self.workdir, keep=None, folder="ema", read_only=True)
        try:
            gamma = ema.exponent(width)
            steps = [s for s in sorted(snapshots.steps()) if s <= step]
            if not steps or step > max(snapshots.steps()):
                raise UserError(
                    f"sample.ema_step={step} is not covered by the snapshots in {snapshots.path}, "
                    f"of the steps {', '.join(map(str, sorted(snapshots.steps())))}"
                )
            like = jax.tree.map(
                lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (self.params,) * len(widths)
            )
            sharding = backend.replicated(self.mesh)
            stored = (tree for s in steps for tree in snapshots.restore(s, like, sharding))
            gammas = [ema.exponent(w) for w in widths]
            factors, error = ema.coefficients(
                [s for s in steps for _ in widths], gammas * len(steps), step, gamma
            )
            if error > 0.1:
                known = " or ".join(map(str, widths))
                nearer = "" if width in widths else f"a width nearer to {known}, and "
                raise UserError(
                    f"the snapshots in {snapshots.path} do not give an average of width {width:g} "
                    f"at step {step:,}: they would miss it by {error:.0%}; choose "
                    f"{nearer}a step with a snapshot, as {max(steps)}"
                )
            return ema.combine(stored, factors)
        except (ValueError, Damaged) as e:
            raise UserError(f"post-hoc EMA of {self.workdir}: {e}") from e
        finally:
            snapshots.close()

    @functools.cached_property
    def mesh(self):
        """All devices, axis "data"."""
        return backend.data_mesh(jax.device_count())


def load_run(workdir, *, checkpoint="latest", config=None, warn=None):
    """Loads the run in a folder.

    Args:
      workdir: folder of the run.
      checkpoint: "latest", "best", or a step as "5000".
      config: a configuration that must fit the run, for its free sections (`sample`, `log`); by
        default the one that was saved with it.
      warn: called with a line of text about each damaged checkpoint that is passed over; by default
        the line goes to stderr.

    Returns:
      A `Run`.

    Raises:
      UserError: if the folder holds no run, no such checkpoint, or none that can be read; or if
        `config` does not fit.
    """
    path = workdirs.existing(workdir)
    if config is None:
        config = workdirs.read_config(path)
    limits.check(config)
    workdirs.check_same(config, path)
    if not (path / "checkpoints").is_dir():
        raise UserError(f"{path} holds no checkpoint yet: train first, with --mode=train")
    checkpoints = Checkpoints(path, metric=length.best_metric(config), read_only=True)
    try:
        meta = _any_meta(checkpoints)
        if meta is None:
            raise UserError(f"{path} holds no checkpoint yet: train first, with --mode=train")
        parts = build.parts(
            config,
            meta["image_shape"],
            meta["num_classes"],
            _schedule(config, path),
            class_names=tuple(meta["class_names"]),
        )
        mesh = backend.data_mesh(jax.device_count())
        step, state, damaged = restore_one(
            checkpoints, str(checkpoint), state_shapes(parts, config), backend.replicated(mesh)
        )
    finally:
        checkpoints.close()
    warn = warn or logs.say
    for bad, reason in damaged.items():
        warn(f"warning: the checkpoint of step {bad} is damaged ({reason}): using step {step}")
    return Run(
        workdir=path,
        config=config,
        parts=parts,
        step=step,
        params=state.params,
        ema_params=state.ema_params,
        num_classes=meta["num_classes"],
        class_names=classes.names(meta["num_classes"], meta["class_names"]),
        meta=meta,
    )


def _schedule(config, path):
    """That of a strength which follows the profile, as the run keeps it; else None.

    Raises:
      UserError: if it is not there.
    """
    if not limits.follows_profile(config):
        return None
    found = strengths.kept(path)
    if found is None:
        raise UserError(
            f"{path / strengths.FILE}, which says how strongly this run augments, is missing or "
            "damaged: restore it, or train in another --workdir"
        )
    return found.schedule


def _any_meta(checkpoints):
    """The `meta` of the newest checkpoint in which it can be read; None if there is none."""
    error = None
    for step in checkpoints.steps():
        try:
            return checkpoints.meta(step)
        except Damaged as e:
            error = e
    if error:
        raise UserError(
            f"no checkpoint in {checkpoints.path} can be read ({error}): restore one from a copy, "
            "or train again in another --workdir"
        ) from error
    return None


def unlearnt(run, parts, count):
    """A warning about classes that are drawn though they have no training image; "" if none is.

    Args:
      run: a `Run`, whose folder says how many images there were.
      parts: its `build.Parts`, or those that say otherwise what is drawn.
      count: how many samples are.

    Raises:
      UserError: if the file in which the classes are kept is damaged.
    """
    if not parts.network.num_classes or parts.guidance == 0:  # as without a class
        return ""
    drawn = run.classes[:count] if parts.label is None else (run.classes[parts.label],)
    return classes.unlearnt(drawn)
