"""How runs end, and how they go on: signals, damage, full disks."""

import errno
import json
import os
import shutil
import signal

import pytest

from tada_jax.setup import length
from tada_jax.system import figures, logs
from tada_jax.system.errors import UserError
from tada_jax.training import checkpoint, loop, observe, workdir
from tada_jax.training.heldout import Evaluation
from tada_jax.training.run import load_run
from tests import tiny


def interrupting(monkeypatch, at, number):
    """Sends this process a signal when the line of step `at` is logged."""
    real = logs.Log.write

    def write(self, step, scalars):
        real(self, step, scalars)
        if step == at:
            signal.raise_signal(number)

    monkeypatch.setattr(logs.Log, "write", write)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"])
def test_a_signal_saves_and_the_same_command_continues(name, finished, tmp_path, monkeypatch):
    config, folder, whole = finished
    number = getattr(signal, name)
    interrupting(monkeypatch, 4, number)
    before = signal.signal(number, signal.default_int_handler)  # ignored in background jobs
    try:
        stopped = loop.train(config, tmp_path)
        assert int(stopped.step) == 5  # the step after the one in which it came
        assert signal.getsignal(number) == signal.default_int_handler
    finally:
        signal.signal(number, before)
    monkeypatch.undo()
    tiny.assert_trees_equal(loop.train(config, tmp_path), whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()]
    assert steps == [2, 3, 4, 5, 6]


class Looks:
    """A judge that finds copies from the second step on."""

    def glance(self, samples):
        self.count = getattr(self, "count", 0) + 1
        copies = 0.0 if self.count < 3 else 0.9
        return {"fd": 10.0 / self.count, "copies": copies, "copies_real": 0.0}


def test_a_run_ends_when_it_has_left_the_window(finished, tmp_path, monkeypatch, capfd):
    _, _, whole = finished
    looks = Looks()
    monkeypatch.setattr(observe.judges, "of_training", lambda *arguments: looks)
    monkeypatch.setattr(observe.judges, "prepare_in_turn", lambda judge: None)
    fields = {"log__metrics_every": 1, "log__metrics_count": 16, "log__checkpoint_every": 2}
    fields |= {"log__best_metric": "window"}
    config = tiny.config(**fields, train__stop="window")
    assert int(loop.train(config, tmp_path).step) == 4  # copies at two looks in a row
    said = capfd.readouterr().err
    assert "90% of the samples are copies" in said and "ended at step 4" in said
    assert load_run(tmp_path).step == 4
    assert load_run(tmp_path, checkpoint="best").step == 2
    assert int(loop.train(config, tmp_path).step) == 4 and looks.count == 4
    assert "this run ended at step 4" in capfd.readouterr().err
    longer = loop.train(tiny.config(**fields), tmp_path)
    tiny.assert_trees_equal(longer, whole)  # to stop changes nothing before


def test_a_length_that_is_left_to_the_run(tmp_path, monkeypatch, capfd):
    looks = Looks()
    monkeypatch.setattr(observe.judges, "of_training", lambda *arguments: looks)
    monkeypatch.setattr(observe.judges, "prepare_in_turn", lambda judge: None)
    monkeypatch.setattr(length, "settled", often)
    config = tiny.config(train__total_steps="auto", train__batch_size=16)
    assert int(loop.train(config, tmp_path).step) == 4
    said = capfd.readouterr().err
    assert "total_steps='auto': ends when it begins to copy, or after 50 steps" in said
    assert "ended at step 4" in said
    assert workdir.read_config(tmp_path).train.total_steps == "auto"
    assert load_run(tmp_path, checkpoint="best").step == 2
    assert int(loop.train(config, tmp_path).step) == 4 and looks.count == 4


def often(config, n):
    """`length.settled`, but with a look every step."""
    own = config.copy_and_resolve_references().unlock()
    with own.train.ignore_type():
        own.train.total_steps = n
    own.train.stop = own.log.best_metric = "window"
    own.log.metrics_every = own.log.checkpoint_every = 1
    own.log.metrics_count = 16
    return own


def test_a_window_needs_looks(tmp_path):
    with pytest.raises(UserError, match=r"config.log.metrics_every"):
        loop.train(tiny.config(train__stop="window"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("total", [6, "auto"])
def test_a_window_needs_held_out_images(total, tmp_path):
    config = tiny.config(data__test_fraction=0.0, train__total_steps=total)
    config.train.stop, config.log.metrics_every = "window", 1
    with pytest.raises(UserError, match=r"config.data.test_fraction"):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_moved_away_and_the_one_before_it_taken(finished, tmp_path):
    config, folder, whole = finished
    shutil.copytree(folder, tmp_path / "run")

    def flip(content):
        middle = len(content) // 2
        return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]

    tiny.damage(tmp_path / "run" / "checkpoints" / "6", flip)
    tiny.assert_trees_equal(loop.train(config, tmp_path / "run"), whole)
    assert (tmp_path / "run" / "damaged" / "6").is_dir()
    assert (tmp_path / "run" / "checkpoints" / "6").is_dir()  # saved anew


def test_if_every_checkpoint_is_damaged_nothing_is_thrown_away(finished, tmp_path):
    config, folder, _ = finished
    shutil.copytree(folder, tmp_path / "run")
    for step in ("3", "6"):
        tiny.damage(tmp_path / "run" / "checkpoints" / step)
    with pytest.raises(UserError, match="no checkpoint.*can be read") as e:
        loop.train(config, tmp_path / "run")
    assert "\n" not in str(e.value)
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["3", "6"]


def test_a_torn_last_line_and_an_unfinished_save_do_no_harm(finished, tmp_path):
    config, folder, whole = finished
    loop.train(tiny.config(train__total_steps=3), tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    saving = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp"
    saving.mkdir()
    (saving / "state").write_text("half")
    tiny.assert_trees_equal(loop.train(config, tmp_path), whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()]
    assert steps == [2, 3, 4, 6]


def test_a_folder_belongs_to_one_process(finished, tmp_path):
    config, _, _ = finished
    with workdir.occupied(config, tmp_path):
        with pytest.raises(UserError, match=rf"in use by process {os.getpid()} on"):
            loop.train(config, tmp_path)
    assert int(loop.train(tiny.config(train__total_steps=1), tmp_path).step) == 1


@pytest.mark.parametrize("call", ["fingerprints", "write", "save_png"])
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(call, finished, tmp_path, monkeypatch):
    config, _, whole = finished
    module = {"fingerprints": checkpoint, "write": logs.Log, "save_png": figures}[call]
    real, calls = getattr(module, call), []

    def full(*args):
        calls.append(call)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    monkeypatch.setattr(module, call, full)
    with pytest.raises(UserError, match="disk is full.*saved.*same command") as e:
        loop.train(config, tmp_path)
    assert "\n" not in str(e.value)
    monkeypatch.undo()
    tiny.assert_trees_equal(loop.train(config, tmp_path), whole)


def test_the_best_checkpoint_outlives_the_latest_ones(tmp_path, monkeypatch):
    scores = iter([3.0, 1.0, 2.0, 4.0, 5.0])

    class Fake(Evaluation):
        mean = property(lambda self: self.mse)

        def by_logsnr(self):
            return {0.0: 1.0}

    def make_evaluation(*_, **__):
        def evaluate(*_):
            return Fake(next(scores), None, None)

        evaluate.examples = 16
        return evaluate

    monkeypatch.setattr(observe, "make_evaluation", make_evaluation)
    config = tiny.config(
        train__total_steps=5,
        log__checkpoint_every=1,
        log__eval_every=10,
        log__best_metric="train_mse",
        data__test_fraction=0.0,
        log__keep_checkpoints=1,
    )
    loop.train(config, tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2", "5"]
    assert load_run(tmp_path, checkpoint="best").step == 2
