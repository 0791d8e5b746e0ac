"""The configuration of a run that is there: --config=configs/saved.py:runs/mine.

`main.py --workdir=runs/mine` takes it by itself.
"""

from ml_collections import ConfigDict

from configs import base
from tada_jax.training import workdir as workdirs


def get_config(workdir):
    """That of the run in a folder; fields without a value have their types, to be set by flags."""
    saved = workdirs.read_config(workdirs.existing(workdir))
    return _filled(base.get_config(), saved).lock()


def _filled(config, saved):
    """A configuration with all that is saved in another."""
    config.unlock()
    for name, value in saved.items():
        if isinstance(value, ConfigDict) and isinstance(config.get(name), ConfigDict):
            _filled(config[name], value)
        else:
            config[name] = value
    return config
