"""The plan of the house: rooms in one order, each imports only from those before it."""

import ast

import pytest

from benchmarks import rooms
from tests import tiny

HOUSE = rooms.read()


def test_no_import_of_a_later_room():
    assert not HOUSE.upwards()


def test_no_circles():
    assert not HOUSE.circles()


def test_every_module_lies_in_a_room():
    assert {HOUSE.room(module) for module in HOUSE.lines} == set(rooms.ROOMS)
    door = {module for module in HOUSE.lines if HOUSE.room(module) == rooms.DOOR}
    assert door == {"tada", "augment", "transforms", "resample"}


def test_who_wants_the_method_alone_takes_four_files():
    for module in ("tada", "augment", "transforms", "resample"):
        assert {HOUSE.room(other) for other in HOUSE.imports[module]} <= {rooms.DOOR}


@pytest.mark.parametrize("room", [room for room in rooms.ROOMS[1:] if room != "data"])
def test_a_room_says_what_it_is_for_and_hands_on_nothing(room):
    body = ast.parse((tiny.ROOT / "tada_jax" / room / "__init__.py").read_text()).body
    assert len(body) == 1 and len(body[0].value.value) > 50  # its docstring


def test_circles_and_upward_imports_are_found(tmp_path):
    package = tmp_path / "house"
    for room in ("system", "model"):
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").touch()
    (package / "system" / "a.py").write_text("def f():\n    from house.model import b\n")
    (package / "model" / "b.py").write_text("from house.system.a import f\n")
    house = rooms.read(package)
    assert house.upwards() == [("system.a", "model.b")]
    assert house.circles() == {frozenset({"system.a", "model.b"})}
