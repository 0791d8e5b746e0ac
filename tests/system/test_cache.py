"""The cache of compiled programs: what is cut short goes, and the rest stays within its bound."""

import os
import zlib

import jax
import pytest
import zstandard

from tada_jax.system import backend, cache

PROGRAM = bytes(range(256)) * 400


def entry(folder, name, content, used=None):
    path = folder / f"jit_{name}-cache"
    path.write_bytes(content)
    if used is not None:
        os.utime(path, (used, used))
    return path


@pytest.mark.parametrize("pack", [zlib.compress, zstandard.compress])
@pytest.mark.parametrize("keep", [0, 1, 40, -1])
def test_an_entry_that_was_cut_short_is_deleted_before_it_is_met(keep, pack, tmp_path):
    whole = entry(tmp_path, "whole", pack(PROGRAM))
    cut = entry(tmp_path, "cut", pack(PROGRAM)[:keep])
    lines = []
    cache.tend(tmp_path, say=lines.append)
    assert whole.exists() and not cut.exists()
    assert len(lines) == 1 and str(tmp_path) in lines[0] and "cut short" in lines[0]


def test_only_new_entries_are_read_again(tmp_path, monkeypatch):
    for name in "ab":
        entry(tmp_path, name, zlib.compress(PROGRAM), used=1e9)
    cache.tend(tmp_path)
    new = entry(tmp_path, "new", zlib.compress(PROGRAM))
    looked_at = []
    monkeypatch.setattr(cache, "_is_whole", lambda path: looked_at.append(path) or True)
    cache.tend(tmp_path)
    assert looked_at == [new]


def test_what_has_not_been_used_for_longest_makes_room(tmp_path):
    entries = [
        entry(tmp_path, i, zlib.compress(os.urandom(10_000)), used=1e9 + i) for i in range(5)
    ]
    cache.tend(tmp_path, most_bytes=25_000)
    assert [path.exists() for path in entries] == [False, False, False, True, True]
    cache.tend(tmp_path / "nowhere")  # nothing there is nothing to do


def test_a_truncated_program_is_compiled_and_kept_again(tmp_path, monkeypatch):
    """With JAX's own cache: without the deletion it would be left as it is for good."""
    before = (
        jax.config.jax_compilation_cache_dir,
        jax.config.jax_persistent_cache_min_compile_time_secs,
    )
    from jax.experimental.compilation_cache import compilation_cache

    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        compilation_cache.reset_cache()

        def start():
            jax.clear_caches()
            return float(jax.jit(lambda x: x * 3 + 1)(2.0))

        assert start() == 7.0
        (program,) = (p for p in tmp_path.glob("jit__lambda*-cache"))
        content = program.read_bytes()
        program.write_bytes(content[:100])
        backend.enable_compilation_cache()
        assert not program.exists()
        assert start() == 7.0
        assert len(program.read_bytes()) > 100
    finally:
        jax.config.update("jax_compilation_cache_dir", before[0])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])
        compilation_cache.reset_cache()
