"""What the quick metrics of a run depend on, in a number."""

import pytest

from tada_jax.training import yardstick
from tests import tiny

CHANGES = {
    "sample__sampler": "ddpm",
    "sample__steps": 6,
    "sample__stride": "even",
    "sample__guidance": 2.0,
    "sample__eta": 0.5,
    "sample__clip_x0": False,
    "sample__seed": 1,
    "sample__use_ema": False,
    "sample__label": "3",
    "evaluate__extractor": "pixels",
    "evaluate__fit_steps": 7,
    "evaluate__convention": "pytorch-fid",
    "log__metrics_count": 9,
}
KEEPS = {
    "sample__count": 3,
    "sample__batch_size": 3,
    "sample__checkpoint": "best",
    "sample__ema_width": 0.1,
    "sample__ema_step": 4,
    "evaluate__count": 60,
    "evaluate__weights": "elsewhere.pth",
    "train__total_steps": 9,
    "log__sample_every": 9,
    "schedule__edm": {"rho": 1.0},  # of a run by timesteps
}


def test_every_field_is_one_or_the_other():
    fields = {f"{s}__{name}" for s in ("sample", "evaluate") for name in tiny.config()[s]}
    assert fields <= CHANGES.keys() | KEEPS.keys()


@pytest.mark.parametrize("field", CHANGES)
def test_what_the_numbers_depend_on_changes_it(field):
    usual = tiny.config(sample__stride="ddim") if field == "sample__stride" else tiny.config()
    assert yardstick.of(tiny.config(**{field: CHANGES[field]})) != yardstick.of(usual)


@pytest.mark.parametrize("field", KEEPS)
def test_what_they_do_not_depend_on_keeps_it(field):
    assert yardstick.of(tiny.config(**{field: KEEPS[field]})) == yardstick.of(tiny.config())


def test_edms_levels_count_where_they_are_sampled_at():
    usual, other = tiny.config(schedule__name="edm"), tiny.config(schedule__name="edm")
    other.schedule.edm.rho = 1.0
    assert yardstick.of(usual) != yardstick.of(other)


def test_ranks_by_losses_depend_on_none_of_it():
    assert yardstick.of_ranks(tiny.config(log__best_metric="test_mse")) == 0
    assert yardstick.of_ranks(tiny.config(log__best_metric="fd")) == yardstick.of(
        tiny.config(log__best_metric="fd")
    )


def test_the_looks_that_count_are_those_measured_as_the_last():
    lines = [{"step": i, **({} if by is None else {"yardstick": by})} for i, by in enumerate("aab")]
    assert [line["step"] for line in yardstick.same(lines)] == [2]
    assert yardstick.same([]) == []
