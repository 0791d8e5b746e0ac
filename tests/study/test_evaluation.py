"""A run measured: what is written, what is refused, and the numbers that appear while it trains."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import tada_jax
from tada_jax import data
from tada_jax.data.base import Dataset, Rows, Split
from tada_jax.metrics import features, judge, memorisation
from tada_jax.metrics import judge as judges
from tada_jax.model.sampler import make_sampler
from tada_jax.setup.plan import plan
from tada_jax.study import evaluation
from tada_jax.study import samples as sample_files
from tada_jax.system import backend, logs
from tada_jax.system.errors import UserError
from tada_jax.training import loop, observe
from tada_jax.training.alarm import copying, entering
from tests import tiny


def config(**fields):
    small = {"evaluate__count": 50, "evaluate__fit_steps": 2}
    return tiny.config(**{"augment__ops": tiny.MOVES} | small | fields)


@pytest.fixture(scope="module")
def measured(finished_moves, tmp_path_factory):
    """(config, workdir, result) of a small run."""
    workdir = tmp_path_factory.mktemp("measured") / "run"
    shutil.copytree(finished_moves[1], workdir)
    return config(), workdir, tada_jax.evaluate(config(), workdir)


def test_everything_is_measured_against_training_and_held_out_images(measured):
    _, workdir, result = measured
    numbers = result.numbers
    for reference in ("train", "held_out", "all"):
        for name in ("fd", "kid", "precision", "recall", "density", "coverage", "swd"):
            assert np.isfinite(numbers[f"{name}/{reference}"].value)
    for name in ("copies", "copy_margin", "authentic", "neither", "fd_leak", "gap"):
        assert np.isfinite(numbers[name].value)
    assert numbers["leak"].value <= 1 or numbers["leak"].note  # a network of 6 steps draws noise
    for op in ("scale", "rotate_frac", "translate_frac"):
        assert f"moment/{op}" in numbers
    assert numbers["fd/train"].reference == "training images (50)"
    assert numbers["fd/held_out"].reference == "held-out images (180)"
    assert numbers["fd/all"].reference == "all images (1,797)"
    assert {n.n for key, n in numbers.items() if "/" in key and key[:2] == "fd"} == {50}
    assert "biased upwards" in numbers["fd/held_out"].note  # 50 samples, 128 features
    # 50 training images stand in for 50 samples; a few of the held-out ones, for all of them.
    assert all(n.real_n is None for n in numbers.values())
    assert numbers["gap"].n == 180 and "noised 1,024 times" in numbers["gap"].note
    assert any(key.startswith("gap/") for key in numbers)
    assert result.seconds.keys() >= {"sampling", "memorisation", "leakage"}
    for number in numbers.values():
        assert number.n and number.reference and number.extractor


def test_the_files_say_how_every_number_came_about(measured):
    _, workdir, result = measured
    assert result.folder == workdir / "evaluation" / "ddim5even_eta0_ema_step0000006_seed0"
    text = (result.folder / "table.txt").read_text()
    for fact in (
        "tada, 50 training images, seed 0, step 6, EMA of decay 0.998",
        "50 samples, ddim eta 0, 5 steps (even), sample seed 0",
        "Frechet distance",
        "held-out images (180)",
        "classifier (labels)",
        "P(real)/P(augmented)/P(neither)",
    ):
        assert fact in text
    saved = json.loads((result.folder / "metrics.json").read_text())
    assert saved["protocol"]["extractor"] == "classifier (labels)"
    assert saved["protocol"]["settings"]["fit_steps"] == 2
    again = evaluation.read_result(result.folder)
    for key, number in result.numbers.items():
        assert again.numbers[key] == number or np.isnan(number.value), key
    with Image.open(result.folder / "nearest.png") as image:
        assert min(image.size) > 200
    assert len(list((workdir / "samples" / result.folder.name).glob("*.png"))) == 50


def test_an_evaluation_repeated_is_the_same_and_draws_nothing_again(measured, monkeypatch):
    settings, workdir, result = measured
    drawn = []
    monkeypatch.setattr(sample_files, "make_sampler", lambda *a, **k: drawn.append(1))
    again = tada_jax.evaluate(settings, workdir)
    assert not drawn
    assert again.to_json().partition('"seconds"')[0] == result.to_json().partition('"seconds"')[0]


def test_another_extractor_is_one_function(measured):
    settings, workdir, _ = measured
    found = tada_jax.evaluate(
        settings, workdir, extractor=lambda images: images.reshape(len(images), -1)[:, ::9]
    )
    assert found.protocol["extractor"] == "<lambda>"
    assert np.isfinite(found.numbers["fd/train"].value)
    pixels = config(evaluate__extractor="pixels")
    assert tada_jax.evaluate(pixels, workdir).protocol["extractor"].startswith("pixels")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"evaluate__count": 20}, "evaluate.count=20 cannot be: it must be at least 50"),
        ({"evaluate__extractor": "inception"}, "config.evaluate.weights names no file"),
        (
            {"evaluate__extractor": "inception", "evaluate__weights": "nowhere.pth"},
            "nowhere.pth",
        ),
        ({"evaluate__extractor": "inceptoin"}, "no file"),
        ({"evaluate__convention": "torch"}, "convention"),
        ({"evaluate__count": 0}, "evaluate.count"),
        ({"sample__checkpoint": "5"}, "no checkpoint '5'"),
        ({"sample__ema_width": 0.1}, "config.ema.widths"),
        ({"data__train_size": 60}, "data.train_size"),
        ({"data__test_fraction": 0.001}, "data.test_fraction"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_line(measured, fields, message):
    _, workdir, _ = measured
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        tada_jax.evaluate(config(**fields) if fields else None, workdir)
    assert "\n" not in str(caught.value)


def test_measuring_needs_a_run_and_held_out_images(tmp_path, finished_moves):
    with pytest.raises(UserError, match="no run"):
        tada_jax.evaluate(config(), tmp_path)
    bare = config(data__test_fraction=0.0)
    with pytest.raises(UserError, match="needs at least 10 held-out images, and there are 0"):
        judges.of_plan(plan(bare))


def test_samples_that_are_not_finite_are_refused(finished_moves):
    settings, _, state = finished_moves
    parts = plan(settings).parts
    mesh = backend.data_mesh(8)
    draw = make_sampler(parts, mesh, batch_size=8)
    broken = jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), state.params)
    with pytest.raises(UserError, match="sample 3 is not finite"):
        draw(broken, range(3, 9), seed=0)


def test_unlabelled_images_are_measured_through_their_augmentation(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (90, 9, 12, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    settings = config(
        data__name="images",
        data__path=str(tmp_path / "images.npy"),
        data__train_size=None,
        data__test_fraction=0.3,
        augment__ops=("hue", "translate_frac"),
        augment__xflip_p=0.5,
    )
    made = judges.of_plan(plan(settings))
    assert made.extractor.name == "classifier (augmentation)" and "all" not in made.images
    found, _ = made.measure(images[:60])
    assert found["copies"].reference.endswith("and their mirror images")
    assert {"moment/hue", "moment/translate_frac", "leak"} <= found.keys()
    assert found["copies"].value > 0.6  # all but those that are held out
    assert found["density/held_out"].note.startswith("balls around so few")  # 27
    assert not found["density/train"].note.startswith("balls around so few")


def test_a_run_without_augmentation_to_leak_is_measured_too():
    made = judges.of_plan(plan(config(augment__ops=())))
    found, _ = made.measure(made.images["held_out"][:60])
    assert "leak" not in found and "fd_leak" not in found and found["copies"].value < 0.05
    assert "leak" not in made.glance(made.images["held_out"][:60])


def test_a_glance_draws_its_neighbours_from_a_set_in_order_of_class(tmp_path, monkeypatch):
    found = data.load("digits", test_fraction=0.0).train
    order = np.argsort(found.labels, kind="stable")
    np.savez(tmp_path / "sorted.npz", images=found.images[order], labels=found.labels[order])
    fields = {"data__name": "images", "data__path": str(tmp_path / "sorted.npz")}
    fields |= {"data__train_size": None, "augment__ops": (), "evaluate__extractor": "pixels"}
    monkeypatch.setattr(judge, "GLANCE_IMAGES", 150)  # the first 150 are noughts
    made = judges.of_plan(plan(config(**fields)))
    real = made.images["train"][::4]  # a tenth of them are among the 150, at distance 0
    assert made.glance(real)["copy_margin"] == pytest.approx(0.95, abs=0.12)
    noughts = memorisation.gallery(made.images["train"][:150])
    others = memorisation.gallery(made.images["held_out"])
    assert memorisation.copy_margin(real, noughts, others) > 1.2


def test_too_few_images_are_no_traceback(tmp_path):
    same = np.zeros((40, 8, 8, 1), np.uint8)
    np.save(tmp_path / "images.npy", same)
    fields = {"data__name": "images", "data__path": str(tmp_path / "images.npy")}
    fields |= {"data__train_size": None, "data__test_fraction": 0.5}
    with pytest.raises(UserError, match="6 different training images"):
        judges.of_plan(plan(config(**fields)))


# While training


def test_too_few_held_out_images_stop_no_training(tmp_path, capsys):
    settings = tiny.config(data__test_fraction=0.0, log__metrics_every=3, train__total_steps=3)
    assert int(loop.train(settings, tmp_path).step) == 3
    assert "no quick metrics" in capsys.readouterr().err


@pytest.mark.parametrize("best", ["test_mse", "fd"])
def test_pictures_that_cannot_be_measured_are_trained_on(best, tmp_path, monkeypatch, capsys):
    """Five pictures, repeated 24 times each: a warning, and no quick metrics."""
    monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path / "cache"))
    five = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "five.npz", x=np.repeat(five, 24, 0))
    settings = tiny.config(
        data__name="images",
        data__path=str(tmp_path / "five.npz"),
        log__metrics_every=2,
        log__best_metric=best,
        train__total_steps=2,
    )
    assert int(loop.train(settings, tmp_path / "run").step) == 2
    shown = capsys.readouterr().err
    assert "no quick metrics of samples: measuring needs at least 6 different" in shown


def a_set(train, held_out):
    train, held_out = (Split(np.asarray(x, np.uint8), None) for x in (train, held_out))
    return data.Dataset("degenerate", train, held_out, 0, "degenerate images")


def test_a_set_on_disk_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path / "cache"))
    shape = (2200, 128, 128, 1)  # 36 MB
    on_disk = np.memmap(tmp_path / "images", np.uint8, "w+", shape=shape)
    on_disk[:] = np.random.default_rng(0).integers(0, 256, (shape[0], 1, 1, 1), np.uint8)
    on_disk[:, ::2, ::3] += np.random.default_rng(1).integers(0, 99, (2200, 64, 43, 1), np.uint8)
    read = []

    class Counting(Rows):
        def __getitem__(self, index):
            found = super().__getitem__(index)
            read.append(found.nbytes)
            return found

    train = Counting(on_disk, np.arange(2150))
    held_out = Split(np.asarray(on_disk[2150:]), None)
    images = data.Dataset("on disk", Split(train, None), held_out, 0, "on disk")
    settings = config(evaluate__extractor="pixels", augment__ops=(), augment__xflip_p=0.5)
    measuring = judge.Judge(settings, images, images)
    measuring.glance(np.asarray(on_disk[:60]))
    assert sum(read) > 2 * on_disk.nbytes and max(read) <= 2**25
    assert measuring.gallery.points.nbytes == 2150 * 64 * 64 * 4


NOISE = np.random.default_rng(1).integers(0, 256, (60, 8, 8, 1))
BLACK = np.zeros((60, 8, 8, 1))
DEGENERATE = {
    "held-out images that are black": a_set(NOISE, BLACK[:12]),
    "six pictures, most black": a_set(np.concatenate([NOISE[:6], BLACK]), NOISE[:12]),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_images_give_numbers_or_none_and_no_exception(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path))
    images = DEGENERATE[name]
    settings = config(evaluate__extractor="pixels", evaluate__fit_steps=1)
    measuring = judge.Judge(settings, images, images)
    for samples in (NOISE, BLACK, np.resize(images.train.images, NOISE.shape)):
        samples = samples.astype(np.uint8)
        quick, (whole, _) = measuring.glance(samples), measuring.measure(samples)
        assert np.isfinite(quick["fd"]) and 0 <= quick["copies"] <= 1
        for key, number in whole.items():
            assert key == "copy_margin" or not np.isinf(number.value), key
        silent = [key for key, n in whole.items() if not (n.note or np.isfinite(n.value))]
        assert not silent  # "n/a" has a reason
        assert np.isfinite(whole["copies"].value)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run with quick metrics: (config, workdir)."""
    settings = tiny.config(
        augment__ops=tiny.MOVES,
        log__metrics_every=2,
        log__metrics_count=16,
        log__best_metric="fd",
        evaluate__fit_steps=2,
    )
    workdir = tmp_path_factory.mktemp("watched")
    loop.train(settings, workdir)
    return settings, workdir


def test_quick_metrics_are_logged_and_choose_the_best_checkpoint(watched):
    _, workdir = watched
    lines = [line for line in logs.read(workdir) if "fd" in line]
    assert [line["step"] for line in lines] == [2, 3, 4, 6]  # and where a checkpoint is saved
    for line in lines:
        assert {"copies", "copies_real", "copy_margin", "leak", "neither"} <= line.keys()
    best = min((line["fd"], line["step"]) for line in lines if line["step"] in (3, 6))
    assert tada_jax.load_run(workdir, checkpoint="best").step == best[1]


def test_quick_metrics_of_other_samples_are_told_apart(watched, tmp_path, capsys):
    settings, workdir = watched
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    own = settings.copy_and_resolve_references()
    own.train.total_steps, own.log.metrics_count = 7, 17
    loop.train(own, tmp_path)
    said = capsys.readouterr().err
    assert "warning: the quick metrics up to step 6 were measured otherwise" in said
    looks = [line for line in logs.read(tmp_path) if "fd" in line]
    assert looks[-1]["step"] == 7 and len({line["yardstick"] for line in looks[:-1]}) == 1
    assert looks[-1]["yardstick"] != looks[0]["yardstick"]
    assert tada_jax.load_run(tmp_path, checkpoint="best").step == 7


def test_a_run_does_not_go_on_with_other_held_out_images(watched, tmp_path, monkeypatch):
    settings, workdir = watched
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(Dataset, "held_out_digest", "of others")
    own = settings.copy_and_resolve_references()
    own.train.total_steps = 7
    with pytest.raises(UserError, match="the held-out images are not those of the run.*--workdir"):
        loop.train(own, tmp_path)


def test_quick_metrics_are_drawn(watched, finished):
    with Image.open(watched[1] / "quality.png") as image:
        assert min(image.size) > 300
    assert not (finished[1] / "quality.png").exists()  # that run took none


def test_quick_metrics_change_nothing_in_the_training(watched, finished_moves):
    run = tada_jax.load_run(watched[1])
    tiny.assert_trees_equal(run.params, finished_moves[2].params)


@pytest.mark.parametrize(
    ("name", "value", "rank"),
    [("fd", 3.0, 3.0), ("leak", -0.2, 0.2), ("copy_margin", 0.8, -0.8), ("test_mse", 1.0, 1.0)],
)
def test_the_best_is_low_or_near_0_or_high(name, value, rank):
    assert observe.rank({name: value}, name) == rank
    assert observe.rank({}, name) is None


def test_the_best_in_the_window_is_of_those_that_do_not_copy():
    counts = {"samples": 200, "held_out": 400}
    seen = {"fd": 2.0, "copies": 0.01, "copies_real": 0.01}
    assert observe.rank(seen, "window", **counts) == 2.0
    assert observe.rank(seen | {"copies": 0.3}, "window", **counts) is None
    assert observe.rank({"test_mse": 1.0}, "window", **counts) is None


COUNTS = {"samples": 200, "held_out": 400}


def line(step, train, test, copies=None, real=0.01):
    found = {"step": step, "train_mse": train, "test_mse": test}
    looked = {"fd": 100.0 / step, "copies": copies, "copies_real": real}
    return found | ({} if copies is None else looked)


def test_a_warning_in_plain_words_when_the_model_begins_to_copy():
    def warned(history):
        return copying(history, **COUNTS)

    history = [line(100, 0.3, 0.3, 0.0), line(200, 0.2, 0.25, 0.02)]
    assert warned(history) is None and warned(history[:1]) is None
    risen = [*history, line(300, 0.1, 0.28)]
    assert "12% above that of step 200" in warned(risen)
    assert warned([*risen, line(400, 0.09, 0.3)]) is None  # said once
    unstable = [*history, line(300, 0.25, 0.28)]
    assert warned(unstable) is None  # both rise: not copying
    once = [*history, line(300, 0.15, 0.25, 0.4)]
    assert warned(once) is None
    copied = [*once, line(400, 0.15, 0.25, 0.4)]
    assert "40% of the samples are copies" in warned(copied)
    assert "since about step 2" in warned(copied)
    assert warned([*copied, line(500, 0.15, 0.25, 0.5)]) is None  # said once
    both = warned([*once, line(400, 0.1, 0.28, 0.4)])
    assert "above that" in both and "copies" in both and "\n" not in both
    real_ones_too = [*once[:-1], *(line(s, 0.15, 0.25, 0.4, real=0.38) for s in (300, 400))]
    assert warned(real_ones_too) is None
    assert warned([*copied, {"step": 500, "loss": 1.0}]) is None


def test_a_run_says_when_it_enters_the_window():
    def said(distances, copies=0.0):
        looks = [line(100 * (i + 1), 0.2, 0.2, copies) | {"fd": d} for i, d in enumerate(distances)]
        return entering(looks, **COUNTS)

    flat = [9.0, 5.0, 2.0, 1.95, 1.9, 1.95]
    assert not any(said(flat[:n]) for n in range(1, 6))  # still getting better
    assert "hardly get better" in said(flat)
    assert said([*flat, 1.9]) is None  # said once
    assert said(flat, copies=0.5) is None  # it copies already
    slow = list(10.0 * 0.96 ** np.arange(60))
    assert not any(said(slow[:n]) for n in range(1, 61))
    stepwise = [80.0, 78.0, 77.0, 76.0, 60.0, 40.0, 38.0, 37.0, 37.0, 20.0, 19.0, 19.0, 19.0]
    assert sum(said(stepwise[:n]) is not None for n in range(1, 14)) == 1


def test_the_images_that_losses_are_taken_on_are_spread_over_ordered_sets():
    from tada_jax.data.base import spread

    np.testing.assert_array_equal(spread(10, 4), [0, 2, 5, 7])
    np.testing.assert_array_equal(spread(3, 8), [0, 1, 2])


def test_the_features_of_a_data_set_do_not_depend_on_its_split():
    digests = {judges.of_plan(plan(config(seed=seed))).extractor.digest for seed in (0, 1)}
    assert len(digests) == 1 and isinstance(digests.pop(), str)
    assert features.pixels().digest != features.pixels(8).digest
