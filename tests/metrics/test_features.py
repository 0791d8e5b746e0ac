"""Features, their cache, and small networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tada_jax.data import load
from tada_jax.metrics import (
    classifier,
    features,
)
from tada_jax.system import backend
from tada_jax.system.errors import UserError
from tests.metrics.plainly import ROTATIONS

# Extractors


def test_features_do_not_depend_on_the_batch_or_the_device_count(digits):
    images = digits[0][:37]
    network = classifier.fit(classifier.labels_task(10), images, np.arange(37) % 10, steps=2)
    made = features.fitted(network, images)
    whole = made(images)
    assert whole.shape == (37, classifier.WIDTH)
    assert np.mean(whole.astype(float) ** 2) == pytest.approx(1, abs=1e-3)
    one = backend.data_mesh(1, jax.devices()[:1])
    np.testing.assert_allclose(made(images, one), whole, atol=1e-4)
    small = features.dataclasses.replace(made, batch_size=5)
    np.testing.assert_allclose(small(images), whole, atol=1e-4)


def test_features_are_kept_by_images_and_extractor(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path))
    pixels = features.pixels(4)
    found = pixels.cached(digits[0][:9])
    assert found.shape == (9, 16)
    np.testing.assert_allclose(found[0, 0], digits[0][0, :2, :2].mean() / 127.5 - 1, atol=1e-6)
    (kept,) = (tmp_path / "features").iterdir()
    np.testing.assert_array_equal(pixels.cached(digits[0][:9]), found)
    (kept / "features.npy").write_bytes(b"damaged")
    np.testing.assert_array_equal(pixels.cached(digits[0][:9]), found)
    pixels.cached(digits[0][:8]), features.pixels(8).cached(digits[0][:9])
    assert len(list((tmp_path / "features").iterdir())) == 3


def test_any_function_is_an_extractor(digits, tmp_path):
    made = features.of_function(lambda images: images.reshape(len(images), -1)[:, :3])
    np.testing.assert_array_equal(made(digits[0][:5]), digits[0][:5].reshape(5, -1)[:, :3])
    assert made.digest is None
    for function, message in (
        (lambda images: images[:2], "the extractor mine returns"),
        (lambda images: images.nothing, "the extractor mine fails with AttributeError"),
        (lambda images: "text", "the extractor mine fails with ValueError"),
    ):
        with pytest.raises(UserError, match=message):
            features.of_function(function, name="mine")(digits[0][:5])
    file = tmp_path / "mine.py"
    file.write_text("x = 3\n\ndef means(images):\n    return images.mean((1, 2))\n")
    np.testing.assert_allclose(
        features.of_file(f"{file}:means")(digits[0][:3]), digits[0][:3].mean((1, 2)), rtol=1e-6
    )
    for spec, message in (
        ("nowhere.py:f", "no file"),
        ("pixelz", "no file"),
        (f"{file}:nothing", "AttributeError"),
        (f"{file}:x", "x is no function"),
    ):
        with pytest.raises(UserError, match=message):
            features.of_file(spec)


def test_features_of_a_file_are_kept_only_under_a_version_that_it_states(
    digits, tmp_path, monkeypatch
):
    monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path / "cache"))
    file, weights, images = tmp_path / "mine.py", tmp_path / "weights.npy", digits[0][:5]
    text = (
        f"import numpy as np\n\ndef f(images):\n    w = np.load({str(weights)!r})\n"
        "    return images.mean((1, 2)) * w\n"
    )

    def mean(text, weight):
        file.write_text(text)
        np.save(weights, weight)
        return features.of_file(f"{file}:f").cached(images).mean()

    assert mean(text, 4.0) == pytest.approx(2 * mean(text, 2.0))
    first, kept = (mean(text + "f.version = 1\n", weight) for weight in (1.0, 2.0))
    assert kept == first  # the user said that nothing changed
    for stated in ("f.version = 2\n", "version = 3\n"):
        assert mean(text + stated, 2.0) == pytest.approx(2 * first)


def test_large_images_are_averaged_down():
    image = np.arange(6 * 4, dtype=np.uint8).reshape(1, 6, 4, 1)
    np.testing.assert_allclose(
        features.small(image, 3)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5], [18.5, 20.5]]
    )
    np.testing.assert_array_equal(features.small(image, 6), image)


def test_images_that_are_very_long_keep_a_pixel_of_their_short_side():
    noise = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 1), np.uint8)
    found = features.small(noise, 16)
    assert found.shape == (2, 1, 16, 1)
    np.testing.assert_allclose(found[:, 0, 0, 0], noise[:, :, :4, 0].mean((1, 2)), rtol=1e-6)
    assert features.small(noise.swapaxes(1, 2), 4).shape == (2, 4, 1, 1)
    assert features.pixels()(noise).shape == (2, 16)


def test_a_network_is_fitted_once_and_learns(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path))
    found = load("digits")
    images, labels, said = found.train.images, found.train.labels, []
    task = classifier.labels_task(10)
    network = classifier.fit(task, images, labels, steps=120, say=said.append)
    x = jnp.asarray(found.test.images, jnp.float32) / 127.5 - 1
    outputs, _ = classifier.apply(10, network.params, x)
    assert (np.argmax(outputs, 1) == found.test.labels).mean() > 0.9
    again = classifier.fit(task, images, labels, steps=120, say=said.append)
    assert len(said) == 1 and again.digest == network.digest
    jax.tree.map(np.testing.assert_array_equal, again.params, network.params)


def test_a_network_can_learn_from_the_augmentation_alone(digits):
    task = classifier.augmentation_task(ROTATIONS)
    assert task.outputs == ROTATIONS.label_size
    network = classifier.fit(task, digits[0][:50], steps=2)
    assert np.isfinite(features.fitted(network, digits[0])(digits[0][:7])).all()
    for side in (5, 40):
        image = np.zeros((3, side, side + 3, 3), np.uint8)
        assert classifier.fit(task, image, steps=1).params
