"""Trains a diffusion model with timestep-aware data augmentation, or samples from one.

    python main.py --config=configs/digits_tada.py
    python main.py --config=configs/digits_tada.py --mode=sample --config.sample.count=1000

Any field of configs/base.py can be set on the command line: --config.train.batch_size=64
"""

import pathlib
import sys

from absl import app, flags
from ml_collections import config_flags

from tada_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file and variant, as configs/digits_tada.py:constant."
)
MODE = flags.DEFINE_enum("mode", "train", ["train", "sample"], "Train a model, or draw from it.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run (runs/<config>-<variant>).")


def parse(argv):
    """Parses the flags; whatever the user got wrong becomes one line."""
    app.define_help_flags()
    try:
        rest = flags.FLAGS(argv)[1:]
        config = CONFIG.value
    except Exception as e:  # absl, ml_collections and the configuration file each raise their own
        reason = e.args[0] if isinstance(e, KeyError) else e
        raise UserError(" ".join(str(reason).split())) from e
    if rest:
        raise UserError(f"{rest[0]!r} is not a flag: write --config.train.batch_size=64 in full")
    if config is None:
        raise UserError("no configuration: pass --config=configs/digits_tada.py, or another file")


def default_workdir():
    """runs/<config>-<variant>, so that the same command continues the same run."""
    path, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return pathlib.Path("runs", "-".join(filter(None, (pathlib.Path(path).stem, variant))))


def main():
    """Does what the flags say."""
    parse(sys.argv)
    workdir = WORKDIR.value or default_workdir()

    from tada_jax import backend, generate, train  # after the flags: a typo fails at once

    backend.enable_compilation_cache()
    if MODE.value == "train":
        train.train(CONFIG.value, workdir)
        print(f"samples, checkpoints and metrics: {workdir}")
    else:
        for path in generate.sample(CONFIG.value, workdir):
            print(path)


if __name__ == "__main__":
    try:
        main()
    except UserError as e:
        sys.exit(f"error: {e}")
