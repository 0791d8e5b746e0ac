"""Where files are kept between runs, and writing them whole."""

import os
import pathlib


def write_whole(path, text):
    """Writes a text file so that whoever interrupts it leaves the old one or the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def cache_dir():
    """The folder for downloads and compiled programs: $TADA_JAX_CACHE, or ~/.cache/tada_jax."""
    return pathlib.Path(os.environ.get("TADA_JAX_CACHE", "~/.cache/tada_jax")).expanduser()
