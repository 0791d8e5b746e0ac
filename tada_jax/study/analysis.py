"""`--mode=analyze`: which noise levels are sensitive, what schedules follow, and, of two networks,
whether it is so.

Without networks: the profile by each proxy of `config.analyze.proxies`. With two of them
(`config.analyze.base` and `.augmented`, or trained here for `config.analyze.train_steps`): the
paper's two experiments, and how well each proxy foretold the first. Everything goes to
`<workdir>/analysis/`.
"""

import numpy as np

from tada_jax.band import estimate, evidence
from tada_jax.metrics import features, lpips
from tada_jax.metrics.judge import Judge
from tada_jax.setup import fitted_strength as strengths
from tada_jax.setup import length, limits
from tada_jax.setup.plan import load_data
from tada_jax.study import analysis_report, analysis_text, two_networks
from tada_jax.system import backend
from tada_jax.system.errors import UserError
from tada_jax.system.paths import to_json, write_whole
from tada_jax.training import loop
from tada_jax.training import workdir as workdirs
from tada_jax.training.run import load_run

SWEPT = (-12.0, 10.0)  # log SNRs between which an exchanged interval is moved


def analyze(config, workdir, *, say=print):
    """Finds the sensitive band of a data set.

    Args:
      config: whose sections `data`, `augment`, `sensitivity` and `analyze` say of what, and how.
      workdir: folder.
      say: called with lines of text about the progress.

    Returns:
      An `analysis_text.Analysis`.

    Raises:
      UserError: if there is nothing to analyze, or the networks cannot be compared.
    """
    limits.check(config)
    c = config.analyze
    unknown = set(c.proxies) - set(estimate.PROXIES)
    if unknown or not c.proxies:
        raise UserError(
            f"config.analyze.proxies={tuple(c.proxies)} cannot be: name some of "
            f"{', '.join(estimate.PROXIES)}"
        )
    folder = workdirs.absolute(workdir) / "analysis"
    dataset = load_data(config)
    say(dataset.source)
    profiles = {}
    for proxy in c.proxies:
        found = strengths.profile_of(config, dataset, proxy=proxy, everything=True)
        say(strengths.summary(found))
        profiles[proxy] = found
    say(analysis_text.taken(config, dataset))
    gaps, exchanges, pictures = {}, [], {}
    pair = _networks(config, folder, say)
    if pair:
        gaps = _gaps(config, pair, dataset, profiles, say)
        say(analysis_text.proxy_table(profiles, gaps, config))
        exchanges, pictures = _exchanges(config, pair, dataset, profiles, say)
        if c.sweep:
            say(analysis_text.foretold_table(profiles, gaps, exchanges, config))
    text = analysis_text.whole(config, dataset, profiles, gaps, exchanges)
    found = analysis_text.Analysis(folder, profiles, gaps, exchanges, text)
    if backend.is_first():
        _write(found, config, dataset, pictures)
    return found


def _networks(config, folder, say):
    """The `two_networks.Pair` to compare, trained if need be; None if there is none."""
    c = config.analyze
    paths = [c.base, c.augmented]
    if (c.base is None) != (c.augmented is None):
        raise UserError("config.analyze: base and augmented belong together: name both, or neither")
    if c.base is None:
        if not c.train_steps:
            return None
        flips = config.augment.xflip_p > 0
        paths = []
        for name, method in (("base", "hflip" if flips else "none"), ("augmented", "constant")):
            own = config.copy_and_resolve_references().unlock()
            own.method, own.train.stop, own.log.metrics_every = method, "steps", 0
            length.put(own, c.train_steps)  # it may be "auto"
            say(f"training the {name} network: {method}, {c.train_steps:,} steps")
            state = loop.train(own.lock(), folder / name)
            if int(state.step) < c.train_steps:
                raise KeyboardInterrupt
            paths.append(folder / name)
    return two_networks.Pair(*(load_run(path) for path in paths))


def _distances(config, dataset):
    """{name: distance} of `config.analyze.distances`, and "pixel"."""
    found = {"pixel": two_networks.pixel_distance}
    for name in config.analyze.distances:
        if name == "features":
            extractor = Judge(config, dataset, dataset).extractor
            found[name] = two_networks.feature_distance(extractor, features.local_mesh())
        elif name == "lpips":
            found[name] = lpips.of_files(*config.analyze.lpips_weights)
        else:
            raise UserError(
                f"config.analyze.distances: {name!r} is unknown, choose of features, lpips"
            )
    return found


def _gaps(config, pair, dataset, profiles, say):
    """{"training", "held-out": Gap} of the two networks."""
    if dataset.train.images.shape[1:] != pair.parts.image_shape:
        raise UserError(f"{pair.base.workdir} was not trained on images of this shape")
    if pair.base.meta.get("image_digest") != dataset.digest:
        raise UserError(
            f"{dataset.source}: these are not the images that {pair.base.workdir} was trained on: "
            "set config.data, config.seed and config.data.train_size as they were"
        )
    logsnr = next(iter(profiles.values())).logsnr
    variance = float(evidence.moments(dataset.train.images)[1].sum())
    distances, gaps = _distances(config, dataset), {}
    for name, split in (("training", dataset.train), ("held-out", dataset.test)):
        count = min(config.analyze.images, len(split.images))
        if not count:
            continue
        chosen = np.arange(count) * len(split.images) // count
        labels = None if split.labels is None else split.labels[chosen]
        gaps[name] = two_networks.gap(
            pair, split.images[chosen], labels, logsnr, variance, distances=distances
        )
        band = analysis_text.band_text(gaps[name].profile(), config)
        say(f"two networks, {count:,} {name} images: {band}")
    return gaps


def _exchanges(config, pair, dataset, profiles, say):
    """The second experiment: named intervals, and a window over all noise levels."""
    c, ends = config.analyze, pair.parts.schedule.ends
    band = analysis_text.foremost(profiles, config, dataset).band(config.sensitivity.thresholds)
    low, high = float(np.floor(ends[0])) - 1.0, float(np.ceil(ends[1])) + 1.0
    named = [(0.0, 0.0), (low, high)]
    if band:
        named += [(low, band[0]), band, (band[1], high)]
    windows = []
    if c.sweep:
        middles = np.arange(max(low, SWEPT[0]), min(high, SWEPT[1]) + c.sweep / 2, c.sweep)
        windows = [(m - c.window / 2, m + c.window / 2) for m in middles.tolist()]
    batch_size = min(config.sample.batch_size, config.analyze.count)
    draw = two_networks.make_exchange(pair, pair.base.mesh, batch_size=batch_size)
    of_run = pair.augmented.config.copy_and_resolve_references().unlock()  # what may leak is its
    of_run.evaluate = config.evaluate
    judge = Judge(of_run.lock(), dataset, dataset, say=say)
    return two_networks.exchange(draw, judge, named + windows, c.count, config.sample.seed, say)


# The results


def _write(found, config, dataset, pictures):
    """Tables, numbers and figures."""
    folder = found.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "analysis.md", found.text)
        for proxy, profile in found.profiles.items():
            write_whole(folder / f"profile-{proxy}.json", profile.to_json())
        numbers = {"gaps": found.gaps, "exchanges": found.exchanges}
        write_whole(folder / "networks.json", to_json(numbers, indent=1) + "\n")
        analysis_report.draw(found, config, dataset, pictures)
    except OSError as e:
        raise UserError(f"{folder} cannot be written ({e.strerror}): free some space") from e
