"""The result of a comparison in files: table.md, comparison.json, figures, and one HTML page."""

import base64
import html
import json
import shlex
import sys

import numpy as np

from tada_jax.metrics.measures import MEASURES
from tada_jax.study import evaluation, tables
from tada_jax.system import figures
from tada_jax.system.logs import duration
from tada_jax.system.paths import to_json, write_whole
from tada_jax.training import workdir as workdirs

# Figures of what is logged while training: (file, scalar, label).
_CURVES = (
    ("quality.png", "fd", "Frechet distance"),
    ("leakage.png", "leak", "leak, share of the good samples"),
    ("memorisation.png", "copy_margin", "copy margin, d(train)/d(held out)"),
    ("copies.png", "copies", "share of copies"),
    ("loss.png", "test_mse", "squared error, held-out images"),
)

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
    "copy_margin": "Mean distance to the nearest training image over that to the nearest of as "
    "many held-out images: 1 if the model knows nothing of its training images in particular.",
    "authentic": "Share of samples that are further from their training image than that is from "
    "the next one.",
    "c_t": "Standardised rank test of the distances to the training images, samples against "
    "held-out images; negative: copying.",
    "gap": "Squared error of the network on held-out images minus that on its training images.",
}


def write(path, config, results, failures):
    """Writes everything about the results of a grid into the folder `path`.

    Args:
      path: folder.
      config: of the grid.
      results: {tables.Cell: evaluation.Result}.
      failures: {title of a cell: why}.
    """
    path.mkdir(parents=True, exist_ok=True)
    write_whole(path / "table.md", tables.markdown(results))
    everything = {
        "cells": [
            {
                "method": cell.method,
                "train_images": cell.size,
                "seed": cell.seed,
                "seconds": round(tables.seconds_spent(cell), 1),
                "workdir": cell.workdir.name,
                "result": json.loads(result.to_json()),
            }
            for cell, result in results.items()
        ],
        "failures": failures,
        "versions": workdirs.versions(),
    }
    write_whole(path / "comparison.json", to_json(everything, indent=1) + "\n")
    drawn = [] if not trade_off_figure(path / "trade_off.png", results) else ["trade_off.png"]
    for name, key, label in _CURVES:
        if curves_figure(path / name, results, key, label):
            drawn.append(name)
    write_whole(path / "report.html", _page(path, config, results, failures, drawn))


def _looks(results):
    """{method: (colour, marker, line style)}; one for all methods of a curve."""
    methods, _ = tables.methods_and_sizes(results)
    curve_of = {m: name for name, members in _curves_of(results).items() for m in members}
    names = list(dict.fromkeys(curve_of.get(method, method) for method in methods))
    look = {name: figures.look(i) for i, name in enumerate(names)}
    return {method: look[curve_of.get(method, method)] for method in methods}


def _curves_of(results):
    """{name: methods} of `config.compare.curves`."""
    return next(iter(results)).config.compare.curves.to_dict()


def _caption(results):
    """What titles say: (sizes, samples in words, seeds in words, whether they are several)."""
    _, sizes = tables.methods_and_sizes(results)
    seeds = sorted({cell.seed for cell in results})
    named = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    protocol = next(iter(results.values())).protocol
    return sizes, f"{protocol['samples']:,} samples", named, len(seeds) > 1


def _images(size):
    return "all training images" if size is None else f"{size:,} training images"


# What is drawn against what.
_TRADES = (("fd/held_out", "leak"), ("fd/held_out", "copy_margin"), ("copy_margin", "leak"))


def trade_off_figure(path, results):
    """Leakage, copying and quality against each other: a point a method, bars over the seeds.

    Returns:
      Whether there was anything to draw.
    """
    figure = _trade_off(results)
    if figure is not None:
        figure.savefig(path, dpi=110)
    return figure is not None


def _trade_off(results):
    """The `Figure`, or None."""
    from matplotlib.figure import Figure

    found = {key: tables.summaries(results, key) for key in dict.fromkeys(sum(_TRADES, ()))}
    trades = [(x, y) for x, y in _TRADES if found[x] and found[y]]
    if not trades:
        return None
    sizes, samples, seeds, several = _caption(results)
    figure = Figure(figsize=(5.6 * len(trades), 4.2 * len(sizes)), layout="constrained")
    for row, size in zip(figure.subplots(len(sizes), len(trades), squeeze=False), sizes):
        for ax, (x, y) in zip(row, trades):
            _trade_panel(ax, results, size, x, y)
    figures.legend_beside(figure, *_entries(figure))
    bars = ", bars ± 1 sd of the seeds" if several else ""
    return figures.finish(figure, f"Leakage, copying and quality: {samples}, {seeds}{bars}")


def _entries(figure):
    """(handles, labels) of all panels, every label once."""
    found = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels()):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def _trade_panel(ax, results, size, *keys):
    """One measure against another, for one number of training images."""
    measures = [MEASURES[key.partition("/")[0]] for key in keys]
    all_found = [tables.summaries(results, key) for key in keys]
    looks, curves = _looks(results), _curves_of(results)
    curve_of = {m: name for name, members in curves.items() for m in members}
    points, labelled = {}, set()
    for method, (color, marker, _) in looks.items():
        if not all((method, size) in found for found in all_found):
            continue
        own = [found[method, size] for found in all_found]
        points[method], bars = (
            [getattr(s, field) * m.factor for s, m in zip(own, measures)]
            for field in ("mean", "deviation")
        )
        label = curve_of.get(method, method)
        ax.errorbar(
            *points[method],
            xerr=np.nan_to_num(bars[0]),
            yerr=np.nan_to_num(bars[1]),
            color=color,
            marker=marker,
            markersize=7,
            linestyle="",
            capsize=3,
            label=None if label in labelled else label,
        )
        labelled.add(label)
        if method in curve_of:
            end = method.removeprefix(label).strip("_:").replace("_", ".")
            ax.annotate(end, points[method], xytext=(5, 4), textcoords="offset points", fontsize=8)
    for members in curves.values():
        line = [points[method] for method in members if method in points]
        if len(line) > 1:
            color, _, style = looks[members[0]]
            ax.plot(*zip(*line), color=color, linestyle=style, linewidth=1)
    real = [tables.real_images(results, key, size) for key in keys]
    if None not in real:
        at = [value * m.factor for value, m in zip(real, measures)]
        ax.plot(*at, color="black", marker="*", markersize=12, linestyle="", label="real images")
    against = "Frechet distance to held-out images"
    titles = [against if "/" in key else m.title for key, m in zip(keys, measures)]
    ax.set(title=_images(size), xlabel=titles[0], ylabel=titles[1])
    if keys[0].startswith("fd"):
        ax.set_xscale("log")
    ax.grid(alpha=0.3)


def curves_figure(path, results, key, label):
    """A scalar of the log against the training step: mean over the seeds, and their range.

    Returns:
      Whether there was anything to draw.
    """
    figure = _curves(results, key, label)
    if figure is not None:
        figure.savefig(path, dpi=110)
    return figure is not None


def _curves(results, key, label):
    """The `Figure`, or None."""
    from matplotlib.figure import Figure

    found = tables.curves(results, key)
    if not found:
        return None
    sizes, _, seeds, several = _caption(results)
    methods, _ = tables.methods_and_sizes(results)
    looks = {method: figures.look(i) for i, method in enumerate(methods)}
    count = next(iter(results)).config.log.metrics_count
    of = "" if "mse" in key else f"{count:,} samples, "
    figure = Figure(figsize=(4.6 * len(sizes), 3.9), layout="constrained")
    for ax, size in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes):
        for method, (color, marker, style) in looks.items():
            if (method, size) not in found:
                continue
            steps, values = found[method, size]
            ax.plot(
                steps,
                values.mean(0),
                color=color,
                marker=marker,
                linestyle=style,
                markevery=max(1, len(steps) // 10),
                label=method,
            )
            ax.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.15)
        ax.set(title=_images(size), xlabel="training step", ylabel=label)
        if key == "fd":
            ax.set_yscale("log")
        ax.grid(alpha=0.3)
    figures.legend_beside(figure, *_entries(figure))
    shaded = ", shaded: their range" if several else ""
    return figures.finish(figure, f"{label} while training: {of}{seeds}{shaded}")


# The page


def _page(path, config, results, failures, figures):
    protocol = next(iter(results.values())).protocol
    methods, sizes = tables.methods_and_sizes(results)
    seeds = sorted({cell.seed for cell in results})
    seconds = sum(tables.seconds_spent(cell) for cell in results)
    versions = workdirs.versions()
    command = shlex.join(["python", *sys.argv]) if sys.argv[0].endswith("main.py") else "Python API"
    facts = {
        "command": command,
        "grid": f"{len(results)} runs: {', '.join(methods)}; "
        f"{', '.join(_images(size) for size in sizes)}; seeds {', '.join(map(str, seeds))}",
        "data": protocol["data"].partition("; training on")[0],
        "training": f"{config.train.total_steps:,} steps of {config.train.batch_size} images",
        "samples": f"{protocol['samples']:,} a run, {protocol['sampler']}, {protocol['weights']}, "
        f"seed {protocol['sample_seed']}",
        "features": protocol["extractor"],
        "time": f"{duration(seconds)} of training, sampling and measuring, all runs together",
        "machine": f"{len(versions['devices'])} x {versions['devices'][0]}",
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items() if k != "devices"),
    }
    parts = [
        "<h1>Comparison</h1>",
        _table([[k, v] for k, v in facts.items()]),
        *([f"<p class=bad>Failed: {_e(k)}: {_e(v)}</p>" for k, v in failures.items()]),
        *(_result_table(results, methods, size) for size in sizes),
        _difference_tables(results, methods, sizes),
        "<h2>Figures</h2>",
        *(f"<img src='{_embedded(path / name)}' alt='{_e(name)}'>" for name in figures),
        *_grids(results, methods, sizes),
        "<h2>What the numbers mean</h2><dl>",
        *(f"<dt>{_e(MEASURES[k].title)}</dt><dd>{_e(v)}</dd>" for k, v in _DEFINITIONS.items()),
        "</dl><h2>What this does not prove</h2>",
        _caveats(protocol, seeds),
        "<h2>Every run</h2>",
        *_appendix(results),
        f"<details><summary>Configuration</summary><pre>"
        f"{_e(to_json(config.to_dict(), indent=2))}</pre></details>",
    ]
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}"
        "table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;"
        "padding:.25em .6em;text-align:left}td+td{font-variant-numeric:tabular-nums}"
        "img{max-width:100%}img.grid{image-rendering:pixelated}pre{overflow:auto;font-size:12px}"
        ".bad{color:#a00}dt{font-weight:bold}"
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Comparison</title>"
        f"<style>{style}</style><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _e(text):
    return html.escape(str(text), quote=True)


def _table(rows, head=None):
    def cells(row, tag):
        return "".join(f"<{tag}>{_e(cell)}</{tag}>" for cell in row)

    top = f"<tr>{cells(head, 'th')}</tr>" if head else ""
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<table>{top}{body}</table>"


def _result_table(results, methods, size):
    rows = []
    for key in tables.headlines(results):
        found = tables.summaries(results, key)
        real = tables.real_images(results, key, size)
        rows.append(
            [
                tables.title_of(key),
                *(
                    tables.cell_text(key, found[m, size]) if (m, size) in found else ""
                    for m in methods
                ),
                "" if real is None else evaluation.printed(key, real),
                MEASURES[key.partition("/")[0]].better,
            ]
        )
    title = f"<h2>{_images(size).capitalize()}</h2><p>Mean ± standard deviation over the seeds.</p>"
    return title + _table(rows, ["", *methods, "real images", "better"])


def _difference_tables(results, methods, sizes):
    base = tables.reference_method(methods)
    others = [method for method in methods if method != base]
    if not others:
        return ""
    rows = [
        [
            _images(size),
            tables.title_of(key),
            *(tables.difference_text(results, key, base, other, size) for other in others),
        ]
        for size in sizes
        for key in tables.headlines(results)
    ]
    head = ["", "", *(f"{base} - {other}" for other in others)]
    return (
        "<h2>Paired differences</h2><p>At equal seeds, which share data, initialisation and noise; "
        "mean, and its 95% bootstrap interval over the seeds.</p>" + _table(rows, head)
    )


def _grids(results, methods, sizes):
    """Samples beside their nearest training images, of the first seed of each method and size."""
    parts = ["<h2>Samples, and the three nearest training images of each</h2>"]
    for size in sizes:
        pictures = []
        for method in methods:
            shown = [
                (cell, result)
                for cell, result in results.items()
                if (cell.method, cell.size) == (method, size)
            ]
            if not shown:
                continue
            cell, result = shown[0]
            picture = result.folder / "nearest.png"
            if picture.is_file():
                pictures.append(
                    f"<td>{_e(method)}, seed {cell.seed}<br><img class=grid "
                    f"src='{_embedded(picture)}' alt='{_e(cell.title)}'></td>"
                )
        parts.append(f"<h3>{_images(size).capitalize()}</h3><table><tr>{''.join(pictures)}</tr>")
        parts.append("</table><p>Twice in a row: a sample, then its three nearest.</p>")
    return parts


def _caveats(protocol, seeds):
    points = [
        f"{len(seeds)} seeds: intervals over so few say little more than the range that was seen.",
        f"Distances are those of {protocol['extractor']} features, not of FID's Inception: they "
        "rank runs on these data, and compare with no published number."
        if not protocol["extractor"].startswith("Inception")
        else "FID with few samples is biased: compare only at equal numbers of samples.",
        "One network, one length of training, one data set. A longer run memorises more, and a "
        "larger network sooner.",
        "The numbers are those of the last step, not of each run's best.",
    ]
    return "<ul>" + "".join(f"<li>{_e(point)}</li>" for point in points) + "</ul>"


def _appendix(results):
    for cell, result in results.items():
        yield (
            f"<details><summary>{_e(cell.title)}</summary><pre>{_e(result.table())}</pre></details>"
        )


def _embedded(file):
    """A PNG as a data URL."""
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
