"""`--mode=sample`: samples of a run to files."""

import contextlib
import time
import zipfile

import numpy as np
from PIL import Image

from tada_jax.model import solvers
from tada_jax.model.sampler import make_sampler
from tada_jax.system import backend, figures, logs
from tada_jax.system.errors import UserError
from tada_jax.system.paths import replacing, write_whole
from tada_jax.training.fingerprints import fingerprints
from tada_jax.training.run import load_run, unlearnt


def sample(config, workdir):
    """Samples from a run: single PNGs, a grid of the first ones, and an npz of all.

    Everything lies in `<workdir>/samples/<what was sampled how>/`. Images that are already there
    are not drawn again, so an interrupted call continues and a larger `config.sample.count` adds.
    The npz holds `arr_0`, uint8 [N,H,W,C], as other people's evaluators read it.

    Args:
      config: that of the run; its section `sample` says what to draw.
      workdir: the run's folder.

    Returns:
      (folder of the PNGs, path of the grid, path of the npz).

    Raises:
      UserError: if there is nothing to sample from, or the files cannot be written.
    """
    run = load_run(workdir, checkpoint=config.sample.checkpoint, config=config)
    paths = to_files(run, config.sample.count)
    folder = paths[0].parent
    grid, npz = folder / "grid.png", folder / f"samples_n{len(paths)}.npz"
    with _one_line_for_disk_errors(folder):
        if backend.is_first():
            figures.save_png(grid, figures.grid(read(paths[:256])))
            _save_npz(npz, paths, run.parts.image_shape)
    return folder, grid, npz


def to_files(run, count):
    """Draws the samples 0 .. count-1 of a run, as its configuration says, to a PNG each.

    Those that are there already are not drawn again.

    Args:
      run: a `run.Run`.
      count: how many.

    Returns:
      The paths of the PNGs, in order.

    Raises:
      UserError: if they cannot be written, or are not finite.
    """
    c = run.config.sample
    sampler = f"{c.sampler}{c.steps}{solvers.stride_for(c.sampler, c.stride)}"
    sampler += f"_eta{c.eta:g}" if c.sampler == "ddim" else ""
    sampler += "" if c.clip_x0 else "_unclipped"
    if run.config.schedule.name == "edm":
        own = run.config.schedule.edm
        sampler += f"_sigma{own.sigma_min:g}-{own.sigma_max:g}-rho{own.rho:g}"
    sampler += "" if c.guidance == 1 else f"_guided{c.guidance:g}"
    sampler += "" if run.parts.label is None else f"_class-{run.one_class.slug}"
    name = f"{sampler}_{run.weights_name}_step{run.sampled_step:07d}_seed{c.seed}"
    folder = run.workdir / "samples" / name
    paths = [folder / f"{i:06d}.png" for i in range(count)]
    with _one_line_for_disk_errors(folder):
        backend.in_turn(lambda: folder.mkdir(parents=True, exist_ok=True))
        backend.in_turn(lambda: _discard_others(folder, run))
        missing = backend.in_turn(
            lambda: [i for i in range(count) if not _is_whole(paths[i], run.parts.image_shape)]
        )
        progress = logs.Progress(len(missing), unit="image", active=backend.is_first())
        if run.parts.label is not None:
            progress.say(run.one_class.title)
        warning = unlearnt(run, run.parts, count)
        if warning:
            progress.say(f"warning: {warning}")
        if len(missing) < count:
            progress.say(f"{count - len(missing):,} of {count:,} images are there already")
        if missing:
            _draw_missing(run, paths, missing, progress)
        backend.in_turn(lambda: None)  # other processes may read what the first one wrote
    return paths


def _discard_others(folder, run):
    """Deletes samples of other parameters or another class, and says whose the new ones will be."""
    mine = "".join(f"{n:08x}" for n in fingerprints(run.sampled_params))
    mine += "" if run.parts.label is None else f" class {run.parts.label}"
    mark = folder / "parameters.txt"
    if backend.is_first() and not (mark.exists() and mark.read_text().strip() == mine):
        for path in folder.glob("[0-9]*.png"):
            path.unlink()
        write_whole(mark, mine + "\n")


def _is_whole(path, shape):
    """Whether a PNG is there, can be read to its end, and has the shape (H, W, C)."""
    if not path.exists():
        return False
    try:
        return read([path]).shape[1:] == tuple(shape)
    except (OSError, SyntaxError, ValueError):  # as Pillow has it
        return False


def _draw_missing(run, paths, missing, progress):
    c, params = run.config.sample, run.sampled_params
    draw = make_sampler(run.parts, run.mesh, batch_size=min(c.batch_size, len(missing)))
    started = time.monotonic()
    for start in range(0, len(missing), c.batch_size):
        numbers = missing[start : start + c.batch_size]
        images = draw(params, numbers, seed=c.seed)
        if backend.is_first():
            for i, image in zip(numbers, images):
                figures.save_png(paths[i], image)
        done = start + len(numbers)
        each = (time.monotonic() - started) / done
        progress.update(done, f"{1 / each:,.1f} images/s", each)
    progress.end()


@contextlib.contextmanager
def _one_line_for_disk_errors(folder):
    try:
        yield
    except OSError as e:
        raise UserError(
            f"samples cannot be written to {folder} ({e.strerror or e}): free some space or "
            "make it writable; the same command continues"
        ) from e


def read(paths):
    """The images in PNG files, uint8 [N,H,W,C]."""
    images = []
    for path in paths:
        with Image.open(path) as image:
            images.append(np.asarray(image).reshape(image.height, image.width, -1))
    return np.stack(images)


def _save_npz(path, pictures, shape, chunk=256):
    """Writes `arr_0` without holding all images in memory."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(pictures), *shape)}
    with replacing(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(pictures), chunk):
                file.write(read(pictures[start : start + chunk]).tobytes())
