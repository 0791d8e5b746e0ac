"""The folder of a run: its configuration and versions, who uses it, and whether it fits."""

import contextlib
import errno
import fcntl
import importlib.metadata
import json
import os
import pathlib
import platform
import sys

import jax
from ml_collections import ConfigDict

from tada_jax.errors import UserError
from tada_jax.paths import to_json, write_whole

# What may differ when a run is continued: nothing here changes what a training step computes.
FREE = (
    "train.total_steps",
    "train.steps_per_call",
    "train.microbatch",
    "train.sharding",
    "train.nonfinite",
    "train.deterministic",
    "schedule.edm.rho",
    "schedule.edm.sigma_min",
    "schedule.edm.sigma_max",
    "data.path",
    "data.device_gib",
    "ema.snapshot_every",
    "log.",
    "sample.",
    "evaluate.",
    "compare.",
    "analyze.",
)
CONFIG = "config.json"
PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "ml-collections")


@contextlib.contextmanager
def occupied(config, workdir):
    """The folder of a run, for one process at a time: made if missing, and checked if not.

    Yields:
      The folder's absolute path.

    Raises:
      UserError: if the folder cannot be written, is in use by another process, or belongs to a run
        with another configuration.
    """
    path = absolute(workdir)
    with contextlib.ExitStack() as stack:
        try:
            path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_lock(path))
            check_same(config, path)
            write_whole(path / ".writable", "")
            (path / ".writable").unlink()
        except OSError as e:
            raise UserError(
                f"workdir {path} cannot be written ({e.strerror}): choose another with --workdir"
            ) from e
        yield path


@contextlib.contextmanager
def _lock(path):
    """Keeps other processes from training in a folder; a process that dies lets go of it.

    Raises:
      UserError: if another process has it.
    """
    with (path / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            if e.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                print(
                    f"warning: the file system of {path} has no locks ({e.strerror}): make sure "
                    "that no other process trains there",
                    file=sys.stderr,
                )
                yield
                return
            file.seek(0)
            raise UserError(
                f"workdir {path} is in use by {file.read().strip() or 'another process'}: "
                "wait for it, stop it, or choose another --workdir"
            ) from e
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def describe(config, path):
    """Writes config.json and versions.json."""
    text = to_json(config.to_dict(), indent=2) + "\n"
    if not (path / CONFIG).exists() or (path / CONFIG).read_text() != text:
        write_whole(path / CONFIG, text)
    write_whole(path / "versions.json", to_json(versions(), indent=2) + "\n")


def absolute(workdir):
    """The absolute path of a folder as the user wrote it."""
    return pathlib.Path(workdir).expanduser().resolve()


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
    try:
        saved = json.loads((path / CONFIG).read_text())
        if not isinstance(saved, dict):
            raise ValueError("no dict")
        return saved
    except (ValueError, OSError) as e:
        raise UserError(
            f"{path / CONFIG} is damaged: restore it, or choose another --workdir"
        ) from e


def check_same(config, path):
    """Compares a configuration with that of the run in a folder, if there is one.

    Raises:
      UserError: listing the fields that differ, other than those in `FREE`.
    """
    trained = (path / "checkpoints").is_dir() and any((path / "checkpoints").iterdir())
    if not ((path / CONFIG).exists() and trained):
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
