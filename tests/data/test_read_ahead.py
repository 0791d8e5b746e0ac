"""Images that are decoded when they are first read are those that are decoded afterwards."""

import json

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tada_jax.data import decoding, images, manifest, read_ahead
from tests.data.pictures import encode, error, load, noise, pngs, write

RGB, GREY = noise(8, 8), noise(8, 8, channels=1)
ALPHA = np.dstack([RGB, GREY])
MASK = (GREY > 99).astype(np.uint8)
DEEP = GREY.astype(np.uint16) * 16

# name: (images in their order, options, whether each file is read but once)
SETS = {
    "colours": ([RGB, noise(8, 8)], {}, True),
    "grey": ([GREY, GREY.T], {}, True),
    "grey among colours": ([RGB, GREY, ALPHA], {}, True),
    "colours after grey": ([GREY, RGB], {}, False),
    "colours as grey": ([RGB, GREY], {"channels": 1}, True),
    "two sizes": ([RGB, noise(9, 9)], {}, False),
    "two sizes, one wanted": ([RGB, noise(9, 12)], {"resolution": 4}, True),
    "kept aspects": ([noise(8, 12), noise(16, 24)], {"resolution": 4, "fit": "keep"}, True),
    "masks": ([MASK, MASK.T], {}, False),
    "12 bits in 16": ([DEEP, DEEP.T], {}, False),
    "by a given range": ([DEEP, DEEP.T], {"range": "0:4095"}, True),
    "all that 16 bits hold": ([DEEP, DEEP.T], {"range": "full"}, True),
}


@pytest.mark.parametrize("name", SETS)
def test_the_same_as_afterwards(tmp_path, monkeypatch, name):
    pictures, options, once = SETS[name]
    files = {f"{i}.png": encode(picture) for i, picture in enumerate(pictures)}
    root = write(tmp_path / "a", files)
    read, inspect = [], images.inspect_and_open
    monkeypatch.setattr(
        images, "inspect_and_open", lambda content: read.append(content) or inspect(content)
    )
    given = []
    give = read_ahead.ReadAhead.give
    monkeypatch.setattr(
        read_ahead.ReadAhead, "give", lambda *arguments: given.append(give(*arguments)) or given[-1]
    )
    first = load(root, **options)
    assert (given[0] is not None) == once and len(read) == len(files)
    (kept,) = (tmp_path / "cache" / "images").iterdir()
    facts = json.loads((kept / "facts.json").read_text())

    # With nothing expected of a set, its files are read as often as it takes.
    monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(read_ahead.ReadAhead, "_expected", lambda self, header: None)
    again = load(root, **options)
    assert given[1] is None
    np.testing.assert_array_equal(again.train.images[:], first.train.images[:])
    (kept,) = (tmp_path / "other" / "images").iterdir()
    assert json.loads((kept / "facts.json").read_text()) == facts


def test_damage_is_named_alike(tmp_path, monkeypatch):
    whole = pngs("1.png", "2.png", "3.png")
    torn = whole["2.png"][:-30]
    root = write(tmp_path / "a", whole | {"2.png": torn, "3.png": b"no image"})
    said, facts = [], []
    for turn, expected in enumerate((read_ahead.ReadAhead._expected, lambda self, header: None)):
        monkeypatch.setattr(read_ahead.ReadAhead, "_expected", expected)
        monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path / f"cache {turn}"))
        said.append(error(root))
        found = load(root, unreadable="skip")
        assert len(found.train.images) == 1
        facts.append(found.reading.skipped)
    assert said[0] == said[1] and "3.png" in said[0]
    assert facts[0] == facts[1] and len(facts[0]) == 2


def test_nothing_stays_behind(tmp_path, monkeypatch):
    files = {"1.png": encode(RGB), "2.png": encode(noise(9, 9))}
    load(write(tmp_path / "a", files))
    (kept,) = (tmp_path / "cache" / "images").iterdir()
    assert not kept.name.startswith("reading.")
    monkeypatch.setattr(decoding, "digest", lambda *parts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load(write(tmp_path / "b", pngs("1.png", "2.png")))
    assert list((tmp_path / "cache" / "images").iterdir()) == [kept]


def test_a_cache_that_is_full_meanwhile_is_no_matter_of_the_first_reading(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(read_ahead.ReadAhead, "_write", full)
    files = pngs("1.png", "2.png")
    assert len(load(write(tmp_path / "a", files)).train.images) == 2


def noted(image, **options):
    """A PNG with a text chunk, as many tools write."""
    about = PngInfo()
    about.add_text("Software", "x")
    return encode(image, pnginfo=about, **options)


def test_pngs_with_notes_are_refused_and_read_as_those_without(tmp_path):
    """Looking for EXIF among the notes decodes them, and what is decoded twice passes for whole."""
    files = {f"{i}.png": noted(noise(32, 32)) for i in range(4)}
    at = files["2.png"].index(b"IDAT") + 500
    torn = bytearray(files["2.png"])
    torn[at] ^= 0x55
    root = write(tmp_path / "a", files | {"2.png": bytes(torn)})
    assert "2.png" in error(root)
    assert len(load(root, unreadable="skip").train.images) == 3
    few_bits = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8) * 85)
    grey = Image.fromarray(np.repeat(np.repeat(np.asarray(few_bits), 8, 0), 8, 1))
    for make in (encode, noted):
        content = make(grey, bits=8, transparency=85)
        header, opened = images.inspect_and_open(content)
        assert (opened is None) == (make is noted)
        made = images.decode(content, resolution=16, channels=3, opened=opened)
        assert made[0, 8].tolist() == [255, 255, 255]  # what is transparent shows the background


def test_what_is_lost_on_the_way_is_read_again(tmp_path, monkeypatch):
    """Whatever happens to the images that are kept, none is left out in silence."""
    root = write(tmp_path / "a", pngs("1.png", "2.png", "3.png"))
    write_row = read_ahead.ReadAhead._write

    def losing(self, name, pixels):
        if name != "1.png":
            write_row(self, name, pixels)

    monkeypatch.setattr(read_ahead.ReadAhead, "_write", losing)
    assert len(load(root).train.images) == 3


def test_a_manifest_that_appears_meanwhile_leaves_nothing_out(tmp_path, monkeypatch):
    root = write(tmp_path / "a", pngs("1.png", "2.png", "3.png"))
    find = manifest.Manifest.find
    known = {"1.png": decoding.digest((root / "1.png").read_bytes())}
    monkeypatch.setattr(
        manifest.Manifest, "find", lambda self, name: known.get(name) or find(self, name)
    )
    assert len(load(root).train.images) == 3


def test_a_manifest_that_cannot_be_read_is_no_new_one(tmp_path, monkeypatch):
    def forbidden(self, *arguments, **options):
        raise PermissionError(13, "Permission denied")

    root = write(tmp_path / "a", pngs("1.png", "2.png"))
    monkeypatch.setattr(manifest.pathlib.Path, "read_text", forbidden)
    known = manifest.Manifest(root, lambda name: None)
    assert not known.is_new
