"""Pictures and figures of a run. Curves differ by line style and marker as well as colour."""

import itertools
import pathlib
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from tada_jax.system import pixels
from tada_jax.system.paths import replacing

# Okabe & Ito's colours, distinguishable with any colour vision.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"

# Of curves that are told apart in every figure: colour, marker, line style.
LOOKS = (
    (BLUE, "o", "-"),
    (ORANGE, "s", "--"),
    (GREEN, "^", ":"),
    ("#CC79A7", "D", "-."),
    ("#E69F00", "v", (0, (5, 1))),
    ("#56B4E9", "P", (0, (1, 1))),
    ("#000000", "X", (0, (3, 1, 1, 1))),
)

_MORE_MARKERS = "os^DvPX*<>hp8d"


def look(i):
    """The i-th of as many looks as one likes: of the first 98 no two are alike."""
    n = len(LOOKS)
    color, _, _ = LOOKS[i % n]
    return color, _MORE_MARKERS[i % len(_MORE_MARKERS)], LOOKS[(i + i // n) % n][2]


def finish(figure, title):
    """Gives a figure its title, and makes titles, labels and ticks fit; the last thing before it is
    saved.

    Lines that are too long for the figure or their panel are broken, and logarithmic axes get as
    many labels as can be read. Needs a figure with layout="constrained".

    Args:
      figure: a matplotlib `Figure` with everything drawn into it.
      title: of the whole figure.

    Returns:
      The figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    heading = figure.suptitle(title)
    _break(heading, 0.98 * figure.bbox.width, renderer)
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            _limit_ticks(axis)
    layout = figure.get_layout_engine()
    for _ in range(3):  # broken lines take room from the panels
        layout.execute(figure)
        broken = [
            _break(text, 0.95 * limit, renderer)
            for axes in figure.axes
            for text, limit in (
                (axes.title, axes.bbox.width),
                (axes.xaxis.label, axes.bbox.width),
                (axes.yaxis.label, axes.bbox.height),
            )
        ]
        if not any(broken):
            break
    else:
        layout.execute(figure)
    figure.set_layout_engine("none")  # saving would lay it out anew, and draw it twice for that
    return figure


def _break(text, limit, renderer):
    """Breaks a matplotlib text into lines of at most `limit` pixels; returns whether it had to."""

    def length():
        box = text.get_window_extent(renderer)
        return box.height if text.get_rotation() == 90 else box.width

    whole = " ".join(text.get_text().split())
    columns, before = len(whole), text.get_text()
    while columns > 8 and length() > limit:
        columns = min(columns - 1, max(8, int(columns * limit / length())))
        text.set_text(textwrap.fill(whole, columns))
    return text.get_text() != before


def _limit_ticks(axis):
    """Labels a logarithmic axis at few round values, also where it spans no whole decade."""
    from matplotlib import ticker

    if axis.get_scale() != "log":
        return
    low, high = sorted(axis.get_view_interval())
    if high < 10 * low:
        axis.set_major_locator(ticker.MaxNLocator(5))
        axis.set_major_formatter(ticker.ScalarFormatter(useOffset=False))
        axis.set_minor_locator(ticker.NullLocator())
    elif high < 1000 * low:
        axis.set_major_locator(ticker.LogLocator(subs=(1.0, 3.0)))
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def entries(figure):
    """(handles, labels) of all panels of a matplotlib `Figure`, every label once."""
    found = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def legend_beside(figure, handles, labels):
    """One legend for all panels of a figure, right of them, which makes the figure wider.

    Args:
      figure: a matplotlib `Figure` with layout="constrained".
      handles: what is drawn.
      labels: as many names.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    width, height = figure.get_size_inches()
    rows = max(1, int((height - 0.8) / 0.22))
    columns = -(-len(labels) // rows)
    legend = figure.legend(handles, labels, loc="outside right center", ncols=columns)
    box = legend.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    figure.set_size_inches(width + box.width / figure.dpi, height)


def grid(images, columns=None, *, min_side=48, gap=1):
    """Tiles images into one, enlarging small ones by a whole factor without smoothing.

    Args:
      images: uint8 [N,H,W,C], C = 1 or 3.
      columns: images a row; by default the grid is about square.
      min_side: images are enlarged until their larger side reaches this many pixels.
      gap: pixels between images, before enlarging.

    Returns:
      uint8 [H',W',C].
    """
    n, h, w, c = images.shape
    columns = min(n, columns or int(np.ceil(np.sqrt(n))))
    rows = -(-n // columns)
    canvas = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, c), 255, np.uint8)
    for i, image in enumerate(np.asarray(images)):
        y, x = i // columns * (h + gap), i % columns * (w + gap)
        canvas[y : y + h, x : x + w] = image
    factor = max(1, -(-min_side // max(h, w)))
    return canvas.repeat(factor, 0).repeat(factor, 1)


def save_png(path, image):
    """Writes a uint8 image [H,W,C], C = 1 or 3, whole or not at all, creating its folder."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        flat = image[..., 0] if image.shape[-1] == 1 else image
        Image.fromarray(flat).save(partial, format="PNG")


def strength_figure(path, parts, images, *, title, seed, strengths=(0.0, 0.1, 0.25, 0.5, 1.0)):
    """Draws w against log SNR, and what several strengths do to real images.

    Args:
      path: of the PNG.
      parts: the `build.Parts` of the run.
      images: uint8 [N,H,W,C], real images; the first 8 are shown.
      title: first line of the title.
      seed: of the draws; every strength sees the same ones, of every image.
      strengths: the rows of pictures.
    """
    from matplotlib.figure import Figure

    n = min(8, len(images))
    shares = (np.arange(1000) + 0.5) / 1000  # of training examples
    r = np.asarray(parts.schedule.logsnr(parts.schedule.quantile(shares)))
    w = np.asarray(parts.strength(jnp.asarray(r, jnp.float32)))
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))

    every = max(1, len(r) // 12)
    if w.ndim == 1:
        left.plot(r, w, color=BLUE, marker="o", markevery=every, label="strength w")
    else:
        for i, (op, own) in enumerate(zip(parts.policy.ops, w.T)):
            color, marker, style = look(i)
            curve = dict(color=color, marker=marker, linestyle=style, markevery=every)
            left.plot(r, own, **curve, label=f"w, {op}")
        w = w.mean(-1)
    low = w <= w.min() + 0.1
    share = 100 * low.mean()
    left.fill_between(
        r,
        0,
        1,
        where=low,
        color=ORANGE,
        alpha=0.25,
        hatch="//",
        label=f"weakest ({share:.0f}% of t)",
    )
    left.set(xlabel="log SNR of the timestep [nats], noise to image", ylabel="strength w [0..1]")
    left.set(ylim=(-0.03, 1.03), title=f"mean over the timesteps {w.mean():.2f}")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, fontsize="small")

    always, key = parts.method.always(), jax.random.key(seed)
    x = jnp.asarray(pixels.to_float(images[:n]))
    row = jax.jit(lambda w: always(key, x, jnp.zeros_like(x), jnp.full(n, w)).x0)
    pictures = [pixels.to_uint8(row(w)) for w in strengths]
    picture = grid(np.concatenate(pictures), n)
    right.imshow(picture, cmap="gray", interpolation="nearest", aspect="equal")
    height = picture.shape[0] / len(strengths)
    right.set_yticks(
        [(i + 0.5) * height for i in range(len(strengths))], [f"w={w:g}" for w in strengths]
    )
    right.set_xticks([])
    right.set_title("the same draws at several strengths")
    finish(figure, f"{title}: {len(images):,} training images, seed {seed}")
    figure.savefig(path, dpi=110)


def training_figure(path, lines, *, title):
    """Draws the squared error against the step: while training, on training and held-out images.

    Args:
      path: of the PNG.
      lines: dicts of metrics.jsonl.
      title: of the figure, with the number of images and the seed.
    """
    _training(lines, title).savefig(path, dpi=110)


def _training(lines, title):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    curves = (
        ("mse", "while training (augmented)", BLUE, "-", ""),
        ("train_mse", "training images, EMA", GREEN, "--", "s"),
        ("test_mse", "held-out images, EMA", ORANGE, ":", "o"),
    )
    for key, label, color, style, marker in curves:
        points = [(line["step"], line[key]) for line in lines if key in line]
        if points:
            marker = marker or _mark(points)
            axes.plot(*zip(*points), color=color, linestyle=style, marker=marker, label=label)
    axes.set(xlabel="step", ylabel="squared error of the target, a pixel", yscale="log")
    if axes.lines:
        axes.legend()
    return finish(figure, title)


def _mark(points):
    """The marker of a curve that has none: a single point would not be seen."""
    return "x" if len(points) == 1 else ""


def quality_figure(path, lines, *, title, count, marks=None):
    """Draws the quick metrics of samples against the step, if there are any.

    Args:
      path: of the PNG.
      lines: dicts of metrics.jsonl.
      title: of the figure, with the number of images and the seed.
      count: samples behind every point.
      marks: {what it is: step}, a vertical line each.
    """
    figure = _quality(lines, title, count, marks or {})
    if figure is not None:
        figure.savefig(path, dpi=110)


def _quality(lines, title, count, marks):
    from matplotlib.figure import Figure

    panels = (
        ("Frechet distance to held-out images", (("fd", "samples", BLUE, "-", "o", 1),)),
        (
            "share [%]",
            (
                ("leak", "leak, of the good samples", ORANGE, "--", "s", 100),
                ("copies", "copies among the samples", GREEN, ":", "^", 100),
                ("copies_real", "copies among held-out images", "black", "-.", "", 100),
            ),
        ),
        (
            "distance to training / to held-out images",
            (("copy_margin", "copy margin", BLUE, "-", "o", 1),),
        ),
    )
    if not any("fd" in line for line in lines):
        return None
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    for axes, (label, curves) in zip(figure.subplots(1, 3), panels):
        for key, name, color, style, marker, factor in curves:
            points = [(line["step"], factor * line[key]) for line in lines if key in line]
            if points:
                marker = marker or _mark(points)
                axes.plot(*zip(*points), color=color, linestyle=style, marker=marker, label=name)
        axes.set(xlabel="step", ylabel=label)
        if "Frechet" in label:
            axes.set_yscale("log")
        for (name, step), style in zip(marks.items(), itertools.cycle(("-", "--", ":"))):
            when = f"{name}: step {step:,.0f}" if label == panels[0][0] else None
            axes.axvline(step, color="grey", linestyle=style, linewidth=1, label=when)
        if axes.lines:
            axes.legend(fontsize="small")
    return finish(figure, f"{title}, {count:,} samples")


def noise_level_figure(path, lines, *, title, images, seed):
    """Draws the latest squared errors on training and held-out images against log SNR.

    Args:
      path: of the PNG.
      lines: dicts of metrics.jsonl.
      title: first line of the title.
      images: (training, held-out) images that there are.
      seed: of the noise.
    """
    _noise_levels(lines, title, images, seed).savefig(path, dpi=110)


def _noise_levels(lines, title, images, seed):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    curves = (
        ("train_mse_by_logsnr", f"training images (of {images[0]:,})", GREEN, "--", "s"),
        ("test_mse_by_logsnr", f"held-out images (of {images[1]:,})", ORANGE, ":", "o"),
    )
    step = 0
    for key, label, color, style, marker in curves:
        found = [line for line in lines if key in line]
        if found:
            step = found[-1]["step"]
            points = sorted((float(r), mse) for r, mse in found[-1][key].items())
            axes.plot(*zip(*points), color=color, linestyle=style, marker=marker, label=label)
    axes.set(
        xlabel="log SNR [nats], noise to image; bins of 2",
        ylabel="squared error of the target, a pixel",
        yscale="log",
    )
    if step:
        axes.legend()
    return finish(figure, f"{title}: EMA at step {step:,}, seed {seed}")
