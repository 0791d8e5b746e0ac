"""The result of a comparison in files: table.md, comparison.json, figures, and one HTML page."""

import json

import numpy as np

from tada_jax.metrics.measures import MEASURES
from tada_jax.study import clock_report, comparison_page, tables
from tada_jax.system import figures
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
    if clock_report.write(path, results):
        drawn.append("clock.png")
    write_whole(path / "report.html", comparison_page.page(path, config, results, failures, drawn))


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
    figures.legend_beside(figure, *figures.entries(figure))
    bars = ", bars ± 1 sd of the seeds" if several else ""
    return figures.finish(figure, f"Leakage, copying and quality: {samples}, {seeds}{bars}")


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
    ax.set(title=tables.images_text(size), xlabel=titles[0], ylabel=titles[1])
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
        ax.set(title=tables.images_text(size), xlabel="training step", ylabel=label)
        if key == "fd":
            ax.set_yscale("log")
        ax.grid(alpha=0.3)
    figures.legend_beside(figure, *figures.entries(figure))
    shaded = ", shaded: their range" if several else ""
    return figures.finish(figure, f"{label} while training: {of}{seeds}{shaded}")


# The page
