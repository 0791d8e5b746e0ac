"""LPIPS against its authors' package (lpips 0.1.4), at the same random weights."""

import numpy as np
import pytest

from tada_jax.metrics import lpips
from tada_jax.system.errors import UserError
from tests.metrics.make_torch_data import random_weights

# What lpips.LPIPS(net="alex") gives for the weights and the images below.
EXPECTED = {
    31: [0.03280067443847656, 0.031497757881879807],
    64: [0.03507079556584358, 0.035323552787303925],
}


@pytest.fixture(scope="module")
def weights():
    drawn = random_weights(lpips.shapes())
    return {name: np.abs(w) if name.startswith("lin") else w for name, w in drawn.items()}


def test_distances_are_those_of_the_authors(weights):
    params, rng = lpips.params_from_state_dict(weights), np.random.default_rng(3)
    for side, expected in EXPECTED.items():
        a = rng.uniform(-1, 1, (2, side, side + 5, 3)).astype(np.float32)
        b = (a + 0.3 * rng.normal(size=a.shape)).clip(-1, 1).astype(np.float32)
        np.testing.assert_allclose(lpips.distance(params, a, b), expected, rtol=1e-5)
        np.testing.assert_allclose(lpips.distance(params, a, a), 0.0, atol=1e-7)


def test_grey_images_are_taken_as_rgb(weights):
    params = lpips.params_from_state_dict(weights)
    a, b = np.random.default_rng(0).uniform(-1, 1, (2, 1, 32, 32, 1)).astype(np.float32)
    grey, rgb = (
        lpips.distance(params, a, b),
        lpips.distance(params, a.repeat(3, -1), b.repeat(3, -1)),
    )
    np.testing.assert_allclose(grey, rgb, rtol=1e-6)


def test_other_weights_and_small_images_are_refused(weights, monkeypatch):
    with pytest.raises(UserError, match=r"features\.3\.bias is missing"):
        lpips.params_from_state_dict({k: w for k, w in weights.items() if k != "features.3.bias"})
    monkeypatch.setattr(lpips, "read_state_dict", lambda path: weights)
    small = np.zeros((1, 8, 8, 1), np.float32)
    with pytest.raises(UserError, match="at least 31 pixels"):
        lpips.of_files("any.pth")(small, small)
