"""Runs whose strength follows the profile of their data set."""

import json
import shutil

import numpy as np
import pytest

import tada_jax
from tada_jax.band import estimate
from tada_jax.band.profile import ALL, Check, Curve, Profile
from tada_jax.setup import fitted_strength as strengths
from tada_jax.setup import limits
from tada_jax.setup.plan import plan
from tada_jax.study import analysis_text
from tada_jax.system.errors import UserError
from tada_jax.training import loop
from tests import tiny

SMALL = {"sensitivity__proxy": "exact", "sensitivity__queries": 16, "sensitivity__copies": 1}
SMALL["augment__ops"] = tiny.MOVES


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path / "cache"))


def config(**fields):
    return tiny.config(**SMALL | fields)


def _strength(planned, r):
    return np.asarray(planned.parts.strength(np.asarray(r, np.float32)))


def test_an_automatic_band_is_that_of_the_profile():
    for fields in ({"tada__band": "auto"}, {"tada__schedule": "fitted"}):
        planned = plan(config(**fields))
        found = planned.schedule.schedule
        profile = strengths.profile_of(planned.config, planned.dataset)
        assert profile.about["queries"] == 16
        band = profile.band(planned.config.sensitivity.thresholds)
        assert [found["r_rough"], found["r_fine"]] == pytest.approx(band, abs=1e-3)
        # The parabola of the paper, at the band's ends and in its middle, in native log SNR.
        middle = sum(band) / 2
        np.testing.assert_allclose(_strength(planned, [*band, middle]), [0.1, 0.1, 0], atol=2e-3)


def test_schedules_of_the_profile_and_of_each_operation():
    free = plan(config(tada__schedule="freeform"))
    apart = plan(config(tada__schedule="per_operation"))
    profile = strengths.profile_of(apart.config, apart.dataset)
    thresholds, r = apart.config.sensitivity.thresholds, profile.logsnr
    np.testing.assert_allclose(
        _strength(free, r),
        strengths.profile_of(free.config, free.dataset).freeform(thresholds),
        atol=1e-3,
    )
    weighted = plan(config(tada__schedule="weighted", tada__budget=4.0))
    whole = strengths.profile_of(weighted.config, weighted.dataset)
    np.testing.assert_allclose(_strength(weighted, r), whole.weighted(thresholds, 4.0), atol=1e-3)
    w = _strength(apart, r)
    assert w.shape == (len(r), 3)
    for own, op in zip(w.T, apart.config.augment.ops):
        np.testing.assert_allclose(own, profile.freeform(thresholds, name=op), atol=1e-3)
    assert np.ptp(w, axis=1).max() > 0.1  # operations differ


def test_a_larger_budget_is_a_stronger_schedule():
    weak, strong = (
        plan(config(tada__schedule="freeform", tada__budget=budget)) for budget in (0.1, 10.0)
    )
    r = np.linspace(-6, 6, 50)
    assert (_strength(weak, r) <= _strength(strong, r) + 1e-6).all()
    assert _strength(weak, r).min() < _strength(strong, r).min()


def test_the_profile_is_computed_once_for_the_same_images_and_settings(monkeypatch):
    calls, real = [], estimate.profile
    monkeypatch.setattr(
        estimate, "profile", lambda *a, **k: calls.append(k["proxy"]) or real(*a, **k)
    )
    plan(config(tada__band="auto"))
    plan(config(tada__band="auto", sensitivity__thresholds=(0.1, 0.1)))
    assert len(calls) == 1
    for other in ({"data__train_size": 49}, {"augment__p": 0.5}, {"sensitivity__seed": 1}):
        plan(config(tada__band="auto", **other))
    assert len(calls) == 4


def test_a_run_trains_keeps_its_schedule_and_is_loaded(tmp_path, monkeypatch):
    c = config(tada__schedule="per_operation", train__total_steps=3)
    first = loop.train(c, tmp_path / "run")
    kept = json.loads((tmp_path / "run" / strengths.FILE).read_text())
    assert len(kept["schedule"]["levels"]) == len(kept["schedule"]["strengths"])
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(estimate, "profile", None)  # nothing is computed again
    more = tiny.config(**SMALL | {"tada__schedule": "per_operation", "train__total_steps": 4})
    assert int(loop.train(more, tmp_path / "run").step) == int(first.step) + 1
    planned = plan(more, tmp_path / "run")  # as an evaluation looks at it
    assert planned.schedule.schedule == kept["schedule"]
    assert len(tada_jax.load_run(tmp_path / "run").sample(2)) == 2


def test_a_table_is_taken_as_it_stands():
    table = ((-4.0, 1.0), (-1.0, 0.0), (3.0, 0.5))
    planned = plan(tiny.config(tada__schedule="table", tada__table=table))
    np.testing.assert_allclose(
        _strength(planned, [-9, -4, -2.5, -1, 1, 3, 9]), [1, 1, 0.5, 0, 0.25, 0.5, 0.5], atol=1e-6
    )
    each = ((0.0, (1.0, 0.5, 0.0)),)
    apart = {"tada__schedule": "table", "tada__table": each, "augment__ops": tiny.MOVES}
    planned = plan(tiny.config(**apart))
    np.testing.assert_allclose(_strength(planned, [3.0]), [[1.0, 0.5, 0.0]])
    constant = plan(tiny.config(tada__schedule="constant", constant_strength=0.3))
    np.testing.assert_allclose(_strength(constant, [-9, 9]), 0.3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tada__schedule": "fit"}, "tada.schedule='fit'.*fitted"),
        ({"tada__band": "yes"}, "tada.band='yes'"),
        ({"tada__budget": -1.0}, "tada.budget=-1"),
        ({"tada__schedule": "table"}, "config.tada"),
        ({"tada__schedule": "table", "tada__table": (1.0, 2.0)}, "config.tada.table"),
        ({"tada__schedule": "table", "tada__table": ((1.0, 2.0),)}, "lie in"),
        ({"tada__schedule": "table", "tada__table": ((1.0, 0.5), (0.0, 1.0))}, "ascend"),
        ({"tada__schedule": "table", "tada__table": ((1.0, (0.5, 0.5)),)}, "3 operations"),
        ({"tada__band": "auto", "augment__ops": ()}, "augment.ops is empty"),
        ({"tada__band": "auto", "sensitivity__thresholds": (9.0, 9.0)}, "no noise level"),
        ({"sensitivity__thresholds": (1.0,)}, "sensitivity.thresholds"),
        ({"sensitivity__proxy": "oracle"}, "sensitivity.proxy='oracle'"),
        ({"sensitivity__queries": 1}, "sensitivity.queries=1"),
    ],
)
def test_what_cannot_be_is_refused_with_the_field(fields, message, tmp_path):
    with pytest.raises(UserError, match=message) as e:
        loop.train(config(**fields), tmp_path / "run")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "run").exists()


def test_the_proxy_goes_by_the_size_of_the_images():
    chosen = [estimate.proxy_for("auto", (side, side, 3)) for side in (8, 31, 32, 256)]
    assert chosen == ["local", "local", "wiener", "wiener"]
    assert estimate.proxy_for("exact", (64, 64, 3)) == "exact"
    planned = plan(config(tada__band="auto", sensitivity__proxy="auto"))
    assert strengths.profile_of(planned.config, planned.dataset).proxy == "local"


def test_only_a_method_that_follows_the_profile_computes_one():
    for method in ("none", "hflip", "constant"):
        assert not limits.follows_profile(_of(method))
    assert limits.follows_profile(_of("tada"))


def _of(method):
    c = config(tada__band="auto")
    c.method = method
    return c


@pytest.mark.parametrize(
    ("integral", "divergence", "error", "holds"),
    [(1.44, 1.60, 0.11, True), (1.87, 1.61, 0.11, True), (0.72, 1.61, 0.11, False)],
)
def test_where_the_self_check_fails_there_is_no_band(integral, divergence, error, holds):
    settings, one = config(tada__band="auto"), np.ones(3)
    curves = {(ALL, 1.0): Curve(one, one, one, one)}
    check = Check(integral, divergence, 1.61, error, 0.0, 1.0)
    about = {"images": 2, "queries": 2, "copies": 1, "seed": 0, "seconds": 1.0}
    profile = Profile(np.arange(3.0), (1.0,), curves, "exact", check, about=about)
    assert ("self-check fails" in strengths.summary(profile)) != holds
    flags = analysis_text.config_line(profile, settings.sensitivity.thresholds)
    if holds:
        assert strengths.schedule_of(profile, settings)["r_fine"] == 2.0 and flags
    else:
        assert flags is None and profile.band((0.1, 0.1)) is None
        with pytest.raises(UserError, match="self-check fails.*0.72.*1.61.*more images"):
            strengths.schedule_of(profile, settings)
