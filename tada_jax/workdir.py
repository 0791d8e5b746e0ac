"""The folder of a run: its configuration and versions, and whether a configuration fits it."""

import importlib.metadata
import json
import pathlib
import platform

import jax

from tada_jax.errors import UserError
from tada_jax.paths import write_whole

# What may differ when a run is continued: nothing here changes what a training step computes.
FREE = ("train.total_steps", "train.steps_per_call", "data.path", "log.", "sample.")
CONFIG = "config.json"
PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "ml-collections")


def prepare(config, workdir):
    """Creates the folder and writes config.json and versions.json, or checks that they fit.

    Returns:
      The folder's absolute path.

    Raises:
      UserError: if the folder cannot be written, or belongs to a run with another configuration.
    """
    path = pathlib.Path(workdir).expanduser().resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
        check_same(config, path)
        write_whole(path / CONFIG, json.dumps(config.to_dict(), indent=2) + "\n")
        write_whole(path / "versions.json", json.dumps(versions(), indent=2) + "\n")
    except OSError as e:
        raise UserError(
            f"workdir {path} cannot be written ({e.strerror}): choose another with --workdir"
        ) from e
    return path


def existing(config, workdir):
    """The absolute path of a folder that holds a run with this configuration.

    Raises:
      UserError: if there is none.
    """
    path = pathlib.Path(workdir).expanduser().resolve()
    if not (path / CONFIG).is_file():
        raise UserError(f"{path} holds no run: train first, with --mode=train, or name --workdir")
    check_same(config, path)
    return path


def check_same(config, path):
    """Compares a configuration with that of the run in a folder, if there is one.

    Raises:
      UserError: listing the fields that differ, other than those in `FREE`.
    """
    trained = (path / "checkpoints").is_dir() and any((path / "checkpoints").iterdir())
    if not ((path / CONFIG).exists() and trained):
        return  # nothing is there yet that another configuration could spoil
    try:
        saved = flatten(json.loads((path / CONFIG).read_text()))
    except (json.JSONDecodeError, AttributeError) as e:
        raise UserError(
            f"{path / CONFIG} is damaged: restore it, or choose another --workdir"
        ) from e
    wanted = flatten(json.loads(json.dumps(config.to_dict())))  # tuples become lists, as saved
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
