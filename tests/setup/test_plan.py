"""What equal runs share, and what they must not."""

import numpy as np
import pytest

from tada_jax.model.sampler import make_sampler
from tada_jax.setup.plan import plan
from tada_jax.system import backend, memo
from tada_jax.training.heldout import make_evaluation
from tada_jax.training.step import make_steps, resident_batches
from tests import tiny


def programs(**fields):
    """(parts, compiled steps, program of the sampler, of the evaluation) of a run."""
    config = tiny.config(**fields)
    planned = plan(config)
    parts, mesh = planned.parts, planned.mesh
    fetch = resident_batches(config, planned.order, backend.over_batch(mesh))
    return (
        parts,
        make_steps(parts, config, mesh, fetch),
        make_sampler(parts, mesh, batch_size=8).program,
        make_evaluation(parts, config, mesh).program,
    )


def test_runs_that_differ_in_nothing_compiled_share_it():
    first = programs()
    again = programs(seed=3, log__every=1, train__total_steps=9, sample__count=3)
    assert all(a is b for a, b in zip(first, again))


@pytest.mark.parametrize(
    "fields",
    [
        {"model__channels": 16},
        {"tada__delta": 0.2},
        {"augment__p": 0.5},
        {"optimizer__learning_rate": 1e-5},
        {"sample__steps": 4},
    ],
)
def test_runs_of_other_parts_share_nothing(fields):
    assert not any(a is b for a, b in zip(programs(), programs(**fields)))


@pytest.mark.parametrize(
    "fields",
    [
        {"train__ema_decay": 0.9},
        {"train__batch_size": 8},
        {"ema__widths": (0.1,)},
        {"data__train_size": 40},
        {"data__order": "balanced"},
    ],
)
def test_runs_of_other_steps_share_no_step(fields):
    first, other = programs(), programs(**fields)
    assert first[0] is other[0] and first[1] is not other[1]


def test_what_was_not_asked_for_lately_is_made_anew():
    made, kept = [], memo.Memo(size=2)
    for key in "abacab":
        kept.get(key, lambda key=key: made.append(key))
    assert made == ["a", "b", "c", "b"]
    memo.forget()
    kept.get("a", lambda: made.append("a"))
    assert made[-1] == "a" and len(made) == 5


def test_samples_of_a_program_that_is_shared_are_by_their_own_seed():
    config = tiny.config()
    planned = plan(config)
    params = tiny.params(planned.parts)
    draws = [
        make_sampler(planned.parts, planned.mesh, batch_size=8)(params, range(8), seed=seed)
        for seed in (0, 1, 0)
    ]
    np.testing.assert_array_equal(draws[0], draws[2])
    assert (draws[0] != draws[1]).any()
