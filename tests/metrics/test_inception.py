"""FID's Inception against the PyTorch original, and files of PyTorch, harmless and not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tada_jax.metrics import inception
from tada_jax.system.errors import UserError
from tests import tiny
from tests.metrics.make_torch_data import pictures, random_weights


@pytest.fixture(scope="module")
def weights():
    """Random weights under the names and in the shapes of the PyTorch port."""
    shapes = jax.eval_shape(
        inception.Inception().init, jax.random.key(0), jnp.zeros((1, 299, 299, 3))
    )
    theirs = {}
    for unit, leaves in shapes["params"].items():
        for name, leaf in leaves.items():
            order = (3, 2, 0, 1) if len(leaf.shape) == 4 else (0,)
            theirs[f"{unit}.{name}"] = tuple(leaf.shape[i] for i in order)
    return random_weights(theirs)


def test_the_network_has_the_size_of_inception(weights):
    assert len(weights) == 94 * 5
    learned = (w.size for name, w in weights.items() if "running" not in name)
    assert sum(learned) == 23_834_568 - (2048 + 1) * 1000  # Inception v3 without its classifier


@pytest.mark.parametrize("convention", inception.CONVENTIONS)
def test_features_are_those_of_the_pytorch_original(convention, weights):
    """Recorded by tests/metrics/make_torch_data.py with pytorch-fid and the same weights."""
    params = inception.params_from_state_dict(weights | {"fc.weight": np.zeros(3)})
    expected = np.load(tiny.FILES / "inception_features.npz")
    batch = np.concatenate([inception.prepare(image, convention) for _, image in pictures()])
    assert batch.dtype == np.float32 and batch.shape == (4, 299, 299, 3)
    found = np.asarray(jax.jit(inception.features)(params, batch))
    for (name, _), mine in zip(pictures(), found):
        theirs = expected[f"{convention} {name}"][0]
        assert theirs.shape == mine.shape == (2048,) and theirs.std() > 0.01
        assert np.linalg.norm(mine - theirs) < 1e-4 * np.linalg.norm(theirs), name


def test_images_are_resized_as_clean_fid_does():
    image = np.random.default_rng(0).integers(0, 256, (1, 20, 31, 3), np.uint8)
    found = inception.prepare(image, "clean-fid")[0] * 128 + 128
    for c in range(3):
        channel = Image.fromarray(image[0, :, :, c].astype(np.float32))
        expected = np.clip(np.asarray(channel.resize((299, 299), Image.Resampling.BICUBIC)), 0, 255)
        np.testing.assert_allclose(found[:, :, c], expected, atol=1e-3)
    grey = inception.prepare(image[..., :1], "pytorch-fid")
    assert (grey[..., 0] == grey[..., 2]).all() and np.abs(grey).max() <= 1
    with pytest.raises(ValueError, match="convention"):
        inception.prepare(image, "torch-fid")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("Mixed_7c.branch_pool.conv.weight"), "branch_pool.conv.weight is missing"),
        (lambda w: w.update({"Mixed_5b.branch1x1.bn.bias": np.zeros(3)}), r"has the shape \[3\]"),
        (lambda w: w.clear(), "is missing; take pt_inception"),
    ],
)
def test_other_weights_are_refused(change, message, weights):
    changed = dict(weights)
    change(changed)
    with pytest.raises(UserError, match=message):
        inception.params_from_state_dict(changed)


def test_the_file_of_another_network_is_named():
    with pytest.raises(UserError, match=r"older\.pth: .* is missing; take pt_inception"):
        inception.load(tiny.FILES / "older.pth")


# Files of PyTorch
