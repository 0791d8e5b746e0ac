import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tada_jax import transforms
from tada_jax.augment import Policy, augment, augment_batch

aug = importlib.import_module("tada_jax.augment")  # tada_jax.augment is its function
ALL = tuple(aug.OPERATIONS)
apply = jax.jit(aug.apply)  # each operation of it would be a program of its own
EVERYTHING = Policy(ops=ALL, p=1.0, max_ops=None, xflip_p=0.5)


def images(count, shape=(7, 11, 3), seed=0):
    """Smooth-ish random images of an odd, non-square size."""
    x = np.random.default_rng(seed).normal(size=(count, *shape))
    return jnp.asarray(np.clip(x / 2, -1, 1), jnp.float32)


def draws_of(policy, w, count=4000):
    keys = jax.random.split(jax.random.key(0), count)
    return jax.jit(jax.vmap(lambda key: aug.draw(key, jnp.float32(w), policy)))(keys)


@pytest.mark.parametrize("shape", [(7, 11, 3), (8, 8, 1), (5, 13, 1)])
@pytest.mark.parametrize("mapping", aug.MAPPINGS)
def test_w_0_without_flip_is_the_identity_bit_for_bit(shape, mapping):
    x = images(16, shape)
    policy = Policy(ops=ALL, p=1.0, max_ops=None, xflip_p=0.0, mapping=mapping)
    y = jax.jit(augment_batch)(jax.random.key(0), x, jnp.zeros(16), policy)
    np.testing.assert_array_equal(np.asarray(y).view(np.uint32), np.asarray(x).view(np.uint32))


def test_w_0_with_flip_only_mirrors():
    x = images(64)
    y = np.asarray(jax.jit(augment_batch)(jax.random.key(0), x, jnp.zeros(64), EVERYTHING))
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(y, np.asarray(x))]
    kept = [np.array_equal(a, b) for a, b in zip(y, np.asarray(x))]
    assert all(m != k for m, k in zip(mirrored, kept))
    assert 16 < sum(mirrored) < 48


def test_vmap_equals_the_loop():
    x, w = images(6), jnp.linspace(0, 1, 6)
    key = jax.random.key(3)
    both = jax.jit(functools.partial(augment_batch, return_labels=True))
    batch, labels = both(key, x, w, EVERYTHING)
    one = jax.jit(functools.partial(augment, return_labels=True))
    for i, k in enumerate(jax.random.split(key, 6)):
        y, label = one(k, x[i], w[i], EVERYTHING)
        np.testing.assert_allclose(y, batch[i], atol=1e-5)
        np.testing.assert_allclose(label, labels[i], atol=1e-6)


def test_one_compilation_whatever_the_strength_and_the_policys_numbers():
    traces = []

    @jax.jit
    def run(key, x, w, policy):
        traces.append(1)
        return augment_batch(key, x, w, policy)

    x = images(4)
    results = [
        run(jax.random.key(0), x, jnp.full(4, w), Policy(p=p, max_ops=m, magnitude={"scale": s}))
        for w, p, m, s in [(1.0, 1.0, 2, 1.0), (0.3, 0.5, 1, 2.0), (0.0, 0.9, 8, 0.1)]
    ]
    assert len(traces) == 1
    assert float(jnp.abs(results[0] - results[1]).max()) > 1e-3


def test_policy_fires_n_of_1_to_m_different_operations_with_probability_p():
    policy = Policy(p=0.8, max_ops=3)
    draws = draws_of(policy, 1.0)
    fired = np.stack([np.asarray(draws[op]).reshape(4000, -1).any(1) for op in policy.ops])
    count = fired.sum(0)
    shares = [np.mean(count == k) for k in range(5)]
    np.testing.assert_allclose(shares, [0.2, 0.8 / 3, 0.8 / 3, 0.8 / 3, 0], atol=0.03)
    np.testing.assert_allclose(fired.mean(1), 0.8 * 2 / len(policy.ops), atol=0.03)  # all alike


def test_edm_preset_fires_each_operation_alone():
    draws = draws_of(Policy(ops=("yflip", "scale", "hue"), p=0.12, max_ops=None), 1.0)

    def rate(op):
        return np.mean(np.asarray(draws[op]) != 0)

    assert rate("xflip") == pytest.approx(0.5, abs=0.03)
    assert rate("yflip") == pytest.approx(0.06, abs=0.015)
    assert rate("scale") == pytest.approx(0.12, abs=0.02)
    both = np.mean((np.asarray(draws["scale"]) != 0) & (np.asarray(draws["hue"]) != 0))
    assert both == pytest.approx(0.12**2, abs=0.008)


@pytest.mark.parametrize("op", ALL)
def test_mapping_a_scales_magnitudes_and_thins_what_has_none(op):
    policy = Policy(ops=(op,), p=1.0, max_ops=1)
    full, half = (np.asarray(draws_of(policy, w)[op], np.float64) for w in (1.0, 0.5))
    if op in aug.DISCRETE:
        assert np.mean(half != 0) == pytest.approx(0.5 * np.mean(full != 0), abs=0.03)
        assert set(np.unique(half)) == set(np.unique(full))
    else:
        np.testing.assert_allclose(half, 0.5 * full, rtol=1e-6)


def test_mapping_b_scales_probabilities_at_full_magnitude():
    policy = Policy(ops=("scale",), p=1.0, max_ops=1, mapping="probability")
    draws = np.asarray(draws_of(policy, 0.25)["scale"])
    assert np.mean(draws != 0) == pytest.approx(0.25, abs=0.03)
    assert draws[draws != 0].std() == pytest.approx(1, abs=0.1)


def test_distributions_magnitudes_and_truncation():
    policy = Policy(
        ops=("scale", "rotate_frac", "rotate_int", "translate_frac", "aniso"),
        p=1.0,
        max_ops=None,
        magnitude={"rotate_frac": 0.25},
        truncate=1.5,
    )
    draws = {k: np.asarray(v) for k, v in draws_of(policy, 1.0).items()}
    assert 1.45 < np.abs(draws["scale"]).max() <= 1.5
    assert np.abs(draws["rotate_frac"]).max() <= 0.25 * np.pi
    assert draws["rotate_frac"].std() == pytest.approx(0.25 * np.pi / np.sqrt(3), rel=0.05)
    np.testing.assert_allclose(np.bincount(draws["rotate_int"].astype(int)) / 4000, 0.25, atol=0.03)
    assert draws["translate_frac"].shape == (4000, 2)
    assert abs(np.corrcoef(draws["translate_frac"].T)[0, 1]) < 0.06
    assert np.mean(draws["aniso_axis"] == 0) == pytest.approx(0.5, abs=0.03)


def test_without_truncation_all_that_is_drawn_is_finite(monkeypatch):
    """A uniform draw of exactly -1 becomes the lower bound, once in some million images."""

    def lowest(rng, low, high, shape):
        del rng, high
        return jnp.broadcast_to(low, shape)

    monkeypatch.setattr(jax.random, "truncated_normal", lowest)
    policy = Policy(ops=("scale", "brightness"), p=1.0, max_ops=None, truncate=np.inf)
    assert np.isfinite(augment(jax.random.key(0), images(1)[0], 1.0, policy)).all()


def test_labels_in_edms_order_and_zero_for_what_did_not_fire():
    geometric = ("yflip", "scale", "rotate_frac", "aniso", "translate_frac")
    color = ("brightness", "contrast", "lumaflip", "hue", "saturation")
    policy = Policy(ops=color + geometric)
    assert Policy(ops=geometric).label_size == 9
    assert policy.label_size == 15
    draws = {
        "xflip": 1.0,
        "yflip": 0.0,
        "scale": 0.3,
        "rotate_frac": jnp.pi / 2,
        "aniso": 2.0,
        "aniso_axis": jnp.pi / 6,
        "translate_frac": jnp.array([0.7, -0.2]),
        "brightness": 0.1,
        "contrast": -0.4,
        "lumaflip": 1.0,
        "hue": -jnp.pi / 2,
        "saturation": 0.9,
    }
    expected = [1, 0, 0.3, -1, 1, np.sqrt(3), 1, 0.7, -0.2, 0.1, -0.4, 1, -1, -1, 0.9]
    got = aug.labels(draws, policy, (8, 8, 3))
    np.testing.assert_allclose(got, expected, atol=1e-6)
    identity = jax.tree.map(jnp.zeros_like, draws)
    np.testing.assert_array_equal(aug.labels(identity, policy, (8, 8, 3)), 0)


def test_rotate_int_labels():
    policy = Policy(ops=("rotate_int",))
    rows = [
        aug.labels({"xflip": 0.0, "rotate_int": jnp.float32(k)}, policy, (8, 8, 3))
        for k in range(4)
    ]
    np.testing.assert_array_equal(rows, [[0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1]])


@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 8, 1), (16, 24, 3), (5, 40, 1)])
@pytest.mark.parametrize("op", ["translate_int", "hue", "saturation", "rotate_int", "lumaflip"])
def test_labels_are_zero_exactly_where_an_image_is_left_as_it_is(op, shape):
    """At every strength: shifts that round to nothing, and colours of grey images, are none."""
    count, policy = 60, Policy(ops=(op,), p=1.0, max_ops=None, xflip_p=0.0)
    w = jnp.linspace(0.05, 1.0, count)
    x = images(count, (*shape[:2], shape[2]), seed=3)
    y, labels = jax.jit(functools.partial(augment_batch, return_labels=True))(
        jax.random.key(0), x, w, policy
    )
    moved = np.asarray(y != x).any((1, 2, 3))
    np.testing.assert_array_equal(moved, np.asarray(labels != 0).any(1))
    assert moved.any() == (not (shape[2] == 1 and op in ("hue", "saturation")))


def test_labels_of_whole_pixel_shifts_are_those_of_the_rounded_shift():
    """At w = .4 no image of 8x8 pixels moves, since a pixel is a draw of 1."""
    policy = Policy(ops=("translate_int",), p=1.0, max_ops=None, xflip_p=0.0)
    x = images(200, (8, 8, 3))
    run = jax.jit(functools.partial(augment_batch, return_labels=True))
    y, labels = run(jax.random.key(0), x, jnp.full(200, 0.4), policy)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(labels, 0)
    _, labels = run(jax.random.key(0), x, jnp.ones(200), policy)
    assert set(np.unique(labels[:, 1:])) == {-1.0, 0.0, 1.0}
    draws = {"xflip": 0.0, "translate_int": jnp.array([0.3, -0.6])}
    got = aug.labels(draws, policy, (24, 40, 3))  # 0.3 of 5 pixels, and -0.6 of 3
    np.testing.assert_allclose(got, [0, 2 / 5, -2 / 3], rtol=1e-6)


def test_the_sense_of_every_operation_that_has_one():
    """Clockwise, right and down. Of these, EDM has turns and axes the other way, and int shifts."""
    nothing = {"xflip": jnp.float32(0)}
    x = jnp.full((17, 17, 1), -1.0)
    spot = x.at[8, 13].set(1.0)  # right of the middle

    def place(draws, of=spot):
        return tuple(np.argwhere(np.asarray(apply(of, nothing | draws))[..., 0] > 0.5)[0])

    assert place({"rotate_int": jnp.float32(1)}) == (13, 8)  # from right to below
    assert place({"rotate_frac": jnp.float32(np.pi / 2)}) == (13, 8)
    step = 1 / (0.125 * 17)  # a pixel
    assert place({"translate_int": jnp.array([-2.0, 3.0]) * step}) == (11, 11)
    assert place({"translate_frac": jnp.array([-2.0, 3.0]) * step}) == (11, 11)
    # Stretched along the diagonal from upper left to lower right.
    disc = jnp.where(jnp.hypot(*jnp.mgrid[-8:9, -8:9]) < 4, 1.0, -1.0)[..., None]
    long = apply(disc, nothing | {"aniso": jnp.float32(3), "aniso_axis": jnp.float32(np.pi / 4)})
    assert float(long[11, 11, 0]) > 0.5 > -0.5 > float(long[11, 5, 0])


def test_geometry_is_scaled_then_rotated_then_stretched_then_translated():
    """Follows one point through the operations by hand."""
    draws = {
        "xflip": 0.0,
        "rotate_int": 1.0,
        "translate_int": jnp.array([0.5, -0.25]),
        "scale": 0.8,
        "rotate_frac": 0.6,
        "aniso": -0.7,
        "aniso_axis": 0.4,
        "translate_frac": jnp.array([0.3, -0.9]),
    }
    h, w = 32, 48

    def turn(a, p):
        return np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) @ p

    source = np.array([3.0, -2.0])
    p = turn(np.pi / 2, source)
    p = p + np.round(np.array([0.5 * w, -0.25 * h]) * 0.125)
    p = p * 2 ** (0.2 * 0.8)
    p = turn(0.6, p)
    s = 2 ** (0.2 * -0.7)
    p = turn(0.4, np.array([s, 1 / s]) * turn(-0.4, p))
    p = p + np.array([0.3 * w, -0.9 * h]) * 0.125
    inverse = aug._inverse_geometry(jax.tree.map(jnp.float32, draws), h, w)
    np.testing.assert_allclose((inverse @ np.array([*p, 1.0]))[:2], source, atol=1e-4)


def test_turns_and_shifts_of_an_image():
    x = images(1, (9, 9, 3))[0]
    nothing = {"xflip": jnp.float32(0)}
    turned = apply(x, nothing | {"rotate_int": jnp.float32(1)})
    np.testing.assert_allclose(turned, np.rot90(x, -1), atol=1e-5)  # clockwise, y points down
    shifted = apply(x, nothing | {"translate_frac": jnp.array([1.0, 0.0]) / 0.125 / 9 * 2})
    np.testing.assert_allclose(shifted[:, 2:], x[:, :-2], atol=1e-5)
    np.testing.assert_allclose(shifted[:, :2], x[:, 2:0:-1], atol=1e-5)  # mirrored, edge once
    both = apply(x, {"xflip": jnp.float32(1), "yflip": jnp.float32(1)})
    np.testing.assert_array_equal(both, x[::-1, ::-1])


def test_scaling_enlarges_for_positive_draws():
    x = jnp.full((33, 33, 1), -1.0).at[9:24, 9:24].set(1.0)

    def area(d):
        return float((apply(x, {"xflip": 0.0, "scale": jnp.float32(d)}) > 0).sum())

    assert area(2.0) / area(0.0) == pytest.approx(2**0.8, rel=0.1)
    assert area(-2.0) / area(0.0) == pytest.approx(2**-0.8, rel=0.1)


def test_color_formulas():
    x = images(1)[0]

    def apply(m):
        return np.asarray(transforms.apply_color(x, m))

    luma = np.asarray(x.mean(-1, keepdims=True))
    np.testing.assert_allclose(apply(transforms.brightness(0.2)), x + 0.2, atol=1e-6)
    np.testing.assert_allclose(apply(transforms.contrast(2**0.5)), x * 2**0.5, atol=1e-6)
    np.testing.assert_allclose(apply(transforms.luma_flip(1.0)), x - 2 * luma, atol=1e-6)
    np.testing.assert_allclose(apply(transforms.saturation(0.0)), luma + 0 * x, atol=1e-6)
    np.testing.assert_allclose(apply(transforms.saturation(2.0)), luma + 2 * (x - luma), atol=1e-6)
    third = apply(transforms.hue_rotation(2 * np.pi / 3))  # a third of a turn permutes r, g, b
    np.testing.assert_allclose(third, np.asarray(x)[..., [2, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(
        apply(transforms.hue_rotation(1.0)).mean(-1, keepdims=True), luma, atol=1e-6
    )


def test_color_composes_in_the_stated_order():
    draws = {"brightness": 0.5, "contrast": -0.3, "lumaflip": 1.0, "hue": 0.7, "saturation": 0.4}
    draws = {k: jnp.float32(v) for k, v in draws.items()}
    x = images(1)[0]
    step = x
    for matrix in (
        transforms.brightness(0.2 * 0.5),
        transforms.contrast(2 ** (0.5 * -0.3)),
        transforms.luma_flip(1.0),
        transforms.hue_rotation(0.7),
        transforms.saturation(2**0.4),
    ):
        step = transforms.apply_color(step, matrix)
    np.testing.assert_allclose(apply(x, {"xflip": 0.0} | draws), step, atol=1e-5)


def test_grey_images_take_the_mean_of_the_three_rows():
    x = images(1, (5, 6, 1))[0]
    matrix = transforms.hue_rotation(0.9) @ transforms.brightness(0.1)
    rgb = transforms.apply_color(jnp.repeat(x, 3, -1), matrix)
    np.testing.assert_allclose(transforms.apply_color(x, matrix)[..., 0], rgb.mean(-1), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ops": ("rotate",)}, "rotate"),
        ({"ops": ("scale", "scale")}, "twice"),
        ({"magnitude": {"zoom": 1.0}}, "zoom"),
        ({"mapping": "both"}, "both"),
        ({"p": 3}, "p=3 .* from 0 to 1"),
        ({"p": -1}, "p=-1"),
        ({"p": float("nan")}, "p=nan"),
        ({"xflip_p": 7.0}, "xflip_p=7.0"),
        ({"max_ops": -1}, "max_ops=-1"),
        ({"truncate": -1}, "truncate=-1"),
        ({"magnitude": {"scale": -0.5}}, "magnitude.scale=-0.5"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        Policy(**options)


@pytest.mark.parametrize(
    ("x", "w", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), np.ones(2), r"floats .* got uint8\[2, 8, 8, 3\]"),
        (np.zeros((8, 8, 3), np.float32), 1.0, r"\[B,H,W,C\]"),
        (np.zeros((2, 8, 8, 2), np.float32), np.ones(2), "1 or 3 channels"),
        (np.zeros((2, 8, 8, 3), np.float32), 1.0, r"w must be \[B\] .* B=2 .* got \[\]"),
        (np.zeros((2, 8, 8, 3), np.float32), np.ones(3), r"B=2 .* got \[3\]"),
        (np.zeros((2, 8, 8, 3), np.float32), np.ones((2, 3)), r"\[B,8\] .* got \[2, 3\]"),
    ],
)
def test_a_batch_is_refused_in_one_line(x, w, message):
    with pytest.raises(ValueError, match=message) as e:
        augment_batch(jax.random.key(0), x, w)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("x", "w", "message"),
    [
        (np.zeros((8, 8, 3), np.uint8), 1.0, r"floats \[H,W,C\] .* got uint8"),
        (np.zeros((1, 8, 8, 3), np.float32), 1.0, r"floats \[H,W,C\]"),
        (np.zeros((8, 8, 2), np.float32), 1.0, "1 or 3 channels"),
        (np.zeros((8, 8, 3), np.float32), np.ones(2), r"a scalar or \[8\], got \[2\]"),
    ],
)
def test_an_image_is_refused_in_one_line(x, w, message):
    with pytest.raises(ValueError, match=message):
        augment(jax.random.key(0), x, w)


def test_latents_of_any_channels_may_move():
    policy = Policy(ops=("translate_int",), p=1.0, max_ops=None, xflip_p=0.0)
    x = images(4, (8, 8, 5))
    y = np.asarray(jax.jit(augment_batch)(jax.random.key(0), x, jnp.ones(4), policy))
    assert y.shape == x.shape and (y != x).any()


def test_a_strength_for_each_operation_acts_on_it_alone():
    policy = Policy(ops=("scale", "rotate_frac", "yflip"), p=1.0, max_ops=None, xflip_p=0.0)
    keys = jax.random.split(jax.random.key(0), 200)
    draw = jax.jit(jax.vmap(aug.draw, (0, None, None)))
    full, mixed = draw(keys, 1.0, policy), draw(keys, jnp.array([0.5, 0.0, 1.0]), policy)
    np.testing.assert_allclose(mixed["scale"], 0.5 * full["scale"], rtol=1e-6)
    assert not mixed["rotate_frac"].any() and full["rotate_frac"].any()
    np.testing.assert_array_equal(mixed["yflip"], full["yflip"])
    same = draw(keys, jnp.full(3, 0.3), policy)
    jax.tree.map(np.testing.assert_array_equal, same, draw(keys, 0.3, policy))
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 1)), jnp.float32)
    w = jnp.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    y = jax.jit(augment_batch)(jax.random.key(1), x, w, policy)
    np.testing.assert_array_equal(y[0], x[0])
    assert (y[1] != x[1]).any()
