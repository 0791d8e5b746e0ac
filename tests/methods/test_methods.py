"""What each method does to a training example, and what the network is told of it."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import base
from tada_jax.augment import Policy
from tada_jax.methods import linear
from tada_jax.methods.base import augmented
from tada_jax.methods.scoreaug import ScoreAug
from tada_jax.methods.table import METHODS, Row
from tada_jax.model import diffusion
from tada_jax.model.sampler import make_sampler
from tada_jax.setup import build
from tada_jax.setup.plan import load_data
from tada_jax.system import figures
from tada_jax.system.pixels import to_float
from tada_jax.training.step import drop_labels, loss_fn
from tests import tiny

SIDE = 12
CONDITIONED = [name for name, method in METHODS.items() if method.kind.told(base.get_config())]


def examples(count=256, side=SIDE, channels=1):
    """Images, noise and keys."""
    draw, shape = np.random.default_rng(3), (count, side, side, channels)
    x0, eps = draw.uniform(-1.0, 1.0, shape), draw.standard_normal(shape)
    return jax.random.key(3), *(jnp.asarray(a, jnp.float32) for a in (x0, eps))


def built(method, **fields):
    return build.parts(tiny.config(method, **{"augment__ops": tiny.MOVES} | fields), (8, 8, 1))


def test_the_methods_are_those_of_the_configuration():
    assert tuple(base.METHODS) == tuple(METHODS)


def test_the_made_up_method_of_the_document_is_one_file_and_a_line(monkeypatch):
    text = (tiny.ROOT / "docs" / "architecture.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.S)
    names = {"__name__": "grey"}
    exec(program, names)
    monkeypatch.setitem(METHODS, "grey+tada", Row(names["Grey"], "tada"))
    parts = built("grey+tada", augment__xflip_p=0.0)
    key, x0, eps = examples(64)
    still, moved = (parts.method(key, x0, eps, jnp.full(64, w)).x0 for w in (0.0, 0.5))
    np.testing.assert_array_equal(still, x0)
    grey = np.asarray(moved - x0).mean((1, 2, 3))
    np.testing.assert_allclose(
        moved - x0, np.broadcast_to(grey[:, None, None, None], x0.shape), atol=1e-6
    )
    assert 0.35 < grey.std() < 0.65
    params = jax.eval_shape(parts.init_params, key)
    terms = jax.eval_shape(lambda p: loss_fn(p, key, x0, None, parts), params)
    assert terms["loss"].shape == (64,)


@pytest.mark.parametrize("name", METHODS)
def test_strength_follows_the_noise_level_where_it_should(name):
    w = np.asarray(built(name, constant_strength=0.7).strength(jnp.array([-15.0, -0.75, 15.0])))
    kind = METHODS[name].strength
    expected = {"none": [0, 0, 0], "constant": [0.7] * 3, "tada": [1, 0, 1]}[kind]
    np.testing.assert_allclose(w, expected, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_at_strength_0_nothing_happens_and_nothing_is_told(name):
    method = built(name, augment__xflip_p=0.0, sda__mu=0.0).method
    key, x0, eps = examples(64)
    found = jax.jit(method)(key, x0, eps, jnp.zeros(len(x0)))
    same = np.asarray(found.x0 == x0).all((1, 2, 3))
    if name == "hflip":
        mirrored = np.asarray(found.x0 == x0[:, :, ::-1]).all((1, 2, 3))
        assert (same | mirrored).all() and 16 < mirrored.sum() < 48
    else:
        assert same.all()
    np.testing.assert_array_equal(found.eps, eps)
    np.testing.assert_array_equal(found.shift, 0)
    if found.condition is not None:
        np.testing.assert_array_equal(found.condition, 0)
    assert (found.condition is not None) == (name in CONDITIONED)


@pytest.mark.parametrize("name", CONDITIONED)
def test_the_identity_encodes_as_zeros_and_nothing_else_does(name):
    """At full strength: an image is unchanged if and only if its label is zero."""
    method = built(name, augment__xflip_p=0.0).method
    key, x0, eps = examples(400)
    found = jax.jit(method)(key, x0, eps, jnp.ones(len(x0)))
    same = np.asarray(found.x0 == x0).all((1, 2, 3))
    silent = np.asarray(found.condition == 0).all(1)
    np.testing.assert_array_equal(same, silent)
    assert 20 < same.sum() < 250


def test_ar_augments_as_constant_does():
    key, x0, eps = examples(64)
    w = jnp.linspace(0.0, 1.0, len(x0))
    told, plain = (jax.jit(built(m).method)(key, x0, eps, w) for m in ("ar", "constant"))
    np.testing.assert_array_equal(told.x0, plain.x0)
    assert told.condition.shape == (64, built("ar").policy.label_size)


@pytest.mark.parametrize("name", CONDITIONED)
def test_a_network_that_is_told_zeros_is_the_unconditioned_one(name):
    told, plain = built(name), built("constant")
    params, fewer = map(tiny.params, (told, plain))
    own = params["params"].pop("condition_in")
    assert list(own) == ["kernel"] and not np.any(own["kernel"])
    tiny.assert_trees_equal(params, fewer)  # nothing else is different at initialisation

    params = jax.tree.map(lambda a: a + 0.03, params)  # nor, without a bias, after training
    trained = {"params": {**params["params"], "condition_in": {"kernel": own["kernel"] + 0.5}}}
    _, z, _ = examples(5, side=8)
    t = jnp.arange(5)
    apply_told, apply_plain = jax.jit(told.apply), jax.jit(plain.apply)
    expected = apply_plain(params, z, t)
    silent = jnp.zeros((5, told.method.condition_size))
    np.testing.assert_array_equal(apply_told(trained, z, t, None, silent), expected)
    np.testing.assert_array_equal(apply_told(trained, z, t), expected)
    spoken = apply_told(trained, z, t, None, silent.at[:, 0].set(1.0))
    assert np.abs(spoken - expected).max() > 1e-3


@pytest.mark.usefixtures("whole_network")
def test_a_condition_of_another_length_is_refused():
    parts = built("ar")
    params = jax.eval_shape(lambda: parts.init_params(jax.random.key(0)))
    z = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    with pytest.raises(ValueError, match="condition has 2 entries"):
        jax.eval_shape(parts.apply, params, z, jnp.zeros(1), None, jnp.zeros((1, 2)))


# ScoreAug


def draws_of(op, count=300, side=SIDE):
    """(operations, draws at strength 1)."""
    operations = linear.Operations(ops=(op,))
    return operations, draws_at(np.ones(1), count, side, operations)[0]


def draws_at(strengths, count, side, operations):
    """A list of draws by strength."""
    keys = jax.random.split(jax.random.key(1), count)
    draw = jax.jit(jax.vmap(lambda k, w: linear.draw(k, w, (side, side), operations), (0, None)))
    return [jax.tree.map(np.asarray, draw(keys, float(w))) for w in strengths]


@functools.partial(jax.jit, static_argnums=2)
def applied(image, draws, operations):
    """One image under each of many draws."""
    return jax.vmap(lambda d: linear.apply(image, d, operations))(draws)


def test_scoreaug_draws_every_operation_and_the_identity_equally_often():
    operations = linear.Operations()
    key, x0, eps = examples(4000, side=40)
    flips = Policy(ops=(), xflip_p=0.0)
    method = jax.jit(ScoreAug(operations, flips))
    told = method(key, x0, eps, jnp.ones(len(x0))).condition
    fired = np.asarray(
        [(told[:, :1] != 0).any(1), (told[:, 1:3] != 0).any(1), told[:, 3] != 0, told[:, 4:].any(1)]
    )
    assert (fired.sum(0) <= 1).all()
    np.testing.assert_allclose(fired.mean(1), 0.2, atol=0.03)


def test_scoreaug_operations_are_what_they_say():
    image = np.random.default_rng(0).standard_normal((SIDE, SIDE, 3), np.float32)
    image += 5.0  # nothing is 0

    operations, draws = draws_of("brightness")
    moved = np.asarray(applied(image, draws, operations))
    factor = moved / image
    np.testing.assert_allclose(factor, factor[:, :1, :1, :1] * np.ones_like(factor), rtol=1e-5)
    changed = np.log2(factor[:, 0, 0, 0])[np.asarray(draws["factor"]) != 1]
    assert -1 <= changed.min() < -0.9 and 0.9 < changed.max() <= 1 and 100 < len(changed) < 200

    operations, draws = draws_of("translation")
    moved = np.asarray(applied(image, draws, operations))
    for one, (y, x) in zip(moved, np.asarray(draws["shift"])):
        assert max(abs(y), abs(x)) <= 1
        np.testing.assert_array_equal(one, shifted_with_zeros(image, y, x))
    assert {tuple(s) for s in np.asarray(draws["shift"])} >= {(1, -1), (0, 1), (0, 0), (-1, 1)}
    labels = jax.vmap(lambda d: linear.labels(d, (SIDE, SIDE), operations))(draws)
    np.testing.assert_array_equal(labels, draws["shift"])  # one pixel is as far as it goes

    operations, draws = draws_of("cutout")
    moved = np.asarray(applied(image, draws, operations))
    zeros = (moved == 0).all(-1)
    sides = np.sqrt(zeros.sum((1, 2)))
    assert set(sides) == {0, 1, 2, 3, 4}  # 0.1 to 0.3 of 12
    labels = jax.vmap(lambda d: linear.labels(d, (SIDE, SIDE), operations))(draws)
    np.testing.assert_allclose(labels[:, 0], sides / SIDE / 0.3, rtol=1e-5)
    np.testing.assert_array_equal(moved[~zeros], np.broadcast_to(image, moved.shape)[~zeros])

    operations, draws = draws_of("rotation")
    moved = np.asarray(applied(image, draws, operations))
    for one, turns in zip(moved, np.asarray(draws["turns"])):
        np.testing.assert_array_equal(one, np.rot90(image, turns))
    np.testing.assert_allclose(np.bincount(draws["turns"]) / 300, [1 / 2, *[1 / 6] * 3], atol=0.08)


def shifted_with_zeros(image, y, x):
    h, w, _ = image.shape
    moved = np.zeros_like(image)
    for row in range(h):
        for column in range(w):
            if 0 <= row - y < h and 0 <= column - x < w:
                moved[row, column] = image[row - y, column - x]
    return moved


def test_strength_scales_what_scoreaug_does():
    magnitude = {
        "brightness": lambda d: np.abs(np.log2(d["factor"])),
        "translation": lambda d: np.abs(d["shift"]).max(-1),
        "cutout": lambda d: d["box"][:, 2],
        "rotation": lambda d: d["turns"] != 0,
    }
    for op, size in magnitude.items():
        drawn = draws_at((1.0, 0.5, 0.0), 1000, 64, linear.Operations(ops=(op,)))
        whole, half, none = (float(size(draws).mean()) for draws in drawn)
        assert none == 0 and half / whole == pytest.approx(0.5, abs=0.08), op


@pytest.mark.parametrize("parameterisation", diffusion.PARAMETERISATIONS)
def test_scoreaugs_loss_of_an_equivariant_oracle_is_the_plain_loss(parameterisation, monkeypatch):
    """The oracle turns z back as it is told, denoises it by a template, and turns it again."""
    fields = {"diffusion__parameterisation": parameterisation, "scoreaug__ops": ("rotation",)}
    fields["diffusion__variance"] = "fixed_small"
    template = jax.random.normal(jax.random.key(7), (8, 8, 1))
    told = []

    def one(z, a, s, condition):
        half, three = condition > 0.5  # by (90 or 180, 180 or 270) degrees
        turns = jnp.where(half, jnp.where(three, 2, 1), jnp.where(three, 3, 0))
        back = jnp.stack([jnp.rot90(z, -k) for k in range(4)])[turns]
        x0 = template + a * (back - a * template)  # for N(template, 1)
        eps = (back - a * x0) / s
        out = diffusion.target(parameterisation, x0[None], eps[None], a[None], s[None])[0]
        return jnp.stack([jnp.rot90(out, k) for k in range(4)])[turns]

    def oracle(self, params, z, t, labels, condition, **options):
        told.append(condition)
        condition = jnp.zeros((len(z), 2)) if condition is None else condition
        return jax.vmap(one)(z, self.schedule.alpha(t), self.schedule.sigma(t), condition)

    monkeypatch.setattr(build.Parts, "apply", oracle)
    x0 = template + jax.random.normal(jax.random.key(8), (200, 8, 8, 1))

    def loss(name):
        terms = loss_fn(None, jax.random.key(9), x0, None, built(name, **fields))
        return terms, told.pop()

    theirs, told_theirs = tiny.at_once(lambda: loss("scoreaug"))
    plain, told_plain = tiny.at_once(lambda: loss("none"))
    assert 0.5 < np.any(told_theirs > 0, 1).mean() < 0.9  # quarter turns: nothing is lost
    assert told_plain is None
    np.testing.assert_allclose(theirs["loss"], plain["loss"], rtol=1e-4, atol=1e-5)


def test_transforming_z_is_transforming_image_and_noise():
    operations = linear.Operations()
    _, x0, eps = examples(50)

    @jax.jit
    @jax.vmap
    def both(key, x0, eps):
        draws = linear.draw(key, 1.0, (SIDE, SIDE), operations)
        move = functools.partial(linear.apply, draws=draws, operations=operations)
        return move(0.6 * x0 + 0.8 * eps), 0.6 * move(x0) + 0.8 * move(eps)

    found, wanted = both(jax.random.split(jax.random.key(2), 50), x0, eps)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_scoreaug_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="rotation turns images by 90 degrees"):
        linear.Operations().check((8, 12))
    linear.Operations(ops=("cutout",)).check((8, 12))
    for wrong in (
        dict(ops=("spin",)),
        dict(ops=()),
        dict(brightness=0.5),
        dict(translation=1.0),
        dict(cutout_min=0.5),
    ):
        with pytest.raises(ValueError):
            linear.Operations(**wrong)


# SDA


def test_sda_without_its_second_path_is_none():
    """Of digits, which are never mirrored; elsewhere it is hflip."""
    none = tiny.config("none")
    sda = tiny.config("sda", sda__mu=0.0, sda__weight=0.0, augment__ops=tiny.MOVES)
    data = load_data(none).train.images[:16]
    x0 = to_float(data)
    losses = []
    for config in (none, sda):
        parts = build.parts(config, (8, 8, 1))
        params = tiny.params(parts)
        terms = jax.jit(loss_fn, static_argnums=4)(params, jax.random.key(1), x0, None, parts)
        losses.append(terms["loss"])
    np.testing.assert_array_equal(*losses)


def test_sda_shifts_the_noise_of_augmented_images_only():
    method = built("sda", sda__mu=0.7, sda__weight=3.0, augment__p=1.0).method
    key, x0, eps = examples(2000, side=8)
    found = jax.jit(method)(key, x0, eps, jnp.ones(len(x0)))
    shift = np.asarray(found.shift).ravel()
    assert set(shift) == {0.0, np.float32(0.7)}
    assert (shift > 0).mean() == pytest.approx(3 / 4, abs=0.04)
    changed = np.any(found.x0 != x0, (1, 2, 3))
    np.testing.assert_array_equal(changed, shift > 0)
    np.testing.assert_array_equal(found.eps, eps)  # the target has mean 0


def test_sdas_shift_is_in_z_and_not_in_the_target(monkeypatch):
    """A network that knows eps has no loss; one that takes z / sigma for it is off by mu."""
    config = tiny.config("sda", sda__mu=0.5, sda__weight=1e6, augment__p=0.0)
    config.diffusion.variance = "fixed_small"
    parts = build.parts(config, (8, 8, 1))
    seen = {}

    def output(self, params, z, t, *args, **options):
        seen["mean"] = (z / self.schedule.sigma(t)[:, None, None, None]).mean()
        return z / self.schedule.sigma(t)[:, None, None, None]

    monkeypatch.setattr(build.Parts, "apply", output)
    x0 = jnp.zeros((500, 8, 8, 1))
    terms, seen = tiny.at_once(lambda: (loss_fn(None, jax.random.key(0), x0, None, parts), seen))
    assert float(seen["mean"]) == pytest.approx(0.5, abs=0.03)
    np.testing.assert_allclose(terms["mse"], 0.25, rtol=1e-4)


def test_sdas_shift_leaves_the_bound_of_a_perfect_network_alone(monkeypatch):
    """The learned variance must not grow to explain the shift."""
    bounds = []
    for mu in (0.0, 0.5):
        config = tiny.config("sda", sda__mu=mu, sda__weight=1e6, augment__p=0.0)
        config.schedule.total_timesteps = 1000
        parts, mean = build.parts(config, (8, 8, 1)), mu

        def perfect(self, params, z, t, *args, mean=mean, **options):
            own = self.schedule
            alpha, sigma = (f(t)[:, None, None, None] for f in (own.alpha, own.sigma))
            eps = (z - alpha * 0.2) / sigma - mean
            return jnp.concatenate([eps, -jnp.ones_like(eps)], -1)

        monkeypatch.setattr(build.Parts, "apply", perfect)
        x0 = jnp.full((400, 8, 8, 1), 0.2)
        terms = tiny.loss_terms(parts, jax.random.key(0), x0)
        t = parts.schedule.draw(jax.random.split(jax.random.key(0), 5)[0], 400)
        bounds.append(np.asarray(terms["vlb"])[np.asarray(t) > 0])
    np.testing.assert_allclose(bounds[1], bounds[0], atol=2e-3)
    assert np.abs(bounds[1]).max() < 5e-3


@pytest.mark.parametrize("name", ["ar", "scoreaug", "sda+tada"])
def test_the_figure_shows_what_the_method_does(name, tmp_path):
    parts = built(name)
    images = load_data(tiny.config()).train.images
    figures.strength_figure(tmp_path / "w.png", parts, images, title=name, seed=0)
    with Image.open(tmp_path / "w.png") as picture:
        assert picture.width > 1000
    always, x0 = parts.method.always(), to_float(jnp.asarray(images[:40]))
    moved = tiny.at_once(lambda: augmented(always, jax.random.key(0), x0, jnp.ones(40)))
    assert np.any(moved != x0, (1, 2, 3)).mean() > 0.75


# Classes


def test_classes_are_concealed_as_often_as_asked():
    labels = jnp.arange(5000) % 10
    kept = drop_labels(jax.random.key(0), labels, 0.3)
    assert float((kept == -1).mean()) == pytest.approx(0.3, abs=0.03)
    assert bool(((kept == labels) | (kept == -1)).all())
    assert drop_labels(jax.random.key(0), labels, 0.0) is labels
    assert drop_labels(jax.random.key(0), None, 0.3) is None


def test_no_class_adds_nothing_to_the_embedding():
    config = tiny.config(model__class_conditional=True)
    parts = build.parts(config, (8, 8, 1), 10)
    params = jax.tree.map(lambda a: a + 0.1, tiny.params(parts))
    _, z, _ = examples(3, side=8)
    t, none = jnp.array([1, 5, 9]), jnp.full(3, -1)
    free = build.parts(tiny.config(), (8, 8, 1))
    alone = {"params": {k: v for k, v in params["params"].items() if k != "Embed_0"}}
    assert len(alone["params"]) == len(params["params"]) - 1
    apply, without = jax.jit(parts.apply), jax.jit(free.apply)(alone, z, t)
    np.testing.assert_allclose(apply(params, z, t, none), without, rtol=1e-5, atol=1e-5)
    assert np.abs(apply(params, z, t, none + 4) - without).max() > 1e-3


def test_guidance_extrapolates_from_the_network_without_a_class():
    config = tiny.config(
        model__class_conditional=True, train__class_dropout=0.1, sample__guidance=3.0
    )
    drawn = {}
    for guidance in (0.0, 1.0, 3.0):
        config.sample.guidance = guidance
        parts = build.parts(config, (8, 8, 1), 10)

        # x0_hat is the class / 10, and 0.2 without one; a learned variance comes along.
        def config_mean(labels):
            return jnp.where(labels < 0, 0.2, labels / 10.0)

        def apply(params, z, t, labels, parts=parts, mean=config_mean):
            alpha, sigma = (
                f(t)[:, None, None, None] for f in (parts.schedule.alpha, parts.schedule.sigma)
            )
            eps = (z - alpha * mean(labels)[:, None, None, None]) / sigma
            return jnp.concatenate([eps, jnp.zeros_like(eps)], -1)

        draw = make_sampler(parts, mesh(), batch_size=8, apply=apply)
        drawn[guidance] = draw(None, range(6), seed=0)[:, 0, 0, 0] / 127.5 - 1.0
    np.testing.assert_allclose(drawn[0.0], 0.2, atol=0.01)
    np.testing.assert_allclose(drawn[1.0], np.arange(6) / 10, atol=0.01)
    expected = 0.2 + 3.0 * (np.arange(6) / 10 - 0.2)
    np.testing.assert_allclose(drawn[3.0], np.clip(expected, -1, 1), atol=0.01)


def mesh():
    from tada_jax.system import backend

    return backend.data_mesh(8, jax.devices()[:1])


def test_samples_of_one_class():
    config = tiny.config(model__class_conditional=True, sample__label=7)
    parts, asked = build.parts(config, (8, 8, 1), 10), []

    def apply(params, z, t, labels):
        jax.debug.callback(lambda a: asked.append(np.asarray(a)), labels)
        return jnp.zeros((*z.shape[:3], 2))

    make_sampler(parts, mesh(), batch_size=4, apply=apply)(None, range(4), seed=0)
    jax.effects_barrier()
    assert asked and all((a == 7).all() for a in asked)
