"""Numbers of samples beside those of real images."""

import re
import types

import numpy as np
import pytest

from tada_jax.metrics import scores
from tests.metrics.plainly import normal

TRAIN, HELD_OUT = normal(1, 300, 16), normal(2, 100, 16)


def judge():
    """A judge whose samples, of [N,16], are their own features."""
    extractor = type("Extractor", (), {"name": "identity", "__call__": lambda self, x, mesh: x})()
    features = {"train": TRAIN, "held_out": HELD_OUT}
    title = "{} images".format
    return types.SimpleNamespace(extractor=extractor, mesh=None, features=features, title=title)


@pytest.mark.parametrize("key", ["fd", "recall", "coverage"])
def test_samples_like_real_images_score_what_as_many_real_images_score(key):
    few = scores.quality_scores(judge(), normal(3, 80, 16))
    for reference in ("train", "held_out"):
        number = few[f"{key}/{reference}"]
        assert number.real_n is None and number.value == pytest.approx(number.real, rel=0.3)
    many = scores.quality_scores(judge(), normal(3, 1000, 16))
    for reference, fewer in (("train", 100), ("held_out", 300)):
        number = many[f"{key}/{reference}"]
        assert number.real_n == fewer
        of_fewer = float(re.search(rf"of {fewer} samples ([0-9.]+)", number.note)[1])
        assert of_fewer == pytest.approx(number.real, rel=0.3)
        if reference == "train":  # most of all where few stand in
            assert abs(number.value - number.real) > abs(of_fewer - number.real)


def test_the_kernel_distance_has_no_bias():
    number = scores.quality_scores(judge(), normal(3, 1000, 16))["kid/train"]
    assert number.real_n is None and "samples" not in number.note
    assert np.isfinite(number.value)
