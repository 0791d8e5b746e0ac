"""Images of the user's own: a folder, a zip, an array in a .npy or .npz file, or plain bytes."""

import pathlib

from tada_jax.data import arrays, folder, plain_bytes
from tada_jax.data.base import Dataset, Options
from tada_jax.system.errors import UserError
from tada_jax.system.paths import expanded


def load(options: Options) -> Dataset:
    """Loads whatever lies at `options.path`, by what it is.

    Raises:
      UserError: if no path is given, or nothing readable lies there.
    """
    if not options.path:
        raise UserError(
            "data.path is missing: pass --config.data.path=FOLDER, or a .zip, .npz or .npy file"
        )
    known = plain_bytes.find(expanded(options.path))
    if known:
        return known(options)
    suffix = pathlib.Path(options.path).suffix.lower()
    return (arrays if suffix in (".npy", ".npz") else folder).load(options)
