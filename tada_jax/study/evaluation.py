"""`--mode=evaluate`: samples of a run, and everything that can be measured of them.

Everything goes to `<workdir>/evaluation/<what was sampled how>/`: `metrics.json`, `table.txt` (the
same for readers), and `nearest.png`, samples beside their nearest training images.
"""

import dataclasses
import functools
import importlib.metadata
import json
import pathlib
import time
from typing import Any

import numpy as np

from tada_jax.data.cache import digest
from tada_jax.metrics import intervals, measures, memorisation
from tada_jax.metrics import judge as judges
from tada_jax.metrics.measures import MEASURES, Number, printed
from tada_jax.model import solvers
from tada_jax.setup.plan import plan
from tada_jax.study.samples import read, to_files
from tada_jax.system import backend, figures
from tada_jax.system.errors import UserError
from tada_jax.system.paths import to_json, write_whole
from tada_jax.training import yardstick
from tada_jax.training.heldout import make_evaluation, put_splits
from tada_jax.training.run import load_run

LIBRARIES = ("jax", "jaxlib", "numpy", "scipy", "pillow")
FITTED = ("classifier", "pixels")  # extractors that their name, the images and the code determine


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured of a run.

    Attributes:
      folder: with metrics.json, table.txt and nearest.png.
      protocol: what was sampled and measured how, a dict for JSON.
      numbers: {key: `measures.Number`}.
      seconds: {part of the work: seconds}.
    """

    folder: pathlib.Path
    protocol: dict[str, Any]
    numbers: dict[str, Number]
    seconds: dict[str, float]

    def to_json(self):
        """For metrics.json: null stands for numbers that could not be had."""
        numbers = {key: dataclasses.asdict(number) for key, number in self.numbers.items()}
        tree = {"protocol": self.protocol, "numbers": numbers, "seconds": self.seconds}
        return to_json(tree, indent=2) + "\n"

    def table(self):
        """For readers."""
        return table(self.protocol, self.numbers)


def read_result(folder):
    """The `Result` in a folder, or None if there is none that can be read."""
    try:
        tree = json.loads((folder / "metrics.json").read_text())
        numbers = {}
        for key, fields in tree["numbers"].items():
            value = float("nan") if fields["value"] is None else fields["value"]
            interval = fields["interval"] and tuple(fields["interval"])
            numbers[key] = Number(**fields | {"value": value, "interval": interval})
        return Result(folder, tree["protocol"], numbers, tree["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def evaluate(config, workdir, *, extractor=None, say=print):
    """Measures a run.

    Samples that are there already are not drawn again, so an interrupted call continues.

    Args:
      config: that of the run; its sections `sample` and `evaluate` say what to draw and measure.
      workdir: the run's folder.
      extractor: a `metrics.features.Extractor`, or a function uint8 [N,H,W,C] -> [N,D]; by default
        what `config.evaluate.extractor` names.
      say: called with lines of text about the progress.

    Returns:
      A `Result`.

    Raises:
      UserError: if there is no run, no held-out image, too few samples, samples that are not
        finite, no file of weights.
    """
    run = load_run(workdir, checkpoint=config.sample.checkpoint, config=config)
    planned = plan(config, run.workdir)
    if run.meta["image_digest"] != planned.dataset.digest:
        raise UserError(
            f"{planned.dataset.source}: these are not the images that the run in {run.workdir} was "
            "trained on: restore them"
        )
    if callable(extractor) and not hasattr(extractor, "cached"):
        from tada_jax.metrics import features

        extractor = features.of_function(extractor)
    _ = run.sampled_params  # what is missing is said before anything is fitted or drawn
    judge = judges.of_plan(planned, say, extractor)
    mark = time.monotonic()
    paths = to_files(run, config.evaluate.count)
    samples, seconds = read(paths), {"sampling": time.monotonic() - mark}
    numbers, spent = judge.measure(samples)
    numbers |= _denoising_gap(run, planned)
    protocol = {
        "run": str(run.workdir),
        "method": config.method,
        "train_images": len(planned.dataset.train.images),
        "seed": config.seed,
        "step": run.sampled_step,
        "weights": run.weights_title,
        "sampler": sampler_title(config),
        "samples": len(samples),
        "sample_seed": config.sample.seed,
        "extractor": judge.extractor.name,
        "data": planned.dataset.source,
        "settings": settings(config),
        "measured_by": measured_by(),
        "extractor_digest": extractor_digest(config, extractor),
        **data_digests(planned.dataset, planned.pool),
    }
    seconds = {key: round(value, 2) for key, value in (seconds | spent).items()}
    folder = run.workdir / "evaluation" / paths[0].parent.name
    result = Result(folder, protocol, numbers, seconds)
    if backend.is_first():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            figures.save_png(folder / "nearest.png", beside_nearest(samples, judge))
            write_whole(folder / "table.txt", result.table())
            write_whole(folder / "metrics.json", result.to_json())
        except OSError as e:
            raise UserError(f"{folder} cannot be written ({e.strerror}): free some space") from e
    return result


def data_digests(dataset, pool):
    """Of the images that numbers are of: three digests, and how many are held out."""
    return {
        "train_digest": dataset.digest,
        "held_out_digest": dataset.held_out_digest,
        "pool_digest": pool.digest,
        "held_out_images": len(dataset.test.images),
    }


@functools.cache
def measured_by():
    """A digest of the code of the measures and of the libraries that compute their numbers."""
    here = pathlib.Path(__file__)
    files = [here, *sorted(here.parents[1].glob("metrics/*.py"))]
    versions = [f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES]
    return digest(*(file.read_bytes() for file in files), *versions)


def extractor_digest(config, extractor=None):
    """Names what turns images into features, or None for a user's that states no version.

    Of the fitted network only its name: the images, the settings and the code determine the rest.
    """
    from tada_jax.metrics import features

    c = config.evaluate
    if extractor is not None:
        return getattr(extractor, "digest", None)
    if c.extractor == "inception":
        return features.inception(c.weights, c.convention).digest
    return c.extractor if c.extractor in FITTED else features.of_file(c.extractor).digest


def settings(config):
    """What else the numbers depend on, for JSON; those of other settings do not compare."""
    about = {"sample": yardstick.of_sampling(config), "rules": measures.RULES}
    return json.loads(to_json(config.evaluate.to_dict() | about))


def sampler_title(config):
    """The sampler of a configuration in words."""
    c, levels = config.sample, ""
    if config.schedule.name == "edm":
        own = config.schedule.edm
        levels = f", sigma {own.sigma_min:g} to {own.sigma_max:g}, rho {own.rho:g}"
    eta = f" eta {c.eta:g}" if c.sampler == "ddim" else ""
    clip = "" if c.clip_x0 else ", unclipped"
    guided = "" if c.guidance == 1 else f", guidance {c.guidance:g}"
    label = "" if c.label is None else f", class {c.label}"
    stride = solvers.stride_for(c.sampler, c.stride)
    return f"{c.sampler}{eta}, {c.steps} steps ({stride}){levels}{clip}{guided}{label}"


def _denoising_gap(run, planned, most=4096):
    """Held-out minus training loss, over all noise levels and by bins of log SNR."""
    config, dataset = run.config, planned.dataset
    examples = max(1024, min(most, 4 * len(dataset.train.images)))
    evaluate = make_evaluation(run.parts, config, run.mesh, examples)
    labelled = bool(run.parts.network.num_classes)
    put = put_splits(dataset, evaluate.examples, run.mesh, labelled=labelled)
    train, test = (evaluate(run.sampled_params, *put[name]) for name in ("train", "test"))
    reference = " and ".join(f"{word} ({n:,})" for word, n in _counts(dataset).items())

    def number(gap, interval, n):
        note = f"n images, noised {len(test.mse):,} times in all"
        return Number(gap, n, reference, "squared error of the target", 0.0, interval, note)

    gaps = {
        f"gap/{centre:g}": number(*values)
        for centre, values in memorisation.denoising_gap(train, test).items()
    }
    whole = intervals.of_difference(test.by_image(), train.by_image())
    return {"gap": number(*whole, len(test.by_image()))} | gaps


def _counts(dataset):
    return {
        "training images": len(dataset.train.images),
        "held-out images": len(dataset.test.images),
    }


def beside_nearest(samples, judge, rows=8, neighbours=3):
    """A picture: rows of samples, each followed by its nearest training images; uint8 [H,W,C].

    Args:
      samples: uint8 [N,H,W,C].
      judge: of the run; where it is trained with flips, an image is shown the way round it is near.
      rows: of two samples each.
      neighbours: different training images beside a sample.
    """
    shown = samples[: 2 * rows]
    k = min(neighbours, judge.different_images)
    together = np.concatenate(
        [
            shown[:, None],
            judge.nearest_training_images(shown, k),
            np.full_like(shown[:, None], 255),  # between two samples
        ],
        1,
    )
    return figures.grid(together.reshape(-1, *shown.shape[1:]), 2 * (k + 2), gap=1)


def table(protocol, numbers):
    """The numbers as text, one a line, with everything that is needed to read them."""
    p = protocol
    lines = [
        f"{p['method']}, {p['train_images']:,} training images, seed {p['seed']}, "
        f"step {p['step']:,}, {p['weights']}",
        f"{p['samples']:,} samples, {p['sampler']}, sample seed {p['sample_seed']}",
        f"data: {p['data']}",
        "real: what real images score in the samples' place (held-out ones against the training "
        "images, training ones against the others), as many of them if there are; else (n=...), "
        "and so many samples score what the last column says; [95% interval]",
        "",
    ]
    head = ("", "better", "samples", "interval", "real", "n", "against", "through", "")
    rows = [head, *(_row(key, number) for key, number in numbers.items())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    left, right = str.ljust, str.rjust
    align = (left, left, right, right, right, right, left, left, left)
    for row in rows:
        cells = (put(cell, width) for put, cell, width in zip(align, row, widths))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def _row(key, number):
    name, _, detail = key.partition("/")
    measure = MEASURES[name]

    def show(value):
        return "" if value is None else printed(name, value)

    detail = {"gap": f" at log SNR {detail}"}.get(name, f", {detail}")
    detail = detail if name in ("gap", "moment", "tint", "tint_spread") else ""
    title = measure.title + (detail if "/" in key else "")
    interval = ""
    if number.interval:
        interval = f"[{show(number.interval[0])}, {show(number.interval[1])}]"
    return (
        title,
        measure.better,
        show(number.value),
        interval,
        show(number.real) + (f" (n={number.real_n:,})" if number.real_n else ""),
        f"{number.n:,}",
        number.reference,
        number.extractor,
        number.note,
    )
