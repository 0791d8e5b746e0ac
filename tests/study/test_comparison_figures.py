"""Figures of comparisons and runs: titles inside, tick labels apart, curves not under legends."""

import itertools
import json

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tada_jax.metrics.measures import Number
from tada_jax.study import comparison_report, evaluation, tables
from tada_jax.system import figures
from tests import tiny

TEN = (
    *("none", "tada", "ada", "constant:0.1", "constant:0.3", "constant", "edm_labels"),
    *("a_variant_of_a_long_name", "ramp", "late"),
)
TINY = dict(methods=("tada",), sizes=(100,), seeds=(0,), points=1)
LONG = dict(methods=TEN, sizes=(100, 1000, None), seeds=(0, 1, 2), points=30)
TITLE = "tada, network of 3.5M parameters, digits of 8x8: 1,437 training images, seed 0"


def grid(folder, methods, sizes, seeds, points, *, scale=1.0, spread=0.5):
    """{Cell: Result}, and a metrics.jsonl of each, without training.

    Args:
      folder: of the runs.
      methods, sizes, seeds: that the grid spans.
      points: lines of every metrics.jsonl.
      scale: of the Frechet distances.
      spread: how far a method is from the next, as a share of the first.
    """
    config, rng, made = tiny.config(), np.random.default_rng(0), {}
    for (i, method), size, seed in itertools.product(enumerate(methods), sizes, seeds):

        def value(first, i=i):
            return float(first * (1 + spread * i) * rng.uniform(1.0, 1.1))

        workdir = folder / f"{i}-{size}-{seed}"
        workdir.mkdir(parents=True)
        first = {"fd/held_out": 4.2 * scale, "leak": 0.04, "copy_margin": 0.8}
        numbers = {
            key: Number(value(x), 2000, "held-out images (9)", "pixels", real=0.8 * x)
            for key, x in first.items()
        }
        curves = {"fd": 5 * scale, "leak": 0.04, "copy_margin": 0.9, "copies": 0.02, "test_mse": 1}
        lines = [
            {"step": 1000 * (j + 1)} | {key: value(x) / (1 + 0.1 * j) for key, x in curves.items()}
            for j in range(points)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (workdir / "metrics.jsonl").write_text(text)
        cell = tables.Cell(method, size, seed, config, workdir)
        made[cell] = evaluation.Result(workdir, {"samples": 2000}, numbers, {})
    return made


def figures_of(results):
    """Those that a comparison has, all of them."""
    yield comparison_report._trade_off(results)
    for _, key, label in comparison_report._CURVES:
        yield comparison_report._curves(results, key, label)


def run_lines(points, span):
    """Lines of metrics.jsonl, of errors that fall by the factor `span` in all."""
    for j in range(points):
        x = span ** (-j / max(1, points - 1))
        by_level = {str(2.0 * level): 0.05 * x * (1 + level / 10) for level in range(points)}
        yield {
            **{"step": 100_000 * (j + 1), "mse": 0.06 * x, "train_mse": 0.04 * x},
            **{"test_mse": 0.05 * x, "fd": 8 * x, "leak": 0.1, "copies": 0.02},
            **{"copies_real": 0.01, "copy_margin": 0.9},
            **{"train_mse_by_logsnr": by_level, "test_mse_by_logsnr": by_level},
        }


MARKS = {"held-out loss lowest": 100_000, "samples good": 100_000, "copies begin": 100_000.0}


def run_figures(lines, title=TITLE):
    """Those that a run has."""
    yield figures._training(lines, title)
    yield figures._quality(lines, title, 1000, MARKS)
    yield figures._noise_levels(lines, title, (1437, 360), 0)


def faults(figure):
    """What cannot be read of a figure, in words."""
    FigureCanvasAgg(figure).draw()
    renderer, found = figure.canvas.get_renderer(), []
    texts = [figure._suptitle, *figure.legends]
    for axes in figure.axes:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label]
    for text in texts:
        box = text.get_window_extent(renderer)
        inside = min(box.x0, box.y0) >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        if box.width and not inside:
            found.append(f"{text} is at {box.extents.round()} of {figure.bbox.extents}")
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            boxes = _tick_boxes(axis, renderer)
            if not boxes:
                found.append(f"{axis.get_label_text()}: no tick label")
            if any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2)):
                found.append(f"{axis.get_label_text()}: tick labels overlap")
        legends = [*figure.legends, *([axes.get_legend()] if axes.get_legend() else [])]
        for box in (legend.get_window_extent(renderer) for legend in legends):
            width = min(box.x1, axes.bbox.x1) - max(box.x0, axes.bbox.x0)
            height = min(box.y1, axes.bbox.y1) - max(box.y0, axes.bbox.y0)
            share = max(0, width) * max(0, height) / (axes.bbox.width * axes.bbox.height)
            if share > 0.3:
                found.append(f"{axes.get_ylabel()}: the legend covers {100 * share:.0f}%")
    return found


def _tick_boxes(axis, renderer):
    """Of the labels that are drawn: those of ticks within the limits."""
    low, high = sorted(axis.get_view_interval())
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    labels = [tick.label1 for tick in ticks if low <= tick.get_loc() <= high]
    shown = [label for label in labels if label.get_visible() and label.get_text()]
    return [label.get_window_extent(renderer) for label in shown]


@pytest.mark.parametrize("size", [TINY, TINY | {"points": 3}, LONG], ids=["tiny", "three", "long"])
def test_a_comparison_can_be_read(tmp_path, size):
    found = [faults(figure) for figure in figures_of(grid(tmp_path, **size))]
    assert found == [[]] * 6


@pytest.mark.parametrize("scale", [1.0, 10.0, 700.0, 40_000.0])
@pytest.mark.parametrize("spread", [0.1, 1.0])
def test_labels_of_logarithmic_axes_are_apart(tmp_path, scale, spread):
    size = TINY | {"methods": ("none", "tada")}
    figure = comparison_report._trade_off(grid(tmp_path, **size, scale=scale, spread=spread))
    assert faults(figure) == []


@pytest.mark.parametrize("points", [1, 2, 3])
def test_figures_of_a_run_can_be_read(points):
    for span in (1.01, 1.6, 1e5):
        lines = list(run_lines(points, span))
        assert [faults(figure) for figure in run_figures(lines)] == [[]] * 3


def test_a_title_of_any_length_is_broken_and_kept_whole():
    title = " ".join(f"word{i}" for i in range(60)) + " " + "x" * 150
    for figure in run_figures(list(run_lines(2, 2.0)), title):
        assert faults(figure) == []
        assert "".join(figure._suptitle.get_text().split()).startswith("".join(title.split()))


def test_long_labels_of_narrow_panels_are_broken():
    figure = Figure(figsize=(9, 2.5), layout="constrained")
    for axes in figure.subplots(1, 4):
        axes.plot([1, 2], [1, 2])
        axes.set(
            xlabel="native log SNR [nats], noise to image", ylabel="K [nats per nat of it all]"
        )
    assert faults(figures.finish(figure, "four panels")) == []
    FigureCanvasAgg(figure).draw()
    boxes = [axes.xaxis.label.get_window_extent() for axes in figure.axes]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_titles_speak_of_seeds_as_many_as_there_are(tmp_path):
    one = grid(tmp_path / "one", **TINY)
    two = grid(tmp_path / "two", **TINY | {"seeds": (3, 4)})
    for single, several in zip(figures_of(one), figures_of(two)):
        text = " ".join(single._suptitle.get_text().split())
        assert text.endswith("seed 0")
        assert "seeds 3, 4, " in " ".join(several._suptitle.get_text().split())


def test_every_single_point_is_seen():
    for figure in run_figures(list(run_lines(1, 1.0))):
        for line in itertools.chain(*(axes.lines for axes in figure.axes)):
            if len(line.get_xdata()) == 2 and list(line.get_ydata()) == [0, 1]:
                continue  # a vertical line through the whole panel, which needs none
            assert line.get_marker() not in ("", "None", None), line.get_label()
