"""What orbax and Python say on their own account while checkpoints are open."""

import asyncio
import gc
import logging

import pytest

from tada_jax.system import quiet


@pytest.fixture
def entered():
    quiet.orbax.enter()
    yield
    quiet.orbax.leave()


def test_tasks_of_orbax_that_nobody_waits_for_are_not_shown(entered, caplog):
    logger = logging.getLogger("asyncio")
    logger.error("Task exception was never retrieved\nfuture: <Task ... orbax/checkpoint/x.py:1>")
    logger.error("Task exception was never retrieved\nfuture: <Task ... mine.py:1>")
    assert [record.getMessage().rpartition(" ")[2] for record in caplog.records] == ["mine.py:1>"]


def test_waiting_for_a_checkpoint_is_told_with_its_remedy_and_only_if_long(entered, caplog):
    logger = logging.getLogger("absl")
    for seconds in ("1.280582", "61.5"):
        logger.warning("Waiting for previous save to complete took %s seconds. If ...", seconds)
    assert [record.getMessage() for record in caplog.records] == [
        "61.5 s lost in writing: raise config.log.checkpoint_every"
    ]


def test_any_other_task_is_shown(entered, caplog):
    async def fail():
        raise ValueError("mine")

    async def abandon():
        task = asyncio.create_task(fail())
        await asyncio.sleep(0)
        del task

    asyncio.run(abandon())
    gc.collect()
    assert "never retrieved" in caplog.text and "mine" in caplog.text


@pytest.mark.parametrize(("error", "shown"), [(KeyboardInterrupt, False), (ValueError, True)])
def test_a_dropped_interrupt_is_no_traceback(error, shown, entered, monkeypatch):
    seen = []
    monkeypatch.setattr(quiet.orbax, "_hook", lambda event: seen.append(event.exc_type))

    class Dropping:
        def __del__(self):
            raise error

    Dropping()
    gc.collect()
    assert seen == ([error] if shown else [])
