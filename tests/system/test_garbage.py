"""How often Python looks for garbage: seldom where it traces, often while it reads files."""

import gc

import pytest

import main
from tada_jax import data
from tada_jax.data import digits
from tada_jax.system import garbage


@pytest.fixture(autouse=True)
def thresholds():
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_files_are_read_with_frequent_looks(monkeypatch):
    seen, load = [], digits.load

    def watched(options):
        seen.append(gc.get_threshold())
        return load(options)

    monkeypatch.setattr(digits, "load", watched)
    gc.set_threshold(1234, 5, 6)
    data.load("digits", train_size=10)
    assert seen == [garbage.OFTEN] and gc.get_threshold() == (1234, 5, 6)


def test_what_was_set_before_returns_after_an_error():
    gc.set_threshold(1234, 5, 6)
    with pytest.raises(OSError), garbage.collecting_often():
        raise OSError
    assert gc.get_threshold() == (1234, 5, 6)


def test_the_command_looks_seldom(monkeypatch):
    def leave():  # before anything else of the process is changed
        raise SystemExit

    monkeypatch.setattr(main, "open_streams", leave)
    gc.set_threshold(*garbage.OFTEN)
    with pytest.raises(SystemExit):
        main.main()
    assert gc.get_threshold() == garbage.SELDOM
