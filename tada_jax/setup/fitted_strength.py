"""The strength's schedule, read off the sensitivity profile of the data set of a run.

`find` is what a run asks for at its start, once: the profile lies in the cache, under the hash of
the images, the augmentation and the settings, and the schedule in the run's own folder, so that
going on elsewhere cannot change it.
"""

import dataclasses
import json

import numpy as np

from tada_jax.band import estimate
from tada_jax.band import profile as profiles
from tada_jax.data.cache import digest, load_cached
from tada_jax.setup import build
from tada_jax.system import logs
from tada_jax.system.errors import UserError
from tada_jax.system.paths import to_json, write_whole

FILE = "sensitivity.json"  # in the folder of a run
_KEY = "3"  # of what a run's schedule is made from; to stay
_VERSION = "3"  # of the numbers; to be raised when the computation changes


@dataclasses.dataclass(frozen=True)
class Found:
    """A schedule that follows a profile.

    Attributes:
      schedule: {"r_rough", "r_fine"}, native log SNR, or {"levels" [R], "strengths" [R] or [R][K]}.
      about: a line of text about where it comes from.
      key: of the images and the settings that it is made from.
    """

    schedule: dict
    about: str
    key: str


def find(config, dataset, workdir=None, say=None):
    """The schedule of a run whose strength follows the profile.

    Args:
      config: the run's.
      dataset: its `data.Dataset`.
      workdir: the run's folder, where it may lie already.
      say: called with lines of text.

    Returns:
      A `Found`.

    Raises:
      UserError: if no noise level is sensitive, or nothing can be compared.
    """
    # Not `_VERSION`: a run keeps its schedule when the computation changes.
    settings = (config.tada.to_dict(), tuple(config.sensitivity.thresholds), _KEY)
    key = digest(_profile_key(config, dataset), to_json(settings, sort_keys=True))
    present = workdir and kept(workdir)
    if present and present.key == key:
        return present
    found = profile_of(config, dataset)
    if say:
        say(summary(found))
    schedule = schedule_of(found, config)
    about = f"{config.tada.schedule}, {describe(schedule)}"
    if say:
        say(about)
    return Found(schedule, about, key)


def keep(found, workdir):
    """Writes the schedule into the folder of a run, unless it lies there."""
    if kept(workdir) != found:
        write_whole(workdir / FILE, to_json(found, indent=1) + "\n")


def kept(workdir):
    """The `Found` in the folder of a run, or None if there is none that can be read."""
    try:
        return Found(**json.loads((workdir / FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def schedule_of(profile, config):
    """What `build.strength` needs of a `profile.Profile`.

    Raises:
      UserError: if the self-check of the profile fails, or the parabola has no band to be fitted
        to.
    """
    failure = profile.failure
    if failure:
        raise UserError(f"no sensitive band of these images: {failure}")
    c, thresholds = config.tada, config.sensitivity.thresholds
    if c.schedule in ("paper", "fitted"):
        band = profile.band(thresholds)
        if band is None:
            raise UserError(
                f"no noise level is sensitive to config.augment.ops={tuple(config.augment.ops)} at "
                f"config.sensitivity.thresholds={tuple(thresholds)}: lower them, or set "
                "config.method='constant', which then is harmless"
            )
        return {"r_rough": round(band[0], 3), "r_fine": round(band[1], 3)}
    if c.schedule == "freeform":
        w = profile.freeform(thresholds, c.budget)
    elif c.schedule == "weighted":
        w = profile.weighted(thresholds, c.budget)
    else:
        w = np.stack(
            [profile.freeform(thresholds, c.budget, name=op) for op in config.augment.ops], -1
        )
    return {"levels": profile.logsnr.tolist(), "strengths": np.round(w, 4).tolist()}


def describe(schedule):
    """A schedule in words."""
    if "levels" not in schedule:
        return f"sensitive band [{schedule['r_rough']:g}, {schedule['r_fine']:g}] in log SNR"
    w = np.array(schedule["strengths"]).reshape(len(schedule["levels"]), -1).mean(1)
    low = w.argmin()
    return f"weakest at log SNR {schedule['levels'][low]:g}, w = {w[low]:.3f}"


def profile_of(config, dataset, *, proxy=None, everything=False):
    """The `profile.Profile` of a data set, from the cache or computed, with a progress bar.

    Args:
      config: whose sections `augment`, `sensitivity` and `tada` say of what.
      dataset: a `data.Dataset`.
      proxy: instead of `config.sensitivity.proxy`.
      everything: all strengths and operations, not only those that the schedule needs.
    """
    c = config.sensitivity
    proxy = estimate.proxy_for(proxy or c.proxy, dataset.train.images.shape[1:])
    weaker = everything or config.tada.schedule in ("freeform", "weighted", "per_operation")
    operations = everything or config.tada.schedule == "per_operation"
    held_out = dataset.test.images if everything else None
    key = digest(
        _profile_key(config, dataset), proxy, repr((weaker, operations, everything)), _VERSION
    )

    def make(folder):
        found = estimate.profile(
            dataset.train.images,
            build.augmentation(config),
            proxy=proxy,
            strengths=estimate.STRENGTHS if weaker else (1.0,),
            operations=operations,
            held_out=held_out,
            queries=c.queries,
            copies=c.copies,
            seed=c.seed,
            progress=logs.bar(f"profile, {proxy}", unit="image"),
        )
        (folder / "profile.json").write_text(found.to_json())

    def load(folder):
        return profiles.from_json((folder / "profile.json").read_text())

    return load_cached(key, make, load, kind="sensitivity")


def _profile_key(config, dataset):
    """Names the images, the augmentation and the settings of a profile."""
    c = dict(config.sensitivity)
    c.pop("thresholds")
    held_out = digest(np.ascontiguousarray(dataset.test.images).tobytes())
    settings = {"augment": config.augment.to_dict(), "sensitivity": c, "held_out": held_out}
    return digest(dataset.digest, to_json(settings, sort_keys=True))


def summary(profile):
    """A line about a profile: of what, and whether the exact identities hold."""
    a, check = profile.about, profile.check
    return (
        f"sensitivity profile ({profile.proxy} posterior of {a['images']:,} images, "
        f"{a['queries']:,} queries, {a['copies']} copies, seed {a['seed']}, {a['seconds']:g} s): "
        f"by the exact posterior the integral of K is {check.integral:.2f} ± {check.error:.2f} "
        "nats, and must be "
        f"{check.divergence:.2f} ± {check.divergence_error:.2f} (without noise {check.limit:.2f})"
    ) + (f": {profile.failure}" if profile.failure else "")
