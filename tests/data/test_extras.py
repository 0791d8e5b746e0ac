"""The door to optional libraries."""

import sys

import pytest

from tada_jax.data import extras
from tests import tiny


def test_a_missing_library_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"lmdb, which is not installed: pip install 'tada-jax\["):
        extras.library("lmdb")


def test_the_extra_holds_all_of_them():
    pins = (tiny.ROOT / "requirements-formats.txt").read_text().splitlines()
    assert {pin.partition("==")[0] for pin in pins if "==" in pin} == set(extras.LIBRARIES)
    assert extras.versions().count(",") == len(extras.LIBRARIES) - 1
