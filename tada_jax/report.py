"""Pictures and figures of a run. Curves differ by line style and marker as well as colour."""

import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from tada_jax import sampling
from tada_jax.paths import replacing

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
        for op, own, (color, marker, style) in zip(parts.policy.ops, w.T, itertools.cycle(LOOKS)):
            look = dict(color=color, marker=marker, linestyle=style, markevery=every)
            left.plot(r, own, **look, label=f"w, {op}")
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
    left.legend(loc="upper center")

    always, key = parts.method.always(), jax.random.key(seed)
    x = jnp.asarray(images[:n], jnp.float32) / 127.5 - 1.0
    row = jax.jit(lambda w: always(key, x, jnp.zeros_like(x), jnp.full(n, w)).x0)
    pictures = [sampling.to_uint8(row(w)) for w in strengths]
    picture = grid(np.concatenate(pictures), n)
    right.imshow(picture, cmap="gray", interpolation="nearest", aspect="equal")
    height = picture.shape[0] / len(strengths)
    right.set_yticks(
        [(i + 0.5) * height for i in range(len(strengths))], [f"w={w:g}" for w in strengths]
    )
    right.set_xticks([])
    right.set_title("the same draws at several strengths")
    figure.suptitle(f"{title}: {len(images):,} training images, seed {seed}")
    figure.savefig(path, dpi=110)


def training_figure(path, lines, *, title):
    """Draws the squared error against the step: while training, on training and held-out images.

    Args:
      path: of the PNG.
      lines: dicts of metrics.jsonl.
      title: of the figure, with the number of images and the seed.
    """
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
            axes.plot(*zip(*points), color=color, linestyle=style, marker=marker, label=label)
    axes.set(
        xlabel="step", ylabel="squared error of the target, a pixel", yscale="log", title=title
    )
    if axes.lines:
        axes.legend()
    figure.savefig(path, dpi=110)


def quality_figure(path, lines, *, title, count):
    """Draws the quick metrics of samples against the step, if there are any.

    Args:
      path: of the PNG.
      lines: dicts of metrics.jsonl.
      title: of the figure, with the number of images and the seed.
      count: samples behind every point.
    """
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
        return
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    for axes, (label, curves) in zip(figure.subplots(1, 3), panels):
        for key, name, color, style, marker, factor in curves:
            points = [(line["step"], factor * line[key]) for line in lines if key in line]
            if points:
                axes.plot(*zip(*points), color=color, linestyle=style, marker=marker, label=name)
        axes.set(xlabel="step", ylabel=label)
        if "Frechet" in label:
            axes.set_yscale("log")
        axes.legend()
    figure.suptitle(f"{title}, {count:,} samples")
    figure.savefig(path, dpi=110)


def noise_level_figure(path, lines, *, title, images, seed):
    """Draws the latest squared errors on training and held-out images against log SNR.

    Args:
      path: of the PNG.
      lines: dicts of metrics.jsonl.
      title: first line of the title.
      images: (training, held-out) images that there are.
      seed: of the noise.
    """
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
        title=f"{title}: EMA at step {step:,}, seed {seed}",
    )
    if step:
        axes.legend()
    figure.savefig(path, dpi=110)
