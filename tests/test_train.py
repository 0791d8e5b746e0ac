import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tada_jax import backend, build, generate, train
from tada_jax.errors import UserError
from tests import tiny


def run_steps(config, count, devices, steps_per_call=1):
    """Trains `count` steps on some devices; returns (state, losses, number of compilations)."""
    dataset = train.load_data(config)
    parts = build.parts(config, dataset.train.images.shape[1:], dataset.num_classes)
    mesh = backend.data_mesh(config.train.batch_size, devices)
    whole = backend.replicated(mesh)
    state = jax.jit(lambda: train.init_state(parts, config.seed), out_shardings=whole)()
    labels = dataset.train.labels if parts.network.num_classes else None
    images, labels = jax.device_put((dataset.train.images, labels), whole)
    steps = train.make_steps(parts, config, mesh)
    empty = jax.jit(train.metrics_class(parts).empty, out_shardings=whole)
    losses = []
    for _ in range(0, count, steps_per_call):
        state, metrics = steps(state, empty(), images, labels, steps_per_call)
        losses.append(float(metrics.compute()["loss"]))
    return state, losses, steps._cache_size()


def assert_trees_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run of six steps: (config, workdir, final state)."""
    workdir = tmp_path_factory.mktemp("run")
    config = tiny.config()
    return config, workdir, train.train(config, workdir)


def test_a_run_leaves_pictures_numbers_and_checkpoints(finished):
    config, workdir, state = finished
    assert int(state.step) == 6
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3, 4, 6]
    assert all(np.isfinite(list(line.values())).all() for line in lines)
    assert {"loss", "mse", "vlb", "strength", "grad_norm", "train_mse", "test_mse"} <= set(
        lines[-1]
    )
    assert json.loads((workdir / "config.json").read_text())["method"] == "tada"
    assert json.loads((workdir / "versions.json").read_text())["jax"] == jax.__version__
    for name in ("strength.png", "real.png", "training.png", "samples/step_0000006.png"):
        with Image.open(workdir / name) as image:
            assert min(image.size) > 50
    assert any((workdir / "tensorboard").iterdir())
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["3", "6"]


def test_resumed_equals_uninterrupted_bit_for_bit(finished, tmp_path):
    config, workdir, whole = finished
    first = tiny.config(train__total_steps=4)  # stops between two checkpoints' steps
    train.train(first, tmp_path)
    resumed = train.train(tiny.config(), tmp_path)
    assert_trees_equal(resumed, whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()]
    assert steps == sorted(set(steps))
    a, b = (np.asarray(Image.open(p / "samples/step_0000006.png")) for p in (tmp_path, workdir))
    np.testing.assert_array_equal(a, b)


def test_events_happen_when_they_are_due_whatever_the_other_intervals(tmp_path):
    fields = {"log__every": 4, "log__eval_every": 3, "log__sample_every": 5}
    train.train(tiny.config(train__total_steps=7, log__checkpoint_every=7, **fields), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [line["step"] for line in lines if "test_mse" in line] == [3, 6, 7]
    assert {4, 7} <= {line["step"] for line in lines}
    pictures = sorted(p.stem for p in (tmp_path / "samples").iterdir())
    assert pictures == ["step_0000005", "step_0000007"]


def test_a_folder_in_which_nothing_was_trained_takes_another_configuration(tmp_path):
    bad = tiny.config(optimizer__learning_rate=1e30, optimizer__warmup_steps=0)
    with pytest.raises(UserError):
        train.train(bad, tmp_path)
    assert int(train.train(tiny.config(train__total_steps=1), tmp_path).step) == 1


def test_sampling_leaves_a_save_in_progress_alone(finished):
    _, workdir, _ = finished
    saving = workdir / "checkpoints" / "99.orbax-checkpoint-tmp"
    saving.mkdir()
    generate.sample(tiny.config(sample__count=2), workdir)
    assert saving.exists()
    saving.rmdir()


def test_a_finished_run_is_left_alone(finished):
    config, workdir, state = finished
    before = (workdir / "metrics.jsonl").read_text()
    assert_trees_equal(train.train(config, workdir), state)
    assert (workdir / "metrics.jsonl").read_text() == before


def test_another_configuration_is_refused_with_the_fields(finished):
    config, workdir, _ = finished
    other = tiny.config(optimizer__learning_rate=0.5, log__every=1)
    with pytest.raises(UserError, match=r"optimizer.learning_rate 0.001 -> 0.5\)"):
        train.train(other, workdir)


def test_sampling_from_a_run(finished):
    config, workdir, state = finished
    png, npz = generate.sample(tiny.config(sample__count=5, sample__seed=3), workdir)
    images = np.load(npz)["arr_0"]
    assert images.shape == (5, 8, 8, 1) and images.dtype == np.uint8
    assert Image.open(png).size[0] > 90
    # Image i depends on its seed and number only: not on how many are drawn, or in what batches.
    _, npz = generate.sample(
        tiny.config(sample__count=20, sample__seed=3, sample__batch_size=8), workdir
    )
    more = np.load(npz)["arr_0"].astype(int)
    assert len(more) == 20
    assert np.abs(more[:5] - images).max() <= 1
    assert np.abs(more[5:10] - images).max() > 1


def test_a_sample_does_not_depend_on_the_device_count(finished):
    config, _, state = finished
    parts = build.parts(config, (8, 8, 1))
    params = jax.device_get(state.ema_params)
    drawn = []
    for devices in (jax.devices()[:1], jax.devices()[:8]):
        mesh = backend.data_mesh(8, devices)
        sample = generate.make_sampler(parts, mesh)
        placed = jax.device_put(params, backend.replicated(mesh))
        drawn.append(sample(placed, config.sample, count=9, seed=1).astype(int))
    assert drawn[0].shape == drawn[1].shape == (9, 8, 8, 1)
    assert np.abs(drawn[0] - drawn[1]).max() <= 1


def test_sampling_needs_a_run(tmp_path):
    with pytest.raises(UserError, match="no run"):
        generate.sample(tiny.config(), tmp_path)


def test_one_and_eight_devices_give_the_same_losses():
    config = tiny.config()
    one, losses_1, _ = run_steps(config, 5, jax.devices()[:1])
    eight, losses_8, _ = run_steps(config, 5, jax.devices()[:8])
    assert len(jax.devices()) >= 8
    np.testing.assert_allclose(losses_1, losses_8, rtol=1e-4)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(eight.params)):
        np.testing.assert_allclose(a, b, atol=2e-3)  # Adam divides tiny gradients by themselves


def test_one_compilation_and_the_same_numbers_every_time():
    config = tiny.config(model__class_conditional=True, model__dropout=0.3)
    first, losses, compilations = run_steps(config, 4, jax.devices()[:1])
    again, losses_again, _ = run_steps(config, 4, jax.devices()[:1])
    assert compilations == 1
    assert losses == losses_again
    assert_trees_equal(first, again)
    scanned, _, _ = run_steps(config, 4, jax.devices()[:1], steps_per_call=2)
    for a, b in zip(jax.tree.leaves(scanned.params), jax.tree.leaves(first.params)):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "parameterisation", "variance"),
    [
        *((method, "eps", "learned_range") for method in build.METHODS),
        ("tada", "x0", "fixed_small"),
        ("tada", "v", "fixed_large"),
    ],
)
def test_every_method_and_parameterisation_lowers_its_loss(method, parameterisation, variance):
    config = tiny.config(
        method,
        diffusion__parameterisation=parameterisation,
        diffusion__variance=variance,
        optimizer__learning_rate=3e-3,
    )
    _, losses, _ = run_steps(config, 40, jax.devices()[:1])
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:3])


@pytest.mark.parametrize(
    ("method", "strength", "changed"),
    [("none", None, 0.0), ("hflip", None, 0.5), ("constant", 0.7, 0.8), ("tada", None, 0.8)],
)
def test_methods_are_what_they_say(method, strength, changed):
    """Share of images that augmentation changes at a noise level far from the band."""
    config = tiny.config(method, constant_strength=0.7)
    parts = build.parts(config, (8, 8, 1))
    x = train.to_float(
        jnp.asarray(train.load_data(tiny.config(data__train_size=1000)).train.images)
    )
    w = parts.strength(jnp.full(len(x), -15.0))
    if strength:
        np.testing.assert_allclose(w, strength)
    y = jax.jit(train.augment_batch)(jax.random.key(0), x, w, parts.policy)
    assert np.mean(np.any(np.asarray(x != y), (1, 2, 3))) == pytest.approx(changed, abs=0.06)
    if method == "hflip":
        either = (np.asarray(x == y) | np.asarray(x[:, :, ::-1] == y)).all()
        assert either


def test_ema_follows_its_decay_after_a_warmup():
    assert float(train.ema_decay(0, 0.999, warmup=True)) == pytest.approx(0.1)
    assert float(train.ema_decay(89, 0.999, warmup=True)) == pytest.approx(90 / 99)
    assert float(train.ema_decay(10**6, 0.999, warmup=True)) == pytest.approx(0.999)
    assert train.ema_decay(0, 0.999, warmup=False) == 0.999


def test_a_loss_that_is_not_finite_stops_the_run_with_advice(tmp_path):
    config = tiny.config(optimizer__learning_rate=1e30, optimizer__warmup_steps=0)
    with pytest.raises(UserError, match="not finite at step.*learning_rate"):
        train.train(config, tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "mixup"}, "method='mixup'"),
        ({"train__batch_size": 12}, "does not divide over 8 devices"),
        ({"train__batch_size": 0}, "train.batch_size=0"),
        ({"train__ema_decay": 1.0}, "ema_decay"),
        ({"augment__p": 1.5}, "augment.p=1.5"),
        ({"augment__ops": ("zoom",)}, "config.augment.*zoom"),
        ({"tada__r_fine": -9.0}, "config.tada.*r_rough"),
        ({"tada__kappa": "big"}, "tada.kappa"),
        ({"schedule__name": "sigmoid"}, "config.schedule.*sigmoid"),
        ({"sample__steps": 31}, "config.sample: cannot keep 31"),
        ({"sample__eta": 2.0}, "sample.eta"),
        ({"model__channel_mult": (1, 2.0)}, "channel_mult"),
        ({"data__test_fraction": 0.9999}, "test_fraction"),
        ({"diffusion__vlb_weight": -1.0}, "vlb_weight"),
        ({"sample__sampler": "euler"}, "sample.sampler"),
        ({"model__channel_mult": (1, 1, 1, 1, 1)}, "config.model.*multiples of 16"),
        ({"model__channel_mult": ()}, "channel_mult"),
        ({"model__norm_groups": 3}, "norm_groups"),
        ({"optimizer__learning_rate": 0.0}, "learning_rate"),
        ({"diffusion__weighting": "p3"}, "weighting"),
        ({"data__name": "imagenet"}, "imagenet"),
        ({"data__train_size": 10**6}, "train_size"),
    ],
)
def test_refuses_in_one_line_that_names_the_field(fields, message, tmp_path):
    with pytest.raises(UserError, match=message) as e:
        train.train(tiny.config(**fields), tmp_path / "run")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "run").exists()
