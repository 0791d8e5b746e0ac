"""Profiles against closed forms and identities, and what is made of them."""

import dataclasses

import numpy as np
import pytest

from tada_jax.augment import Policy
from tada_jax.band import estimate as s
from tada_jax.band import evidence
from tada_jax.band import profile as profiles
from tada_jax.system.errors import UserError

TAU = 0.25  # standard deviation of the Gaussian images
SHIFT = 0.6  # of what brightness adds


def _gaussian_images(n=3000):
    x = np.random.default_rng(0).normal(0, TAU, (n, 1, 1, 1))
    return np.round(np.clip(x * 127.5 + 127.5, 0, 255)).astype(np.uint8)


def _brightness(p):
    return Policy(
        ops=("brightness",),
        p=p,
        max_ops=1,
        xflip_p=0.0,
        truncate=8.0,
        magnitude={"brightness": 3.0},
    )


def _closed_form(logsnr, p):
    """K of N(0, TAU^2) under brightness with probability p, by quadrature over z."""
    found = []
    for r in logsnr:
        noise = np.exp(-r)
        base, moved = TAU**2, TAU**2 + SHIFT**2
        width = 8 * np.sqrt(base + noise)
        z = np.linspace(-width, width, 20001)

        def density(v, z=z):
            return np.exp(-(z**2) / (2 * v)) / np.sqrt(2 * np.pi * v)

        plain, other = density(base + noise), density(moved + noise)
        weight = p * other / ((1 - p) * plain + p * other)
        gains = base / (base + noise), moved / (moved + noise)
        gap = np.square(weight * (gains[0] - gains[1]) * z)
        found.append(0.5 * np.exp(r) * np.trapezoid(gap * plain, z))
    return np.array(found)


@pytest.mark.parametrize("p", [0.8, 1.0])
def test_the_curves_of_gaussian_images_are_those_of_the_closed_form(p):
    found = s.profile(
        _gaussian_images(), _brightness(p), strengths=(1.0,), operations=False, queries=800
    )
    curve, low = found.curves[profiles.ALL, 1.0], found.logsnr <= 4.0  # a finite set differs above
    exact = _closed_form(found.logsnr[low], p)
    error = np.abs(curve.detectable[low] - exact)
    assert (error < 4 * curve.detectable_error[low] + 0.05 * exact + 1e-3).all()
    assert exact.max() > 0.03
    snr = np.exp(found.logsnr)
    np.testing.assert_allclose(
        curve.visible,
        2 * curve.detectable / snr / evidence.moments(_gaussian_images())[1].sum(),
        rtol=1e-6,
    )


def test_the_wiener_proxy_is_exact_for_gaussians():
    found = s.profile(
        _gaussian_images(), _brightness(1.0), proxy="wiener", strengths=(1.0,), operations=False
    )
    exact = _closed_form(found.logsnr, 1.0)
    np.testing.assert_allclose(
        found.curves[profiles.ALL, 1.0].detectable, exact, rtol=0.1, atol=1e-3
    )


@pytest.fixture(scope="module")
def digits():
    from tada_jax import data

    return data.load("digits", train_size=300, test_fraction=0.2, seed=0)


POLICY = Policy(ops=("scale", "rotate_frac", "yflip"), xflip_p=0.0)


@pytest.fixture(scope="module")
def profile(digits):
    return s.profile(
        digits.train.images, POLICY, held_out=digits.test.images, queries=300, strengths=(0.25, 1.0)
    )


def test_the_integral_of_k_is_the_divergence_and_both_near_the_limit(profile):
    check = profile.check
    assert abs(check.integral - check.divergence) < 4 * check.error
    # Whatever fires changes the image, but for flips, which leave it in half of their cases.
    assert 0.6 < check.share < 0.95
    assert check.limit == pytest.approx(-np.log(1 - 0.8 * check.share))
    assert check.divergence == pytest.approx(check.limit, abs=0.1)


def test_nothing_is_detectable_in_noise_and_nothing_visible_without(profile):
    for name in profile.names:
        curve = profile.curves[name, 1.0]
        assert curve.detectable[0] < 0.01 and curve.visible[-1] < 0.005
        weak = profile.curves[name, 0.25]
        assert weak.visible[0] <= curve.visible[0]


def test_an_operation_apart_fires_as_often_as_in_the_policy():
    kinds = evidence.kinds(POLICY)
    assert [kind.name for kind in kinds] == [profiles.ALL, "scale", "rotate_frac", "yflip"]
    assert [kind.p for kind in kinds] == pytest.approx([0.8, 0.4, 0.4, 0.4])  # 1.5 of 3 on average
    each = evidence.kinds(dataclasses.replace(POLICY, max_ops=None, p=0.3))
    assert [kind.p for kind in each] == pytest.approx([1.0, 0.3, 0.3, 0.3])


@pytest.mark.parametrize("max_ops", [2, None])
def test_the_share_of_changed_copies_is_what_the_policy_says(digits, max_ops):
    policy = Policy(ops=("scale", "rotate_frac"), p=0.5, max_ops=max_ops, xflip_p=0.5)
    check = s.profile(digits.train.images, policy, strengths=(1.0,), operations=False).check
    changed = 1.0 if max_ops else 0.75
    assert check.share == pytest.approx(changed, abs=0.03)
    assert abs(check.integral - check.divergence) < 4 * check.error


def test_training_images_can_be_told_apart_without_noise_only(profile):
    memory = profile.memory
    assert memory.concentration[0] < 0.02 and memory.concentration[-1] > 0.99
    assert memory.coverage[0] > 0.9 and memory.coverage[-1] < 0.2
    assert (np.diff(memory.coverage) <= 0.02).all()


@pytest.mark.parametrize("proxy", ["held_out", "local", "wiener"])
def test_all_proxies_agree_where_the_noise_hides_everything(digits, profile, proxy):
    found = s.profile(
        digits.train.images, POLICY, proxy=proxy, strengths=(1.0,), operations=False, queries=40
    )
    mine, theirs = (p.curves[profiles.ALL, 1.0].visible[:3] for p in (found, profile))
    np.testing.assert_allclose(mine, theirs, rtol=0.35)
    assert found.check is not None
    if proxy == "local":  # the less noise, the smaller the patches that others share
        sides = np.where(found.patches[:, 0] == 0, 99, found.patches[:, 0])
        assert sides[0] > 3 >= sides[-1]


def test_a_profile_survives_the_journey_through_json(profile):
    back = profiles.from_json(profile.to_json())
    assert back.curves.keys() == profile.curves.keys()
    assert dataclasses.asdict(back.check) == dataclasses.asdict(profile.check)
    np.testing.assert_array_equal(
        back.curves["scale", 1.0].visible, profile.curves["scale", 1.0].visible
    )
    np.testing.assert_array_equal(back.memory.coverage, profile.memory.coverage)


def _made_up(k, v, strengths=(0.5, 1.0)):
    """A profile whose K and V at w are w^2 times those given."""
    zero = np.zeros(len(k))
    curves = {
        (profiles.ALL, w): profiles.Curve(w**2 * np.array(k), zero, w**2 * np.array(v), zero)
        for w in strengths
    }
    return profiles.Profile(np.arange(len(k)) - 3.0, strengths, curves, "exact")


def test_the_band_is_where_both_thresholds_are_exceeded():
    made = _made_up([0.001, 0.01, 0.1, 1, 1, 1, 1], [1, 1, 1, 1, 0.1, 0.01, 0.001])
    assert made.band((0.01 * 10**0.5, 0.01 * 10**0.5)) == pytest.approx((-1.5, 1.5))
    assert made.band((2.0, 0.01)) is None
    assert made.band((1e-9, 1e-9)) == (-3.0, 3.0)


def test_the_freeform_strength_is_where_the_risk_meets_the_budget():
    made = _made_up([0.001, 0.01, 0.16, 1, 1, 1, 1], [1, 1, 1, 1, 0.1, 0.01, 0.001])
    w = made.freeform((0.01, 0.01), budget=1.0)
    np.testing.assert_allclose(w, [1, 0.25, 0.1, 0.1, 0.1, 0.1**0.5, 1], atol=1e-6)
    assert (made.freeform((0.01, 0.01), budget=4.0) >= w).all()
    assert (made.freeform((0.01, 0.01), budget=0.0) == 0).all()


def test_the_weighted_strength_pays_the_same_price_everywhere_for_what_it_gives():
    made = _made_up([0.001, 0.01, 0.16, 1, 1, 1, 1], [1, 1, 1, 1, 0.1, 0.01, 0.001])
    worth = np.array([0, 0, 0.5, 1, 1, 1, 1])
    made = dataclasses.replace(made, memory=profiles.Memory(worth, None))
    w = made.weighted((0.01, 0.01), budget=4.0)
    # risk / w: at w = 1, of a level or the worse one beside it, 1 to 100; it is linear in w here
    np.testing.assert_allclose(w, [0, 0, 0.02, 0.04, 0.04, 0.4, 1], atol=1e-6)
    assert (made.weighted((0.01, 0.01), budget=16.0) >= w).all()
    assert (made.weighted((0.01, 0.01), budget=0.0) == 0).all()
    with pytest.raises(ValueError, match="memory"):
        dataclasses.replace(made, memory=None).weighted((0.01, 0.01))


def test_a_weaker_strength_of_more_risk_stops_the_freeform_strength():
    zero = np.zeros(1)
    curves = {
        (profiles.ALL, w): profiles.Curve(np.array([k]), zero, 9 * np.ones(1), zero)
        for w, k in ((0.5, 4.0), (1, 0.5))
    }
    made = profiles.Profile(np.zeros(1), (0.5, 1.0), curves, "exact")
    assert made.freeform((1.0, 1.0)) == pytest.approx([0.25])


@pytest.mark.parametrize(
    ("images", "policy", "proxy", "word"),
    [
        (np.zeros((20, 8, 8, 1), np.uint8), POLICY, "exact", "all alike"),
        (_gaussian_images(20), Policy(ops=()), "exact", "augment.ops"),
        (_gaussian_images(20), POLICY, "magic", "proxy"),
    ],
)
def test_what_cannot_be_profiled_is_said(images, policy, proxy, word):
    with pytest.raises(UserError, match=word):
        s.profile(images, policy, proxy=proxy)
