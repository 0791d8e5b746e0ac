"""The folder of a run: its configuration and versions, who uses it, and whether it fits."""

import contextlib
import errno
import functools
import importlib.metadata
import json
import os
import platform

import filelock
import jax
from ml_collections import ConfigDict

from tada_jax.system import logs
from tada_jax.system.errors import UserError
from tada_jax.system.paths import expanded, to_json, write_whole

# What may differ when a run is continued: nothing here changes what a training step computes.
FREE = (
    "train.total_steps",
    "train.steps_per_call",
    "train.microbatch",
    "train.sharding",
    "train.nonfinite",
    "train.stop",
    "train.deterministic",
    "schedule.edm.rho",
    "schedule.edm.sigma_min",
    "schedule.edm.sigma_max",
    "data.path",
    "data.range",  # and the next: whatever gives the images and labels that a run was trained on
    "data.labels",
    "data.device_gib",
    "ema.snapshot_every",
    "log.",
    "sample.",
    "evaluate.",
    "compare.",
    "export.",
    "analyze.",
)
CONFIG = "config.json"

# Of config.json; to be raised when what is saved changes its meaning. 0 said none.
VERSION = 1

# What runs from before a field existed did, by field. A new field of configs/base.py comes here
# too: with the value that leaves such runs as they were.
ADDED = {
    "ambient.noise": "band",
    "analyze.augmented": None,
    "analyze.base": None,
    "analyze.count": 512,
    "analyze.distances": (),
    "analyze.images": 256,
    "analyze.lpips_weights": (),
    "analyze.proxies": ("exact", "held_out", "local", "wiener"),
    "analyze.sweep": 1.0,
    "analyze.train_steps": 0,
    "analyze.window": 2.0,
    "compare.methods": ("none", "constant", "tada"),
    "compare.seeds": (0, 1, 2),
    "compare.train_sizes": (),
    "data.background": (255, 255, 255),
    "data.channels": None,
    "data.color": "stored",
    "data.device_gib": 4.0,
    "data.fit": "crop",
    "data.labels": "auto",
    "data.order": "shuffled",
    "data.pages": "first",
    "data.range": "auto",
    "data.resolution": None,
    "data.unreadable": "refuse",
    "diffusion.sigma_data": 0.5,
    "ema.snapshot_every": 10000,
    "ema.widths": (),
    "evaluate.convention": "clean-fid",
    "evaluate.count": 1000,
    "evaluate.extractor": "classifier",
    "evaluate.fit_steps": 1000,
    "evaluate.weights": None,
    "export.format": "diffusers",
    "export.license": None,
    "export.scheduler": "ddim",
    "init.checkpoint": "latest",
    "init.use_ema": True,
    "init.weights": None,
    "init.workdir": None,
    "log.best_metric": "test_mse",
    "log.metrics_count": 256,
    "log.metrics_every": 0,
    "model.conv_resample": True,
    "model.downsample_padding": "both",
    "model.norm_epsilon": 1e-5,
    "model.num_heads": 0,
    "model.scale_shift": True,
    "model.time_embedding": "cos_sin",
    "model.time_shift": 0,
    "sample.checkpoint": "latest",
    "sample.ema_step": None,
    "sample.ema_width": None,
    "sample.guidance": 1.0,
    "sample.label": None,
    "schedule.edm.p_mean": -1.2,
    "schedule.edm.p_std": 1.2,
    "schedule.edm.rho": 7.0,
    "schedule.edm.sigma_max": 80.0,
    "schedule.edm.sigma_min": 0.002,
    "schedule.flow.logit_mean": 0.0,
    "schedule.flow.logit_std": 1.0,
    "schedule.flow.t_min": 0.001,
    "schedule.flow.times": "uniform",
    "schedule.rescale_timesteps": False,
    "scoreaug.brightness": 2.0,
    "scoreaug.cutout_max": 0.3,
    "scoreaug.cutout_min": 0.1,
    "scoreaug.ops": ("brightness", "translation", "cutout", "rotation"),
    "scoreaug.translation": 0.1,
    "sda.mu": 0.5,
    "sda.weight": 1.0,
    "sensitivity.copies": 4,
    "sensitivity.proxy": "local",
    "sensitivity.queries": 256,
    "sensitivity.seed": 0,
    "sensitivity.thresholds": (0.02, 0.004),
    "tada.band": "given",
    "tada.budget": 1.0,
    "tada.schedule": "paper",
    "tada.table": (),
    "undertrain.floor": 0.1,
    "train.class_dropout": 0.0,
    "train.deterministic": False,
    "train.microbatch": 0,
    "train.nonfinite": "stop",
    "train.sharding": "replicated",
    "train.stop": "steps",
}

LOCK, OWNER = ".lock", ".owner"  # who uses the folder

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "ml-collections")


@contextlib.contextmanager
def occupied(config, workdir):
    """The folder of a run, for one process at a time: made if missing, and checked if not.

    Where it was missing, and nothing was written to it, it is gone again afterwards.

    Yields:
      The folder's absolute path.

    Raises:
      UserError: if the folder cannot be written, is in use by another process, or belongs to a run
        with another configuration.
    """
    path = absolute(workdir)
    with contextlib.ExitStack() as stack:
        try:
            new = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_lock(path))
            if new:
                stack.callback(_remove_unused, path)
            check_same(config, path)
            write_whole(path / ".writable", "")
            (path / ".writable").unlink()
        except OSError as e:
            raise UserError(
                f"workdir {path} cannot be written ({e.strerror}): choose another with --workdir"
            ) from e
        yield path


def _remove_unused(path):
    """Removes the folder of a run that never began: one that holds empty folders, and locks."""
    locks = path / LOCK, path / OWNER
    inside = [each for each in path.rglob("*") if each not in locks]
    if any(each.is_symlink() or not each.is_dir() for each in inside):
        return
    with contextlib.suppress(OSError):  # what is not empty stays
        for lock in locks:
            lock.unlink(missing_ok=True)
        for folder in (*sorted(inside, reverse=True), path):
            folder.rmdir()


@contextlib.contextmanager
def _lock(path):
    """Keeps other processes from training in a folder; a process that dies lets go of it.

    Raises:
      UserError: if another process has it.
    """
    lock, owner = filelock.FileLock(path / LOCK), path / OWNER
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as e:
        who = owner.read_text().strip() if owner.exists() else "another process"
        raise UserError(
            f"workdir {path} is in use by {who}: wait for it, stop it, or choose another --workdir"
        ) from e
    except OSError as e:
        if e.errno != errno.ENOLCK:
            raise
        logs.say(
            f"warning: the file system of {path} has no locks ({e.strerror}): make sure that no "
            "other process trains there"
        )
        yield
        return
    try:
        write_whole(owner, f"process {os.getpid()} on {platform.node()}\n")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def describe(config, path, step=0):
    """Writes config.json and versions.json; of other versions, up to `step`, the file is kept."""
    text = to_json({"version": VERSION, **config.to_dict()}, indent=2) + "\n"
    if not (path / CONFIG).exists() or (path / CONFIG).read_text() != text:
        write_whole(path / CONFIG, text)
    text, current = to_json(versions(), indent=2) + "\n", path / "versions.json"
    if current.exists() and current.read_text() != text:
        current.rename(path / f"versions_until_step_{step:07d}.json")
    write_whole(current, text)


def absolute(workdir):
    """The absolute path of a folder as the user wrote it.

    Raises:
      UserError: for an address, as gs://bucket/run, or a home folder that is not known.
    """
    if "://" in str(workdir):
        raise UserError(
            f"--workdir={workdir} is an address, and a run is kept in a folder: name one, such as "
            "that where the bucket is mounted, and copy what you keep"
        )
    return expanded(workdir).resolve()


def existing(workdir):
    """The absolute path of a folder that holds a run.

    Raises:
      UserError: if there is none.
    """
    path = absolute(workdir)
    if not (path / CONFIG).is_file():
        raise UserError(f"{path} holds no run: train first, with --mode=train, or name --workdir")
    return path


def read_config(path):
    """The configuration of the run in a folder, as it was saved.

    Raises:
      UserError: if it is damaged.
    """

    def from_json(tree):  # JSON knows no tuples
        if isinstance(tree, dict):
            return {key: from_json(value) for key, value in tree.items()}
        return tuple(map(from_json, tree)) if isinstance(tree, list) else tree

    saved = from_json(_saved(path))
    sample = saved.get("sample", {})
    if sample.get("label") is not None:  # a number, in runs from before classes had names
        sample["label"] = str(sample["label"])
    return ConfigDict(saved).lock()


def _saved(path):
    """What is in config.json, and what such runs did by fields that it does not have.

    Raises:
      UserError: if it is damaged, or of a later version than this.
    """
    try:
        saved = json.loads((path / CONFIG).read_text())
        if not isinstance(saved, dict):
            raise ValueError("no dict")
    except (ValueError, OSError) as e:
        raise UserError(
            f"{path / CONFIG} is damaged: restore it, or choose another --workdir"
        ) from e
    version = saved.pop("version", 0)
    if version not in range(VERSION + 1):
        raise UserError(
            f"{path / CONFIG} is of version {version!r}, and this tada_jax knows them up to "
            f"{VERSION}: take a newer one, or choose another --workdir"
        )
    known, filled = flatten(saved), {}
    for name, value in ADDED.items():
        if name not in known:
            _put(saved, name.split("."), json.loads(to_json(value)))
            filled[name] = value
    if filled:
        shown = ", ".join(f"{name}={value!r}" for name, value in list(filled.items())[:5])
        more = f" and {len(filled) - 5} more" if len(filled) > 5 else ""
        _say_once(f"{path / CONFIG} is of an earlier version: taken as {shown}{more}")
    return saved


_say_once = functools.cache(logs.say)


def _put(tree, names, value):
    """Sets a field of a nested dict, making the sections above it."""
    for name in names[:-1]:
        tree = tree.setdefault(name, {})
    tree[names[-1]] = value


def check_same(config, path):
    """Compares a configuration with that of the run in a folder, if there is one.

    Raises:
      UserError: listing the fields that differ, other than those in `FREE`.
    """
    if not ((path / CONFIG).exists() and has_checkpoints(path)):
        return  # nothing is there yet that another configuration could spoil
    saved = flatten(_saved(path))
    wanted = flatten(json.loads(to_json(config.to_dict())))  # tuples become lists, as saved
    differing = [
        f"{key} {saved.get(key)!r} -> {wanted.get(key)!r}"
        for key in sorted(saved.keys() | wanted.keys())
        if saved.get(key) != wanted.get(key) and not key.startswith(FREE)
    ]
    if differing:
        raise UserError(
            f"workdir {path} holds a run with another configuration ({'; '.join(differing)}): "
            "choose another --workdir, or the old values"
        )


def has_checkpoints(path):
    """Whether there is anything in the folder of a run's checkpoints, whole or not."""
    folder = path / "checkpoints"
    return folder.is_dir() and any(folder.iterdir())


def saved_steps(path):
    """Steps of the checkpoints in the folder of a run, by their names alone."""
    names = (p.name for p in (path / "checkpoints").glob("*"))
    return sorted(int(name) for name in names if name.isdigit())


def flatten(tree, prefix=""):
    """Nested dict -> {"section.field": value}."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def versions():
    """Versions and devices, to be kept with a run."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": [str(d.device_kind) for d in jax.devices()],
    }
