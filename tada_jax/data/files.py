"""Images of the user's own: a folder, a zip, or one array in a .npy or .npz file."""

import pathlib

from tada_jax.data import arrays, folder
from tada_jax.data.base import Dataset, Options
from tada_jax.system.errors import UserError


def load(options: Options) -> Dataset:
    """Loads whatever lies at `options.path`, by what it is.

    Raises:
      UserError: if no path is given, or nothing readable lies there.
    """
    if not options.path:
        raise UserError(
            "data.path is missing: pass --config.data.path=FOLDER, or a .zip, .npz or .npy file"
        )
    suffix = pathlib.Path(options.path).suffix.lower()
    return (arrays if suffix in (".npy", ".npz") else folder).load(options)
