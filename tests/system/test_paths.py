"""Files that are written whole or not at all."""

import ast
import json
import pathlib

import numpy as np
import pytest

import tada_jax
from tada_jax.band.profile import ALL, Check, Curve, Profile, from_json
from tada_jax.system import logs
from tada_jax.system.paths import replacing, to_json, write_whole


def test_an_interrupted_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "file.txt"
    write_whole(path, "old")
    with pytest.raises(KeyboardInterrupt):
        with replacing(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    write_whole(path, "new")
    assert path.read_text() == "new"


def test_two_processes_do_not_share_what_they_write_to(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    with replacing(path) as mine:
        monkeypatch.setattr("os.getpid", lambda: 1)
        with replacing(path) as other:
            assert mine != other
            mine.write_text("mine"), other.write_text("other")
        assert path.read_text() == "other"
    assert path.read_text() == "mine"


def test_names_in_other_encodings_can_be_written(tmp_path):
    write_whole(tmp_path / "data.txt", "classes: caf\udce9, ü")
    assert (tmp_path / "data.txt").read_text(encoding="utf-8") == "classes: caf\\udce9, ü"


def _strict(text):
    """JSON by the standard: NaN and Infinity are errors."""

    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_json_has_null_for_what_is_not_finite():
    tree = {"a": float("nan"), "b": (np.float32("inf"), 1), "c": np.array([1.0, -np.inf]), 2: None}
    assert _strict(to_json(tree)) == {"a": None, "b": [None, 1], "c": [1.0, None], "2": None}
    assert _strict(to_json(Check(1.0, 2.0, float("inf"), 0.1, 0.2, 1.0)))["limit"] is None
    with pytest.raises(TypeError):
        to_json({"a": object()})


def test_json_is_written_in_one_place_alone():
    folder = pathlib.Path(tada_jax.__file__).parent
    writers = {
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in ("dumps", "dump")
        and isinstance(node.value, ast.Name)
        and node.value.id == "json"
    }
    assert writers == {"system/paths.py"}


def test_a_log_says_what_was_not_finite_and_readers_do_not_see_it(tmp_path):
    log = logs.Log(tmp_path, first_step=0)
    log.write(1, {"loss": float("inf"), "by": {1.0: float("nan"), 2.0: 0.5}, "mse": 0.25})
    log.write(2, {"loss": 0.5})
    log.close()
    first, second = map(_strict, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert first["loss"] is None and first["by"] == {"1.0": None, "2.0": 0.5}
    assert first["notes"] == {"loss": "inf", "by/1.0": "nan"} and "notes" not in second
    seen = logs.read(tmp_path)
    assert "loss" not in seen[0] and seen[0]["by"] == {"2.0": 0.5} and seen[0]["mse"] == 0.25
    before = (tmp_path / "metrics.jsonl").read_text()
    logs.Log(tmp_path, first_step=2).close()  # a resumed run
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_lines_with_nan_of_older_versions_are_read_and_mended(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": NaN, "mse": 0.5}\n')
    assert logs.read(tmp_path) == [{"step": 1, "mse": 0.5}]
    logs.Log(tmp_path, first_step=1).close()
    (line,) = map(_strict, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert line == {"step": 1, "loss": None, "mse": 0.5, "notes": {"loss": "nan"}}


def test_a_profile_without_a_finite_limit_comes_back_as_it_was():
    one = np.ones(2)
    check = Check(1.0, 2.0, float("inf"), float("nan"), 0.2, 1.0)
    curves = {(ALL, 1.0): Curve(one, one, one, np.array([1.0, np.nan]))}
    profile = Profile(np.arange(2.0), (1.0,), curves, "exact", check)
    _strict(profile.to_json())
    again = from_json(profile.to_json())
    assert again.check.limit == np.inf and np.isnan(again.check.error)
    np.testing.assert_array_equal(again.curves[ALL, 1.0].visible_error, [1.0, np.nan])
