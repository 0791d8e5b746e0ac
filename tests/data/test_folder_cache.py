"""What was decoded before is read from the cache, and only where nothing has changed."""

import json
import pathlib

import numpy as np
import pytest

from tada_jax.data import cache, images
from tada_jax.data.base import Rows
from tada_jax.system.errors import UserError
from tests.data.pictures import (
    NAMES,
    assert_equal,
    encode,
    error,
    forbid_decoding,
    load,
    noise,
    pngs,
    truth,
    write,
    write_zip,
)


def test_a_second_load_decodes_nothing_and_is_equal(tmp_path, monkeypatch):
    files = pngs(*NAMES)
    root = write(tmp_path / "a", files)
    first = load(root, test_fraction=0.5)
    with monkeypatch.context() as patch:
        forbid_decoding(patch)
        assert_equal(first, load(root, test_fraction=0.5))
        assert first.source == load(root, test_fraction=0.5).source
    # The same files elsewhere, packed: the same hash.
    assert_equal(first, load(write_zip(tmp_path / "b.zip", files), test_fraction=0.5))
    assert len(list((tmp_path / "cache" / "images").iterdir())) == 1
    write(root, {"notes.txt": b""})
    assert load(root).reading.other_files == ".txt 1"


def test_whatever_changes_pixels_or_order_is_decoded_anew(tmp_path):
    root = write(tmp_path / "a", pngs("a/1.png", "a/2.png", "b/3.png"))
    variants = [
        load(root),
        load(root, resolution=4),
        load(root, channels=1),
        load(root, fit="pad", resolution=4),
        load(root, background=(0, 0, 0)),
    ]
    (root / "a/1.png").rename(root / "b/4.png")
    variants.append(load(root))
    changed = noise(8, 8)
    write(root, {"a/2.png": encode(changed)})
    variants.append(load(root))
    np.testing.assert_array_equal(variants[-1].train.images[0], changed)
    np.testing.assert_array_equal(variants[-1].train.labels, [0, 1, 1])
    cache = list((tmp_path / "cache" / "images").iterdir())
    assert len(cache) == len(variants)


@pytest.mark.parametrize("damage", ["cut", "gone", "empty", "json", "fewer"])
def test_a_damaged_cache_is_made_anew(tmp_path, damage):
    root = write(tmp_path / "a", pngs("1.png", "2.png"))
    first = load(root)
    (kept,) = (tmp_path / "cache" / "images").iterdir()
    pixels, facts = kept / "images.npy", kept / "facts.json"
    if damage == "cut":
        pixels.write_bytes(pixels.read_bytes()[:-1])
    elif damage == "gone":
        pixels.unlink()
    elif damage == "empty":
        pixels.write_bytes(b"")
    elif damage == "json":
        facts.write_text(facts.read_text()[:-9])
    else:
        facts.write_text(json.dumps(json.loads(facts.read_text()) | {"names": ["1.png"]}))
    again = load(root)
    assert_equal(load(root), again)
    np.testing.assert_array_equal(again.reading.sizes, first.reading.sizes)


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path, monkeypatch):
    files = {"1.png": encode(noise(8, 8)), "2.png": encode(noise(9, 9))}  # are read twice
    root = write(tmp_path / "a", files)
    decode = images.decode

    def meanwhile(content, *, resolution, **options):
        if resolution == 8:
            write(root, {"2.png": encode(noise(9, 9))})
        return decode(content, resolution=resolution, **options)

    monkeypatch.setattr(images, "decode", meanwhile)
    assert "2.png changed while it was read" in error(root)
    assert list((tmp_path / "cache" / "images").iterdir()) == []


def test_a_file_that_changes_after_its_only_reading_was_what_it_was(tmp_path, monkeypatch):
    before, after = pngs("1.png"), pngs("1.png")
    root, inspect = write(tmp_path / "a", before), images.inspect_and_open

    def meanwhile(content):
        write(root, after)
        return inspect(content)

    with monkeypatch.context() as patch:
        patch.setattr(images, "inspect_and_open", meanwhile)
        np.testing.assert_array_equal(load(root).train.images[:], truth(before))
    np.testing.assert_array_equal(load(root).train.images[:], truth(after))


def test_images_stay_on_disk(tmp_path):
    dataset = load(write(tmp_path / "a", pngs(*(f"{n}.png" for n in range(10)))), test_fraction=0.2)
    assert isinstance(dataset.train.images, Rows) and isinstance(dataset.test.images, Rows)
    assert dataset.train.images.shape == (8, 8, 8, 3) and len(dataset.test.images) == 2
    assert "8 training + 2 held-out" in dataset.source
    (kept,) = (tmp_path / "cache" / "images").iterdir()
    assert np.load(kept / "images.npy", mmap_mode="r").shape == (10, 8, 8, 3)


def test_progress_is_quiet_when_quick(tmp_path, capsys):
    load(write(tmp_path / "a", pngs("1.png", "2.png")))
    assert capsys.readouterr().err == ""


def test_runs_among_the_images_are_left_out_and_named(tmp_path):
    names = [f"{kind}/{n}.png" for kind in ("cat", "dog") for n in range(6)]
    folder = write(tmp_path / "pictures", pngs(*names))
    alone = load(folder)
    run = write(folder / "runs" / "mine", pngs("real.png", "samples/grid.png"))
    for name in ("config.json", "versions.json"):
        (run / name).write_text("{}")
    beside = load(folder)
    assert beside.digest == alone.digest and beside.class_names == ("cat", "dog")
    assert beside.source.endswith("left out, since they are runs: 'runs/mine'")
    with pytest.raises(UserError, match="is the folder of a run.*samples"):
        load(run)


def test_a_cache_out_of_reach_is_one_line(monkeypatch):
    def forbidden(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "is_dir", forbidden)
    with pytest.raises(UserError, match="cache .* cannot be written .*TADA_JAX_CACHE"):
        cache.cached("key", lambda folder: None)
