"""Two networks on the same noise levels, and `--mode=analyze` around them."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import tada_jax
from tada_jax.metrics import classifier
from tada_jax.model.sampler import make_sampler
from tada_jax.setup import build
from tada_jax.setup.plan import load_data
from tada_jax.study import two_networks
from tada_jax.system.errors import UserError
from tada_jax.training import loop
from tests import tiny


@pytest.fixture(scope="module")
def runs(finished):
    """(a run, the same with other parameters)."""
    run = tada_jax.load_run(finished[1])
    keys = iter(jax.random.split(jax.random.key(0), 999))
    other = jax.tree.map(lambda a: a + 0.3 * jax.random.normal(next(keys), a.shape), run.ema_params)
    return run, dataclasses.replace(run, ema_params=other)


@pytest.fixture(scope="module")
def images(finished):
    return load_data(finished[0]).train.images


def test_a_network_does_not_differ_from_itself_but_from_another(runs, images):
    r = np.arange(-6.0, 6.0)
    same = two_networks.gap(two_networks.Pair(runs[0], runs[0]), images[:9], None, r, 20.0)
    assert not same.curve.detectable.any()
    np.testing.assert_array_equal(same.base["pixel"], same.augmented["pixel"])
    pair = two_networks.Pair(*runs)
    distances = {"mean": lambda a, b: np.abs(a - b).mean((1, 2, 3))}
    gap = two_networks.gap(pair, images[:9], None, r, 20.0, distances=distances)
    assert gap.curve.visible.max() > 0.01 and list(gap.base) == ["mean"]
    np.testing.assert_allclose(
        gap.curve.detectable, 0.5 * np.exp(gap.logsnr) * gap.curve.visible * 20.0, rtol=1e-6
    )
    assert (np.diff(gap.logsnr) > 0).all() and np.abs(gap.logsnr - r[: len(gap.logsnr)]).max() < 2.0
    assert gap.profile().band((1e-9, 1e-9)) == (gap.logsnr[0], gap.logsnr[-1])


def test_more_images_than_a_batch_change_nothing(runs, images):
    pair, r = two_networks.Pair(*runs), np.array([0.0])
    many = np.resize(images, (100, *images.shape[1:]))
    noise = np.random.default_rng(0).normal(size=many.shape).astype(np.float32)
    args = (runs[0].ema_params, many / 127.5 - 1.0, noise, None, 3)
    whole, parts = (two_networks.denoiser(pair.parts, b)(*args) for b in (100, 32))
    np.testing.assert_allclose(whole, parts, atol=1e-5)
    assert two_networks.gap(pair, many, None, r, 1.0).images == 100


def test_who_draws_everything_or_nothing_is_who_draws(runs):
    pair = two_networks.Pair(*runs)
    draw = two_networks.make_exchange(pair, runs[0].mesh, batch_size=8)
    sampler = make_sampler(pair.parts, runs[0].mesh, batch_size=8)
    base, other = (sampler(p, range(5), seed=2) for p in pair.params)
    assert (base != other).any()
    np.testing.assert_array_equal(draw("base", 0.0, 0.0, 5, 2), base)
    np.testing.assert_array_equal(draw("base", -99.0, 99.0, 5, 2), other)
    np.testing.assert_array_equal(draw("augmented", -99.0, 99.0, 5, 2), base)
    both = draw("base", -99.0, 0.0, 5, 2)
    np.testing.assert_array_equal(both, draw("augmented", 0.0, 99.0, 5, 2))
    assert (both != base).any() and (both != other).any()


def test_a_network_that_was_told_of_its_augmentation_compares_too(runs):
    config = tiny.config("ar")
    parts = build.parts(config, (8, 8, 1))
    params = tiny.params(parts)
    told = dataclasses.replace(runs[0], config=config, parts=parts, ema_params=params)
    for pair in (two_networks.Pair(runs[0], told), two_networks.Pair(told, runs[0])):
        assert jax.tree.structure(pair.params[0]) == jax.tree.structure(pair.params[1])
        draw = jax.eval_shape(
            pair.parts.apply, pair.params[0], jnp.zeros((1, 8, 8, 1)), jnp.zeros(1)
        )
        assert draw.shape == (1, 8, 8, 2)


def test_networks_that_were_trained_otherwise_are_refused(runs):
    config = runs[0].config.copy_and_resolve_references().unlock()
    config.schedule.name = "linear"
    with pytest.raises(UserError, match="config.schedule"):
        two_networks.Pair(runs[0], dataclasses.replace(runs[0], config=config))
    others = dataclasses.replace(runs[0], meta=runs[0].meta | {"image_digest": "of others"})
    with pytest.raises(UserError, match="trained on different images"):
        two_networks.Pair(runs[0], others)


def _analysed(**fields):
    small = {
        "augment__ops": tiny.MOVES,
        "sensitivity__queries": 16,
        "sensitivity__copies": 1,
        "analyze__proxies": ("exact",),
        "analyze__images": 20,
        "analyze__count": 50,
        "evaluate__fit_steps": 2,
        "sensitivity__thresholds": (1e-4, 1e-4),
    }
    return tiny.config(**small | fields)


def test_an_analysis_leaves_tables_numbers_and_figures(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path / "cache"))
    other = tmp_path / "other"
    loop.train(tiny.config("constant", optimizer__learning_rate=0.02), other)
    networks = {"analyze__base": str(finished[1]), "analyze__augmented": str(other)}
    config = _analysed(analyze__distances=("features",), analyze__sweep=6.0, **networks)
    steps, real = set(), classifier.fit
    monkeypatch.setattr(classifier, "fit", lambda *a, **k: steps.add(k["steps"]) or real(*a, **k))
    said = []
    found = tada_jax.analyze(config, tmp_path / "run", say=said.append)
    taken = "config.tada.band=auto follows the profile by the local proxy"  # of small images
    assert taken in said and taken in found.text
    assert steps == {2}  # of this configuration, not of the runs
    assert (found.folder / "analysis.md").read_text() == found.text
    assert "--config.tada.r_rough=" in found.text and "| two networks |" in found.text
    numbers = json.loads((found.folder / "networks.json").read_text())
    assert max(numbers["gaps"]["held-out"]["curve"]["detectable"]) > 1e-3
    moved = {
        (e.outside, e.high - e.low > 20): e.moved
        for e in found.exchanges
        if e.high == e.low or e.high - e.low > 20
    }
    for outside in ("base", "augmented"):  # nowhere, and everywhere
        assert moved[outside, False] == 0.0 and moved[outside, True] > 0.01
    for name in ("profile-exact", "schedules", "gap", "exchange", "exchange_samples"):
        with Image.open(found.folder / f"{name}.png") as picture:
            assert picture.width > 500


def test_an_analysis_of_other_images_than_the_networks_is_refused(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path / "cache"))
    networks = {name: str(runs[0].workdir) for name in ("analyze__base", "analyze__augmented")}
    config = _analysed(data__train_size=60, **networks)
    with pytest.raises(UserError, match="not the images that .* was trained on"):
        tada_jax.analyze(config, tmp_path / "run", say=lambda text: None)


def test_an_analysis_trains_two_networks_if_told_to(tmp_path, monkeypatch):
    monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path / "cache"))
    trained = {}

    def train(config, workdir):
        trained[workdir.name] = (config.method, config.train.total_steps)
        raise KeyboardInterrupt if len(trained) == 2 else UserError("enough")

    monkeypatch.setattr(loop, "train", train)
    with pytest.raises(UserError, match="enough"):
        tada_jax.analyze(_analysed(analyze__train_steps=7), tmp_path / "run")
    assert trained == {"base": ("none", 7)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"analyze__proxies": ("guess",)}, "analyze.proxies"),
        ({"analyze__base": "/nowhere"}, "belong together"),
        ({"analyze__base": "/nowhere", "analyze__augmented": "/nowhere"}, "/nowhere holds no run"),
        ({"augment__ops": ()}, "augment.ops is empty"),
        ({"analyze__count": 3}, "analyze.count=3"),
    ],
)
def test_an_analysis_that_cannot_be_is_refused(fields, message, tmp_path, monkeypatch):
    monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=message):
        tada_jax.analyze(_analysed(**fields), tmp_path / "run", say=lambda text: None)
    assert not (tmp_path / "run").exists()
