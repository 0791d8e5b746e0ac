"""The page of a comparison: one HTML file with everything that is needed to trust it."""

import base64
import pathlib
import shlex
import sys

import jinja2

from tada_jax.metrics.measures import MEASURES
from tada_jax.study import clock_report, tables
from tada_jax.system.logs import duration
from tada_jax.system.paths import to_json
from tada_jax.training import workdir as workdirs

TEMPLATE = pathlib.Path(__file__).with_name("comparison.html.j2")

_DEFINITIONS = {
    "fd": "Frechet distance of two Gaussians fitted to features, of the samples and of real "
    "images. Biased upwards with few images, so comparable at equal numbers only.",
    "kid": "Squared maximum mean discrepancy of the same features under a cubic kernel; unbiased.",
    "precision": "Share of samples within the k-nearest-neighbour balls of the real images.",
    "recall": "Share of real images within those of the samples.",
    "leak": "Share of augmented images among the samples that look like a real or an augmented "
    "one, by a classifier of three kinds: held-out real images, T(x, 1), and bad images that are "
    "neither. 0% as for real images, 100% if all are augmented. A network that was not trained to "
    "its end may draw more varied shapes, as augmentation does: compare with a run without it.",
    "neither": "Share of samples that look neither real nor augmented, by the same classifier; "
    "above 50% there is no leak to be had.",
    "copies": "Share of samples that are nearer to one training image than a third of the distance "
    "to the next one.",
    "copy_margin": "Mean distance to the nearest training image over that to the nearest held-out "
    "one, as if there were as many of both: 1 if the model knows nothing of its training images in "
    "particular, 0 if all samples are copies.",
    "authentic": "Share of samples that are further from their training image than that is from "
    "the next one.",
    "c_t": "Standardised rank test of the distances to the training images, samples against "
    "held-out images; negative: copying.",
    "gap": "Squared error of the network on held-out images minus that on its training images.",
}


def page(path, config, results, failures, figures):
    """The page as text; whatever comes from outside is escaped.

    Args:
      path: the folder of the comparison.
      config: its configuration.
      results: {`tables.Cell`: `evaluation.Result`}.
      failures: {title of a run: why it has no result}.
      figures: names of PNGs in the folder.
    """
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    protocol = next(iter(results.values())).protocol
    methods, sizes = tables.methods_and_sizes(results)
    return environment.from_string(TEMPLATE.read_text()).render(
        facts=_facts(config, results, protocol),
        failures=failures,
        head=["", *methods, "real images", "better"],
        sizes=[
            {
                "title": tables.images_text(size).capitalize(),
                "rows": _rows(results, methods, size),
                "grids": _grids(results, methods, size),
            }
            for size in sizes
        ],
        differences=_differences(results, methods, sizes),
        clock=_clock(results),
        folder=path,
        figures=figures,
        embedded=_embedded,
        definitions={MEASURES[key].title: text for key, text in _DEFINITIONS.items()},
        caveats=_caveats(protocol, results),
        results=results,
        configuration=to_json(config.to_dict(), indent=2),
    )


def _seeds(results):
    return sorted({cell.seed for cell in results})


def _facts(config, results, protocol):
    """{what: text} of the whole comparison."""
    methods, sizes = tables.methods_and_sizes(results)
    versions = workdirs.versions()
    sizes = ", ".join(map(tables.images_text, sizes))
    seeds = ", ".join(map(str, _seeds(results)))
    seconds = sum(tables.seconds_spent(cell) for cell in results)
    by_main = sys.argv[0].endswith("main.py")
    return {
        "command": shlex.join(["python", *sys.argv]) if by_main else "Python API",
        "grid": f"{len(results)} runs: {', '.join(methods)}; {sizes}; seeds {seeds}",
        "data": protocol["data"].partition("; training on")[0],
        "training": f"{_steps(results)} steps of {config.train.batch_size} images",
        "samples": f"{protocol['samples']:,} a run, {protocol['sampler']}, {protocol['weights']}, "
        f"seed {protocol['sample_seed']}",
        "features": protocol["extractor"],
        "time": f"{duration(seconds)} of training, sampling and measuring, all runs together",
        "machine": f"{len(versions['devices'])} x {versions['devices'][0]}",
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items() if k != "devices"),
    }


def _steps(results):
    """How many steps the runs did, as text: not all the same if they end when copies begin."""
    steps = {result.protocol["step"] for result in results.values()}
    return f"{min(steps):,}" if len(steps) == 1 else f"{min(steps):,} to {max(steps):,}"


def _rows(results, methods, size):
    """A row for each measure: its title, each method, real images, and which way is better."""
    rows = []
    for key in tables.headlines(results):
        found = tables.summaries(results, key)
        cells = [
            tables.cell_text(key, found[m, size]) if (m, size) in found else "" for m in methods
        ]
        shown = tables.real_text(results, key, size)
        better = MEASURES[key.partition("/")[0]].better
        rows.append([tables.title_of(key), *cells, shown, better])
    return rows


def _differences(results, methods, sizes):
    """{"head", "rows"} of the reference method minus each of the others."""
    base = tables.reference_method(methods)
    others = [method for method in methods if method != base]
    rows = [
        [
            tables.images_text(size),
            tables.title_of(key),
            *(tables.difference_text(results, key, base, other, size) for other in others),
        ]
        for size in sizes
        for key in tables.headlines(results)
    ]
    head = ["", "", *(f"{base} - {other}" for other in others)]
    return {"head": head, "rows": rows if others else []}


def _clock(results):
    """{"caption", "head", "rows"} of when the runs began to copy; empty if nobody looked."""
    clocks = clock_report.read(results)
    if not clocks:
        return {}
    head, rows = clock_report.times(results, clocks)
    return {"caption": clock_report.caption(results, clocks), "head": head, "rows": rows}


def _grids(results, methods, size):
    """Samples beside their nearest training images, of the first seed of each method."""
    grids = []
    for method in methods:
        cells = [cell for cell in results if (cell.method, cell.size) == (method, size)]
        if cells and (results[cells[0]].folder / "nearest.png").is_file():
            cell, picture = cells[0], results[cells[0]].folder / "nearest.png"
            title = f"{method}, seed {cell.seed}"
            grids.append({"title": title, "run": cell.title, "path": picture})
    return grids


def _caveats(protocol, results):
    inception = protocol["extractor"].startswith("Inception")
    steps = _steps(results)
    length = "One network, one length of training, one data set."
    if " to " in steps:
        length = (
            f"Runs ended when they began to copy, after {steps} steps: numbers of their last step "
            "do not compare the methods. One network, one data set."
        )
    return [
        f"{len(_seeds(results))} seeds: intervals over so few say little more than the range that "
        "was seen.",
        "FID with few samples is biased: compare only at equal numbers of samples."
        if inception
        else f"Distances are those of {protocol['extractor']} features, not of FID's Inception: "
        "they rank runs on these data, and compare with no published number.",
        f"{length} A longer run memorises more, and a larger network sooner.",
        "The numbers are those of the last step, not of each run's best.",
    ]


def _embedded(file):
    """A PNG as a data URL."""
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
