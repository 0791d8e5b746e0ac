"""Where a session begins: a checkpoint of the run, parameters of another, or fresh ones."""

import dataclasses

import jax

from tada_jax.data import classes
from tada_jax.methods.table import METHODS
from tada_jax.model import unet
from tada_jax.model.schedule import SCHEDULES
from tada_jax.system import backend
from tada_jax.system.errors import UserError
from tada_jax.training import step as steps
from tada_jax.training import workdir as workdirs
from tada_jax.training.damage import Damaged, move_aside
from tada_jax.training.restore import restore_one
from tada_jax.training.run import load_run
from tada_jax.weights import load

SHAPING = (  # fields that the shapes of parameters depend on, beside the classes
    *("diffusion.variance", "model.attention_resolutions", "model.channel_mult", "model.channels"),
    *("model.class_conditional", "model.conv_resample", "model.num_res_blocks"),
    *("model.resblock_updown", "model.scale_shift"),
)


def resume(checkpoints, planned, say):
    """The state of the newest checkpoint that is whole; None where there is none."""
    sharding = steps.state_sharding(planned.parts, planned.config, planned.mesh)
    shapes = steps.state_shapes(planned.parts, planned.config)
    step, state, damaged = restore_one(checkpoints, "latest", shapes, sharding)
    if state is not None:
        _check_data(checkpoints, step, planned)
    for bad, reason in damaged.items():
        aside = checkpoints.set_aside(bad)
        say(f"warning: the checkpoint of step {bad:,} is damaged ({reason}): moved to {aside}")
    stale = checkpoints.path.parent / "ema"  # of a run whose checkpoints are gone
    if state is None and backend.is_first() and stale.is_dir() and any(stale.iterdir()):
        say(f"warning: {stale} is of another run: moved to {move_aside(stale)}")
    return state


def given_params(planned, say):
    """The parameters that a run begins with by `config.init`; None if it begins with its own."""
    config = planned.config
    shapes = steps.state_shapes(planned.parts, config).params
    if config.init.weights is not None:
        found = load.load(config, planned.parts.network, planned.parts.image_shape, shapes)
        for line in found.lines:
            say(line)
        return found.params
    return None if config.init.workdir is None else params_of_another_run(config, shapes)


def init(planned, params=None):
    """The state that a run begins with, on its devices; with `params` unless they are None."""
    config = planned.config
    state = steps.fresh_state(planned.parts, config, planned.mesh)
    if params is None:
        return state
    sharding = steps.state_sharding(planned.parts, config, planned.mesh)
    params = jax.device_put(params, sharding.params)
    ema_params, *power_emas = (
        jax.tree.map(lambda a: a + 0, params) for _ in (0, *config.ema.widths)
    )
    return dataclasses.replace(
        state, params=params, ema_params=ema_params, power_emas=tuple(power_emas)
    )


def _check_data(checkpoints, step, planned):
    """Refuses to go on with other images than those of a checkpoint."""
    saved, dataset = checkpoints.meta(step), planned.dataset
    if saved["image_digest"] != dataset.digest:
        renumbered = classes.renumbered(saved["class_names"], dataset.class_names)
        if renumbered:
            raise UserError(
                f"the run in {checkpoints.path.parent} cannot go on with {dataset.source}: "
                f"{renumbered}: set data.labels as it was, or choose another --workdir"
            )
        raise UserError(
            f"{dataset.source}: these are not the images that the run in "
            f"{checkpoints.path.parent} was trained on, {saved['num_images']:,} of them: restore "
            "them, set data.range as it was (full, in runs from before there was one), or choose "
            "another --workdir"
        )
    _check_held_out(checkpoints, saved, dataset)


def _check_held_out(checkpoints, saved, dataset):
    """Refuses other held-out images: what is measured would not compare with what was."""
    if saved.get("held_out_digest", dataset.held_out_digest) != dataset.held_out_digest:
        raise UserError(
            f"{dataset.source}: the held-out images are not those of the run in "
            f"{checkpoints.path.parent}, whose losses and quick metrics they measure: restore "
            "them, or choose another --workdir"
        )


def params_of_another_run(config, like):
    """The parameters to begin fine-tuning with, of `config.init.workdir`.

    Args:
      config: of the run that begins.
      like: arrays or shapes as of its parameters.

    Raises:
      UserError: if the other run cannot be read, or its network has other shapes.
    """
    c = config.init
    try:
        run = load_run(c.workdir, checkpoint=c.checkpoint)
    except UserError as e:
        raise UserError(f"config.init.workdir={c.workdir}: {e}") from e
    for field in ("schedule.name", "diffusion.parameterisation"):
        section, _, name = field.partition(".")
        mine, theirs = config[section][name], run.config[section][name]
        timesteps = {mine, theirs} <= set(SCHEDULES)  # the network is told t by either
        if mine != theirs and not timesteps:
            raise UserError(
                f"config.init.workdir={c.workdir} was trained with config.{field}={theirs!r}, and "
                f"{mine!r} means something else to the same network: make them equal"
            )
    kinds = [METHODS[each.method].kind for each in (config, run.config)]
    mine, theirs = (kind.told(each) for kind, each in zip(kinds, (config, run.config)))
    if run.config.method == config.method and mine != theirs:
        raise UserError(
            f"config.init.workdir={c.workdir} was told of {theirs} by its labels, and "
            f"config.{kinds[0].section}.ops={mine} would mean something else to it: make them "
            "equal, or choose another config.method"
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
                f"config.init.workdir={c.workdir} has another network{_why(config, run.config)}: "
                f"{name} is {there.get(name, 'absent')} there and {here.get(name, 'absent')} here; "
                "make config.model, the channels, the classes and the variance equal to those of "
                "its config.json"
            )
    return params


def _why(mine, theirs):
    """The fields in which the networks of two configurations differ, in words."""
    mine, theirs = (workdirs.flatten(config.to_dict()) for config in (mine, theirs))
    fields = [
        f"config.{field} {theirs.get(field)!r} there, {mine[field]!r} here"
        for field in SHAPING
        if mine[field] != theirs.get(field)
    ]
    return f" ({'; '.join(fields)})" * bool(fields)


def read_back(session, step, state):
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
