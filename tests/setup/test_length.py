"""How long a run shall be."""

import importlib
import json

import pytest
from ml_collections import ConfigDict

from tada_jax.metrics.measures import GLANCES
from tada_jax.setup import length, limits
from tada_jax.setup.plan import plan
from tada_jax.system.errors import UserError
from tests import tiny


def test_what_is_expected_grows_with_the_images_and_with_augmentation():
    def expected(method, n):
        return length.expected(tiny.config(method, train__batch_size=100), n)

    low, high = length.PASSES
    assert f"between steps {low:,} and {high:,}, the range" in expected("none", 100)
    assert f"between steps {2 * low:,} and {2 * high:,}, the range" in expected("none", 200)
    later = [f"{limit * factor:,.0f}" for limit, factor in zip(length.PASSES, length.LATER)]
    assert f"between steps {later[0]} and {later[1]} with TADA" in expected("tada", 100)
    assert "without augmentation, and later here" in expected("constant", 100)
    assert "6 steps show each image 6 times" in expected("none", 100)


def auto(method="none", **fields):
    return tiny.config(method, train__total_steps="auto", **fields)


@pytest.mark.parametrize(
    ("method", "n", "batch", "most"),
    [
        ("none", 100, 100, 2300),
        ("none", 200, 50, 9200),
        ("tada", 100, 100, 7590),
        ("constant", 100, 100, 7590),  # nobody knows how much later, so as late as TADA
    ],
)
def test_auto_ends_where_copies_begin_at_the_latest(method, n, batch, most):
    own = length.settled(auto(method, train__batch_size=batch, sample__steps=1), n)
    assert own.train.total_steps == most and own.train.stop == "window"


def test_looks_are_as_frequent_as_their_time_allows():
    brief = length.settled(auto(train__batch_size=100, log__metrics_count=30, sample__steps=1), 100)
    assert brief.log.metrics_every == 300 / length.LOOKS
    fields = {"train__batch_size": 100, "log__metrics_count": 300, "sample__steps": 50}
    images = 300 * 50 / 3  # of training, which takes three times as long as drawing
    for times, options in (
        (1, {}),
        (2, {"sample__sampler": "heun"}),
        (2, {"sample__guidance": 2.0, "model__class_conditional": True}),
    ):
        slow = length.settled(auto(**fields, **options), 1000)
        assert slow.log.metrics_every == max(times * length.APART * images / 100, 150)


def test_there_are_two_looks_before_the_first_copies_at_least():
    own = length.settled(auto(log__metrics_count=5000, train__batch_size=100), 100)
    assert own.log.metrics_every == 300 / 2


@pytest.mark.parametrize("name", [p.stem for p in (tiny.ROOT / "configs").glob("*_*.py")])
def test_every_configuration_can_be_left_to_the_run(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    config.train.total_steps = "auto"
    for n in (50, 1000, 50_000):
        low, high = length.range_of_copies(config, n)
        own = length.settled(config, n)
        assert 0 < own.log.metrics_every <= low / 2 + 1 and own.train.total_steps >= high
        assert own.log.checkpoint_every == own.log.metrics_every


def test_what_is_set_stays():
    kept = auto(log__metrics_every=7, log__checkpoint_every=3, log__best_metric="train_mse")
    own = length.settled(kept, 100)
    assert own.log.metrics_every == 7 and own.log.checkpoint_every == 3
    assert own.log.best_metric == "train_mse" and kept.train.total_steps == "auto"
    kept.log.best_metric = "fd"  # so that each checkpoint takes a look, which has its price
    own = length.settled(kept, 100)
    assert own.log.best_metric == "fd" and own.log.checkpoint_every == 7
    default = length.settled(auto(log__checkpoint_every=10_000), 100)
    assert default.log.checkpoint_every == default.log.metrics_every
    assert default.log.best_metric == "window"
    rare = length.settled(auto(log__metrics_every=5000), 100)  # as in configs/folder_tada.py
    assert rare.log.metrics_every == default.log.metrics_every < 5000
    number = tiny.config(train__total_steps=9)
    assert length.settled(number, 100) is number


def test_the_ways_to_rank_by_samples_are_what_a_glance_finds():
    assert {*length.BY_SAMPLES} == {*GLANCES, "window"}


def test_a_configuration_that_was_saved_with_a_run_is_settled_too():
    """Its fields have the types of their values, and no others."""
    saved = ConfigDict(json.loads(auto().to_json()))
    own, again = length.settled(saved, 100), length.settled(auto(), 100)
    assert own.train.total_steps == again.train.total_steps


@pytest.mark.parametrize("total", [2.5, "long", True])
def test_nothing_else_can_be_put(total):
    with pytest.raises(TypeError, match="neither a whole number nor 'auto'"):
        length.put(auto(), total)


def test_a_plan_knows_the_number():
    planned = plan(auto(data__train_size=40))
    assert planned.config.train.total_steps == length.settled(auto(), 40).train.total_steps
    assert f"or after {planned.config.train.total_steps:,} steps" in length.expected(auto(), 40)


@pytest.mark.parametrize("total", ["long", 0])
def test_other_lengths_are_refused(total):
    with pytest.raises(UserError, match=r"config.train.total_steps=.*cannot be.*, or 'auto'"):
        limits.check(tiny.config(train__total_steps=total))
