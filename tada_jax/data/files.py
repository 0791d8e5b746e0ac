"""Images of the user's own: files, in archives, tables or databases too, arrays, or plain bytes."""

import dataclasses
import pathlib

from tada_jax.data import arrays, folder
from tada_jax.data.base import Dataset, Options
from tada_jax.data.formats import hdf5, matlab, plain_bytes
from tada_jax.system.errors import UserError
from tada_jax.system.paths import expanded

_OF_ENDING = {
    ".npy": arrays,
    ".npz": arrays,
    ".mat": matlab,
    **dict.fromkeys(hdf5.ENDINGS, hdf5),
}


def load(options: Options) -> Dataset:
    """Loads whatever lies at `options.path`, by what it is.

    That is a folder, zip or tar of images, a table (.parquet, .arrow) or database (LMDB) of them;
    arrays in an .npy, .npz, HDF5 or .mat file; or the folder, or a file, of a data set that is
    published as such files or as plain bytes.

    Raises:
      UserError: if no path is given, or nothing readable lies there.
    """
    if not options.path:
        raise UserError(
            "data.path is missing: pass --config.data.path=FOLDER, or a .zip, .tar, .parquet, "
            ".npz, .npy, .h5 or .mat file"
        )
    known = plain_bytes.find(expanded(options.path))
    if known:
        return known(options)
    file = matlab.find(expanded(options.path)) or hdf5.find(expanded(options.path))
    if file:
        options = dataclasses.replace(options, path=str(file))
    suffix = pathlib.Path(options.path).suffix.lower()
    return _OF_ENDING.get(suffix, folder).load(options)
