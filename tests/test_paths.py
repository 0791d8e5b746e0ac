"""Files that are written whole or not at all."""

import pytest

from tada_jax.paths import replacing, write_whole


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
