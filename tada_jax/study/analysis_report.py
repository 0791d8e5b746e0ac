"""The figures of `--mode=analyze`: profiles, schedules, and the paper's Figure 1."""

import numpy as np

from tada_jax import tada
from tada_jax.band.profile import ALL
from tada_jax.study import analysis_text
from tada_jax.system import figures
from tada_jax.system.figures import BLUE, GREEN, ORANGE

_X = "native log SNR [nats], noise to image"
_LEAST_K, _LEAST_V = 1e-3, 1e-3  # nats and percent, where logarithmic axes end


def draw(found, config, dataset, pictures):
    """Draws everything about an `analysis_text.Analysis` into its folder."""
    folder, thresholds = found.folder, config.sensitivity.thresholds
    for proxy, profile in found.profiles.items():
        profile_figure(folder / f"profile-{proxy}.png", profile, thresholds, dataset.name)
    main = analysis_text.foremost(found.profiles, config, dataset)
    schedule_figure(folder / "schedules.png", main, config, dataset)
    if found.gaps:
        gap_figure(folder / "gap.png", found, thresholds, dataset.name)
    if found.exchanges:
        if config.analyze.sweep:
            exchange_figure(folder / "exchange.png", found, config, dataset)
        pictures_figure(folder / "exchange_samples.png", found, pictures, config, dataset.name)


def _shade(axes, band, label="sensitive band"):
    if band is not None:
        axes.axvspan(*band, color=ORANGE, alpha=0.15, hatch="//", label=label, zorder=0)


def _caption(profile):
    a = profile.about
    return (
        f"{profile.proxy} posterior, n = {a['images']:,} images, {a['queries']:,} queries, "
        f"{a['copies']} copies, seed {a['seed']}"
    )


def profile_figure(path, profile, thresholds, name):
    """K and V of the policy and each operation, and where training images can be told apart."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.4), layout="constrained")
    panels = figure.subplots(1, 3 if profile.memory else 2)
    band = profile.band(thresholds)
    for axes, quantity, factor, limit, label in (
        (panels[0], "detectable", 1.0, thresholds[0], "K, detectable [nats per nat of log SNR]"),
        (panels[1], "visible", 100.0, 100 * thresholds[1], "V, visible [% of the variance]"),
    ):
        for i, op in enumerate(profile.names):
            color, marker, style = figures.look(i)
            curve = profile.curves[op, 1.0]
            axes.errorbar(
                profile.logsnr,
                factor * getattr(curve, quantity),
                yerr=factor * getattr(curve, f"{quantity}_error"),
                color=color,
                marker=marker,
                markersize=4,
                linestyle=style,
                linewidth=2.5 if op == ALL else 1.2,
                label="all together" if op == ALL else op,
            )
        axes.axhline(limit, color="black", linewidth=0.8, linestyle=(0, (2, 2)), label="threshold")
        _shade(axes, band)
        axes.set(xlabel=_X, ylabel=label, yscale="log")
        axes.set_ylim(bottom=_LEAST_K if factor == 1.0 else _LEAST_V)
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize="small")
    if profile.memory:
        _memory_panel(panels[2], profile, band)
    check = profile.check
    figures.finish(
        figure,
        f"{name}, w = 1: {_caption(profile)}; by the exact posterior integral of K "
        f"{check.integral:.2f} ± {check.error:.2f}, must be {check.divergence:.2f} nats",
    )
    figure.savefig(path, dpi=110)


def _memory_panel(axes, profile, band):
    memory, r = profile.memory, profile.logsnr
    axes.plot(r, memory.concentration, color=BLUE, marker="o", markersize=4, label="W_s, training")
    if memory.coverage is not None:
        axes.plot(
            r,
            memory.coverage,
            color=GREEN,
            marker="^",
            markersize=4,
            linestyle="--",
            label="C_s, held-out",
        )
    _shade(axes, band)
    axes.set(xlabel=_X, ylabel="share [0..1]", title="where training images can be told apart")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def schedule_figure(path, profile, config, dataset):
    """The paper's parabola, the fitted one, and free-form schedules, together and apart."""
    from matplotlib.figure import Figure

    thresholds, r = config.sensitivity.thresholds, profile.logsnr
    fine = np.linspace(r[0] - 3.0, r[-1] + 1.0, 400)
    h, w, _ = dataset.train.images.shape[1:]
    band = profile.band(thresholds)
    curves = {
        "paper, [-3, 0] as it stands": tada.strength(fine, calibration="none"),
        f"paper, for {np.sqrt(h * w):.0f} px": tada.strength(fine, resolution=np.sqrt(h * w)),
    }
    if band:
        curves[f"fitted, [{band[0]:.2f}, {band[1]:.2f}]"] = tada.strength(
            fine, r_rough=band[0], r_fine=band[1], calibration="none"
        )
    for budget in analysis_text.BUDGETS:
        w = profile.freeform(thresholds, budget)
        curves[f"free-form, budget {budget:g}"] = tada.interpolated(fine, levels=r, strengths=w)
    for budget in analysis_text.WEIGHTED_BUDGETS:
        w = profile.weighted(thresholds, budget)
        curves[f"weighted, budget {budget:g}"] = tada.interpolated(fine, levels=r, strengths=w)
    figure = Figure(figsize=(13, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for i, (label, y) in enumerate(curves.items()):
        color, marker, style = figures.look(i)
        look = dict(color=color, marker=marker, linestyle=style, markevery=20, markersize=4)
        left.plot(fine, y, **look, label=label)
    for i, op in enumerate(profile.names[1:]):
        color, marker, style = figures.look(i)
        w = profile.freeform(thresholds, name=op)
        look = dict(color=color, marker=marker, linestyle=style, markevery=20, markersize=4)
        right.plot(fine, tada.interpolated(fine, levels=r, strengths=w), **look, label=op)
    left.set(title="all operations together", ylabel="strength w [0..1]")
    right.set(title="each operation apart, budget 1")
    for axes in (left, right):
        _shade(axes, band)
        axes.set(xlabel=_X, ylim=(-0.03, 1.03))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
    figures.finish(figure, f"{dataset.name}, schedules: {_caption(profile)}")
    figure.savefig(path, dpi=110)


def gap_figure(path, found, thresholds, name):
    """The paper's Figure 1a, and what each proxy foretold of it."""
    from matplotlib.figure import Figure

    distances = list(next(iter(found.gaps.values())).base)
    figure = Figure(figsize=(4.6 * (len(distances) + 2), 4.4), layout="constrained")
    panels = figure.subplots(1, len(distances) + 2)
    band = next(iter(found.gaps.values())).profile().band(thresholds)
    for axes, distance in zip(panels, distances):
        for split, style in zip(found.gaps, ("-", "--")):
            gap = found.gaps[split]
            for who, values, color, marker in (
                ("base", gap.base[distance], BLUE, "o"),
                ("augmented", gap.augmented[distance], ORANGE, "s"),
                ("gap", gap.augmented[distance] - gap.base[distance], GREEN, "^"),
            ):
                look = dict(color=color, marker=marker, markersize=4, linestyle=style)
                axes.plot(gap.logsnr, values, **look, label=f"{who}, {split} images")
        axes.set(xlabel=_X, ylabel=f"distance of x0_hat from x0: {distance}")
    for axes, quantity, factor, label in (
        (panels[-2], "detectable", 1.0, "K [nats per nat of log SNR]"),
        (panels[-1], "visible", 100.0, "V [% of the variance]"),
    ):
        for split, marker in zip(found.gaps, ("o", "s")):
            gap = found.gaps[split]
            y = factor * getattr(gap.curve, quantity)
            axes.plot(
                gap.logsnr,
                y,
                color="black",
                marker=marker,
                markersize=5,
                linewidth=2,
                label=f"two networks, {split} images",
            )
        for i, (proxy, profile) in enumerate(found.profiles.items()):
            color, marker, style = figures.look(i)
            y = factor * getattr(profile.curves[ALL, 1.0], quantity)
            look = dict(color=color, marker=marker, markersize=4, linestyle=style)
            axes.plot(profile.logsnr, y, **look, label=proxy)
        axes.set(xlabel=_X, ylabel=label, yscale="log")
        axes.set_ylim(bottom=_LEAST_K if factor == 1.0 else _LEAST_V)
    for axes in panels:
        _shade(axes, band)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="x-small")
    counts = ", ".join(f"{gap.images:,} {split}" for split, gap in found.gaps.items())
    figures.finish(
        figure, f"{name}, a network trained without and one with augmentation: {counts} images"
    )
    figure.savefig(path, dpi=110)


def exchange_figure(path, found, config, dataset):
    """The paper's Figure 1b in numbers: leak against where the networks were exchanged."""
    from matplotlib.figure import Figure

    c = config.analyze
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    main = analysis_text.foremost(found.profiles, config, dataset)
    band = main.band(config.sensitivity.thresholds)
    measured = any(e.leak is not None for e in found.exchanges)
    for outside, color, marker, style in (
        ("base", BLUE, "o", "-"),
        ("augmented", ORANGE, "s", "--"),
    ):
        mine = [e for e in found.exchanges if e.outside == outside]
        swept = [e for e in mine if np.isclose(e.high - e.low, c.window)]
        x = [(e.low + e.high) / 2 for e in swept]
        look = dict(color=color, marker=marker, linestyle=style)
        inside = "augmented" if outside == "base" else "base"
        label = f"{outside}, and {inside} inside"
        right.plot(x, [e.moved for e in swept], **look, label=label)
        if measured:
            y = 100 * np.array([e.leak.share for e in swept])
            bounds = 100 * np.array([e.leak.interval for e in swept]).T
            left.errorbar(x, y, yerr=np.abs(bounds - y), capsize=2, **look, label=label)
            alone = next(e for e in mine if e.low == e.high)
            left.axhline(
                100 * alone.leak.share, color=color, linestyle=(0, (2, 2)), label=f"{outside} alone"
            )
    left.set(ylabel="leak [% of the good samples], 95% interval")
    right.set(ylabel="moved by, root mean square in [-1, 1]")
    for axes in (left, right):
        _shade(axes, band)
        axes.set(xlabel=f"middle of the exchanged interval of {c.window:g} nats, native log SNR")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figures.finish(
        figure,
        f"{dataset.name}: networks exchanged inside an interval, n = {c.count:,} samples each, "
        f"seed {config.sample.seed}",
    )
    figure.savefig(path, dpi=110)


def pictures_figure(path, found, pictures, config, name):
    """The same samples under the named exchanges, both directions."""
    from matplotlib.figure import Figure

    named = [e for e in found.exchanges if not np.isclose(e.high - e.low, config.analyze.window)]
    rows = np.concatenate([pictures[e.outside, e.low, e.high] for e in named])
    picture = figures.grid(rows, len(rows) // len(named))
    aspect = picture.shape[0] / picture.shape[1]
    figure = Figure(figsize=(11, 8.0 * aspect + 0.7), layout="constrained")
    axes = figure.subplots()
    axes.imshow(picture, cmap="gray", interpolation="nearest")
    height = picture.shape[0] / len(named)
    labels = []
    for e in named:
        inside = "augmented" if e.outside == "base" else "base"
        where = "" if e.low == e.high else f", {inside} in [{e.low:.1f}, {e.high:.1f})"
        leak = "" if e.leak is None else f" (leak [%]: {e.leak.text})"
        labels.append(f"{e.outside}{where}{leak}")
    axes.set_yticks([(i + 0.5) * height for i in range(len(named))], labels)
    axes.set_xticks([])
    figures.finish(
        figure,
        f"{name}: the same noise, networks exchanged inside an interval of log SNR "
        f"(n = {config.analyze.count:,}), seed {config.sample.seed}",
    )
    figure.savefig(path, dpi=110, bbox_inches="tight")  # the labels are long
