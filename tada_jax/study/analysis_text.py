"""What `--mode=analyze` found, in words and tables."""

import dataclasses
import pathlib

import numpy as np

from tada_jax.band import estimate
from tada_jax.band.profile import ALL, Profile
from tada_jax.setup import fitted_strength as strengths
from tada_jax.study import two_networks

BUDGETS = (0.25, 1.0, 4.0)  # of the free-form schedules that are drawn

WEIGHTED_BUDGETS = (4.0, 16.0)  # of the weighted ones


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What was found.

    Attributes:
      folder: with the files.
      profiles: {proxy: `profile.Profile`}.
      gaps: {"training" or "held-out": `two_networks.Gap`}; empty without networks.
      exchanges: of `two_networks.exchange`; empty without networks.
      text: all of it for readers.
    """

    folder: pathlib.Path
    profiles: dict[str, Profile]
    gaps: dict[str, two_networks.Gap]
    exchanges: list[two_networks.Exchange]
    text: str


def foremost(profiles, config, dataset):
    """The profile by the proxy that runs on the data set use, or the first."""
    proxy = estimate.proxy_for(config.sensitivity.proxy, dataset.train.images.shape[1:])
    return profiles.get(proxy, next(iter(profiles.values())))


def taken(config, dataset):
    """Which of several profiles runs follow, in words."""
    proxy = estimate.proxy_for(config.sensitivity.proxy, dataset.train.images.shape[1:])
    return f"config.tada.band=auto follows the profile by the {proxy} proxy"


def correlations(profile, gap, thresholds):
    """How a profile's curves follow those of two networks over log SNR, Pearson's correlations.

    Returns:
      {"risk", "ln K", "ln V": correlation}; logarithms end at a tenth of the threshold, below which
      nothing depends on a value.
    """
    mine, theirs = profile.curves[ALL, 1.0], gap.curve

    def at(values):
        return np.interp(gap.logsnr, profile.logsnr, values)

    found = {"risk": _pearson(at(profile.risk(thresholds)), gap.profile().risk(thresholds))}
    for name, quantity, threshold in zip(
        ("ln K", "ln V"), ("detectable", "visible"), thresholds, strict=True
    ):
        logs = [
            np.log(np.maximum(values, threshold / 10))
            for values in (at(getattr(mine, quantity)), getattr(theirs, quantity))
        ]
        found[name] = _pearson(*logs)
    return found


def _pearson(a, b):
    """The correlation coefficient; NaN where one of them does not vary."""
    a, b = (np.asarray(x) - np.mean(x) for x in (a, b))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")


def overlap(a, b):
    """Length of the common part of two intervals over that of both together; 0 without either."""
    if a is None or b is None:
        return 0.0
    common = min(a[1], b[1]) - max(a[0], b[0])
    return max(common, 0.0) / (max(a[1], b[1]) - min(a[0], b[0]))


def band_text(profile, config, name=ALL):
    """The sensitive band of a `Profile`, or why there is none."""
    if profile.failure:
        return "no band, the self-check fails"
    band = profile.band(config.sensitivity.thresholds, name=name)
    return (
        "no sensitive level" if band is None else f"sensitive band [{band[0]:.2f}, {band[1]:.2f}]"
    )


def proxy_table(profiles, gaps, config):
    """Markdown: how well each proxy foretold the gap of two trained networks."""
    thresholds = config.sensitivity.thresholds
    lines = [
        "| proxy | band | against | overlap | correlation of the risk | of ln K | of ln V |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, gap in gaps.items():
        theirs = gap.profile().band(thresholds)
        lines.append(f"| two networks | {_cell(theirs)} | {name} images | | | | |")
        for proxy, profile in profiles.items():
            band = profile.band(thresholds)
            found = correlations(profile, gap, thresholds)
            lines.append(
                f"| {proxy} | {_cell(band)} | {name} images | {overlap(band, theirs):.2f} | "
                + " | ".join(f"{value:.3f}" for value in found.values())
                + " |"
            )
    return "\n".join(lines)


def foretold_table(profiles, gaps, exchanges, config):
    """Markdown: whether the risk of each profile foretold what exchanging an interval changed."""
    c, rows = config.analyze, []
    known = {f"two networks, {name} images": gap.profile() for name, gap in gaps.items()}
    for name, profile in (known | profiles).items():
        cells = []
        for outside in ("base", "augmented"):
            mine = [e for e in exchanges if e.outside == outside]
            alone = next(e for e in mine if e.low == e.high)
            judged = alone.leak and not alone.leak.reason
            swept = [e for e in mine if judged and not e.leak.reason]
            swept = [e for e in swept if np.isclose(e.high - e.low, c.window)]
            at = [(e.low + e.high) / 2 for e in swept]
            swept = [e for e, r in zip(swept, at) if profile.logsnr[0] <= r <= profile.logsnr[-1]]
            changed = [abs(e.leak.share - alone.leak.share) for e in swept]
            risks = [_mean_risk(profile, e.low, e.high, config) for e in swept]
            cells.append(f"{_pearson(risks, changed):.3f}" if len(swept) > 2 else "")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    head = ["| risk by | base, augmented inside | augmented, base inside |", "|---|---|---|"]
    return "\n".join(head + rows)


def _mean_risk(profile, low, high, config):
    """Of the levels in an interval."""
    r = np.linspace(max(low, profile.logsnr[0]), min(high, profile.logsnr[-1]), 33)
    risk = profile.risk(config.sensitivity.thresholds)
    return float(np.interp(r, profile.logsnr, risk).mean())


def _cell(band):
    return "none" if band is None else f"[{band[0]:.2f}, {band[1]:.2f}]"


def _curves_table(profile):
    """Markdown: K and V of the policy and its operations at w = 1, at whole levels."""
    chosen = np.flatnonzero(np.isclose(profile.logsnr, np.round(profile.logsnr)))
    levels = [f"{profile.logsnr[i]:.0f}" for i in chosen]
    lines = [f"| | r = {' | '.join(levels)} |", "|---" * (len(chosen) + 1) + "|"]
    for name in profile.names:
        curve = profile.curves[name, 1.0]
        lines.append(f"| {name}, V [%] | {_row(100 * curve.visible[chosen], 1)} |")
        lines.append(f"| K [nats] | {_row(curve.detectable[chosen], 2)} |")
    return "\n".join(lines)


def _row(values, digits):
    return " | ".join(f"{value:.{digits}f}" for value in values)


def config_line(profile, thresholds):
    """The flags that make a run follow the band of a profile; None without a band to rely on."""
    band = profile.band(thresholds)
    if band is None:
        return None
    return (
        f"--config.tada.r_rough={band[0]:.2f} --config.tada.r_fine={band[1]:.2f} "
        "--config.tada.calibration=none"
    )


def whole(config, dataset, profiles, gaps, exchanges):
    """Everything for readers, Markdown."""
    thresholds = config.sensitivity.thresholds
    lines = [
        f"# Sensitivity of {dataset.name} to {', '.join(config.augment.ops)}",
        "",
        f"{dataset.source}. A level is sensitive where K >= {thresholds[0]:g} nats and "
        f"V >= {100 * thresholds[1]:g}%. Here {taken(config, dataset)}.",
        "",
    ]
    for proxy, profile in profiles.items():
        lines += [
            f"## {proxy}",
            "",
            strengths.summary(profile) + ".",
            "",
            _curves_table(profile),
            "",
        ]
        for name in profile.names:
            lines.append(f"- {name}: {band_text(profile, config, name)}")
        line = config_line(profile, thresholds)
        without = f"No band: {profile.failure}." if profile.failure else "No level is sensitive."
        lines += ["", f"    {line}" if line else without, ""]
    if gaps:
        lines += ["## Two trained networks", "", proxy_table(profiles, gaps, config), ""]
    if exchanges:
        lines += [
            "## One network inside an interval, the other outside",
            "",
            _exchange_table(exchanges),
            "",
        ]
    if exchanges and config.analyze.sweep:
        lines += [
            "Correlation of an interval's mean risk with how far exchanging it moved the leak:",
            "",
            foretold_table(profiles, gaps, exchanges, config),
        ]
    return "\n".join(lines) + "\n"


def _exchange_table(exchanges):
    lines = [
        "| outside | inside | interval of log SNR | leak [%] | Frechet distance | moved by |",
        "|---|---|---|---|---|---|",
    ]
    inside = {"base": "augmented", "augmented": "base"}
    for e in exchanges:
        leak = ""
        if e.leak is not None:
            leak = e.leak.text
        where = "nowhere" if e.low == e.high else f"[{e.low:.2f}, {e.high:.2f})"
        lines.append(
            f"| {e.outside} | {inside[e.outside]} | {where} | {leak} | {e.fd:.2f} | {e.moved:.3f} |"
        )
    return "\n".join(lines)
