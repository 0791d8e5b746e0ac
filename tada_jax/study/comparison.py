"""`--mode=compare`: methods x numbers of training images x seeds, each an ordinary run, measured.

Every cell of the grid is a folder `<workdir>/<method>-n<images>-seed<seed>` that `--mode=train` and
`--mode=evaluate` would have made alike. Cells that are finished are not run again, so the same
command continues a grid, or adds methods, sizes and seeds to it. Started several times, on a core
or a device each, it shares the grid: each takes the cells that no other is at. The result:
`table.md`, `comparison.json`, and `report.html`, one file with all that is needed to trust it.
"""

import contextlib
import errno
import itertools
import time

import filelock
import jax

from tada_jax.methods.table import METHODS
from tada_jax.metrics import judge
from tada_jax.metrics.measures import MEASURES
from tada_jax.setup import length, limits
from tada_jax.setup.plan import load_data, pool_of
from tada_jax.study import comparison_report, evaluation, tables
from tada_jax.system import backend, logs
from tada_jax.system.errors import UserError
from tada_jax.system.paths import to_json, write_whole
from tada_jax.training import clock, loop
from tada_jax.training import workdir as workdirs
from tada_jax.training.run import load_run

WAIT = 5.0  # seconds between two looks at cells that other processes are at


def grid(config, workdir):
    """The cells that a configuration asks for, all methods and sizes of one seed after the other.

    Raises:
      UserError: for a method, size or seed that cannot be.
    """
    c, path, cells = config.compare, workdirs.absolute(workdir), []
    if not (c.methods and c.seeds):
        raise UserError("config.compare: needs at least one of methods and one of seeds")
    kinds = {"methods": str, "train_sizes": int, "seeds": int}
    for field, kind in kinds.items():
        for value in c[field]:
            if not isinstance(value, kind):
                what = "names" if kind is str else "whole numbers"
                raise UserError(f"config.compare.{field}: {value!r} cannot be, they are {what}")
    sizes = tuple(c.train_sizes) or (config.data.train_size,)
    for seed, size, method in itertools.product(c.seeds, sizes, c.methods):
        own = _of_method(config, method)
        own.seed, own.data.train_size = seed, size
        limits.check(own)
        images = "all" if size is None else size
        folder = f"{method.replace(':', '')}-n{images}-seed{seed}"
        cells.append(tables.Cell(method, size, seed, own.lock(), path / folder))
    if len({cell.workdir for cell in cells}) < len(cells):
        raise UserError("config.compare: a method, size or seed is listed twice")
    return cells


def _of_method(config, method):
    """The configuration of the runs that `config.compare.methods` calls so, unlocked."""
    own = config.copy_and_resolve_references()
    if method in config.compare.variants:
        own.lock()  # so that a mistyped field is an error, and not a new one
        fields = config.compare.variants[method].to_dict()
        try:
            if "total_steps" in fields.get("train", {}):
                length.put(own, fields["train"].pop("total_steps"))
            own.update(fields)
        except (KeyError, TypeError, AttributeError, ValueError) as e:
            reason = " ".join(str(e.args[0] if e.args else e).split())
            raise UserError(f"config.compare.variants.{method}: {reason}") from e
        return own.unlock()
    name, _, strength = method.partition(":")
    if name not in METHODS or (strength and name != "constant"):
        known = ", ".join((*METHODS, *config.compare.variants))
        raise UserError(
            f"config.compare.methods: {method!r} is unknown, choose of {known}, or constant:0.3 "
            "for that strength"
        )
    own = own.unlock()
    own.method = name
    try:
        own.constant_strength = float(strength) if strength else own.constant_strength
    except ValueError as e:
        raise UserError(f"config.compare.methods: {method!r} has no number after :") from e
    return own


def compare(config, workdir, *, extractor=None, say=print):
    """Runs what is missing of a grid, and writes the tables and the report.

    Several processes may do so at once: each takes cells that no other is at, and all of them write
    the same report at the end. A cell that failed elsewhere is tried again.

    Args:
      config: of the runs; its section `compare` spans the grid.
      workdir: folder of the grid.
      extractor: as of `evaluation.evaluate`.
      say: called with lines of text about the progress.

    Returns:
      The path of report.html.

    Raises:
      UserError: for a grid that cannot be; or, after all the others have been run, if a cell
        failed.
      KeyboardInterrupt: if it was told to stop; the same call continues.
    """
    cells, path = grid(config, workdir), workdirs.absolute(workdir)
    digests = digests_of(cells)
    _check_images(cells, digests)
    results, failures, left, waits = {}, {}, cells, False
    while left:
        elsewhere = []  # cells that other processes are at
        for cell in left:
            number = 1 + cells.index(cell)
            with _claimed(path, cell) as mine:
                aside = say if mine else (lambda text: None)  # it is looked at again and again
                found = finished(cell, digests[cell], extractor, aside)
                if found is None and not mine:
                    elsewhere.append(cell)
                    continue
                if found is None:
                    say(f"cell {number} of {len(cells)}: {cell.title}")
                    try:
                        found = _run(cell, digests[cell], extractor, say)
                    except UserError as e:
                        if not results:
                            raise  # most likely all would fail
                        failures[cell.title] = str(e)
                        say(f"failed: {e}")
                        continue
                    say(_in_a_line(found))
            results[cell] = found
            results = {each: results[each] for each in cells if each in results}
            if cells[number:] and cells[number].seed != cell.seed and backend.is_first():
                comparison_report.write(path, config, results, failures)
        idle = len(elsewhere) == len(left)  # nothing was run, which would have taken its time
        if idle and not waits:
            say(f"waiting for other processes, that are at {len(elsewhere)} of the cells")
        waits, left = idle, elsewhere
        if idle:
            time.sleep(WAIT)
    if backend.is_first():
        comparison_report.write(path, config, results, failures)
    say(f"\n{tables.markdown(results)}")
    if failures:
        raise UserError(
            f"{len(failures)} of {len(cells)} cells failed ({'; '.join(failures)}), see "
            f"{path / 'report.html'}: the same command tries them again"
        )
    return path / "report.html"


@contextlib.contextmanager
def _claimed(path, cell):
    """Whether this process has a cell for itself; a lock that goes with the process.

    The processes of one training have every cell together.

    Raises:
      UserError: if the folder cannot be written.
    """
    if jax.process_count() > 1:
        yield True
        return
    lock, mine = filelock.FileLock(path / ".cells" / cell.workdir.name), True
    try:
        (path / ".cells").mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        mine = False
    except OSError as e:
        if e.errno != errno.ENOLCK:  # of file systems without locks, of which training warns
            raise UserError(
                f"workdir {path} cannot be written ({e.strerror}): choose another --workdir"
            ) from e
    try:
        yield mine
    finally:
        lock.release()


def digests_of(cells):
    """{cell: digests of its images, and their shape}; every data set is read once.

    Raises:
      UserError: if one cannot be had, or has too few held-out images.
    """
    found, known = {}, {}
    for cell in cells:
        key = to_json((cell.config.data.to_dict(), cell.seed), sort_keys=True)
        if key not in known:
            dataset = load_data(cell.config)
            judge.check(dataset)
            pool = pool_of(cell.config, dataset)
            count, *shape = dataset.train.images.shape
            about = {"train_images": count, "shape": tuple(shape)}
            known[key] = evaluation.data_digests(dataset, pool) | about
        found[cell] = known[key]
    return found


def _check_images(cells, digests):
    """Refuses a grid whose cells do not compare, and folders with results of other images.

    Raises:
      UserError: naming the cells.
    """
    first = {}
    for cell in cells:
        mine, other = digests[cell], first.setdefault((cell.size, cell.seed), cell)
        theirs = digests[other]
        if mine["shape"] != theirs["shape"]:
            shapes = [" x ".join(map(str, each["shape"])) for each in (theirs, mine)]
            raise UserError(
                f"config.compare: {other.title} has images of {shapes[0]} and {cell.title} of "
                f"{shapes[1]}: their distances have other scales, compare them in grids of their "
                "own"
            )
        if mine != theirs:
            raise UserError(
                f"config.compare: {other.title} and {cell.title} are of different images, so that "
                "their numbers do not compare: use grids of their own"
            )
    for cell in cells:
        for file in sorted(cell.workdir.glob("evaluation/*/metrics.json")):
            result = evaluation.read_result(file.parent)
            if result is None or "train_digest" not in result.protocol:
                continue
            if any(result.protocol.get(key) != digests[cell][key] for key in tables.IMAGES):
                raise UserError(
                    f"{cell.workdir} holds results of other images than those that the "
                    "configuration names: restore them, or choose another --workdir"
                )


def finished(cell, digests, extractor=None, say=print):
    """The `evaluation.Result` of a cell, if it was trained to its end and measured as asked.

    Args:
      cell: a `Cell`.
      digests: of its images, as of `evaluation.data_digests`.
      extractor: as of `evaluation.evaluate`.
      say: called with a line of text where numbers that are there do not count.

    Returns:
      None unless the images, the step, the settings, the extractor and the code are the same.
    """
    files = sorted(cell.workdir.glob("evaluation/*/metrics.json"))
    if not files:
        return None
    named, step = evaluation.extractor_digest(cell.config, extractor), measured_step(cell, digests)
    if step is None:
        return None
    wanted = {
        **{key: digests[key] for key in tables.IMAGES},
        "step": step,
        "settings": evaluation.settings(cell.config),
        "extractor_digest": named,
        "measured_by": evaluation.measured_by(),
    }
    for file in files:
        result = evaluation.read_result(file.parent)
        if result is None:
            continue
        same = {key for key, value in wanted.items() if result.protocol.get(key) == value}
        if len(same) == len(wanted) and named is not None:
            workdirs.check_same(cell.config, cell.workdir)
            return result
        if {"step", "settings"} <= same:
            why = "of another version, or say not of which images"
            if named is None:
                why = "by an extractor that states no version"
            say(f"{cell.title}: its numbers are {why}, and are measured again; it is not retrained")
    return None


def last_step(cell, digests):
    """The step at which a cell ends, or has ended if it does so when it begins to copy."""
    c = length.settled(cell.config, digests["train_images"])
    if c.train.stop == "window":
        counts = {"samples": c.log.metrics_count, "held_out": digests["held_out_images"]}
        own = clock.read(logs.read(cell.workdir), **counts)
        if own is not None and own.left:
            return max(workdirs.saved_steps(cell.workdir), default=own.last)
    return c.train.total_steps


def measured_step(cell, digests):
    """The step of the parameters that numbers of a cell are of; None if it has not ended yet."""
    last, c = last_step(cell, digests), cell.config.sample
    if c.checkpoint == "latest" and c.ema_width is None:
        return last
    if max(workdirs.saved_steps(cell.workdir), default=0) < last:
        return None
    try:
        return load_run(cell.workdir, checkpoint=c.checkpoint, config=cell.config).sampled_step
    except UserError:
        return None  # running the cell says what is wrong


def _run(cell, digests, extractor, say):
    """Trains a cell to its end, measures it, and adds up the time that it took."""
    mark, clock = time.monotonic(), cell.workdir / "seconds.json"
    try:
        state = loop.train(cell.config, cell.workdir)
        if int(state.step) < last_step(cell, digests):
            raise KeyboardInterrupt
        return evaluation.evaluate(cell.config, cell.workdir, extractor=extractor, say=say)
    finally:
        backend.give_back_memory()
        if backend.is_first() and cell.workdir.is_dir():
            write_whole(clock, to_json(tables.seconds_spent(cell) + time.monotonic() - mark) + "\n")


def _in_a_line(result):
    shown = [key for key in ("fd/held_out", "leak", "copies") if key in result.numbers]
    return ", ".join(
        f"{MEASURES[key.partition('/')[0]].title} "
        f"{evaluation.printed(key, result.numbers[key].value)}"
        for key in shown
    )


# The tables
