"""Files with several pages or frames."""

import numpy as np
import pytest
from PIL import Image

from tada_jax import data
from tada_jax.data import images
from tada_jax.system.errors import UserError
from tests.data.pictures import encode, noise

STACKS = [[noise(8, 8, 1) for _ in range(count)] for count in (5, 1, 3, 3, 2, 4)]


def stack(pages, kind="TIFF", **options):
    first, *others = map(Image.fromarray, pages)
    return encode(first, kind, save_all=True, append_images=others, **options)


def load(path, **options):
    return data.load("images", path=str(path), **{"test_fraction": 0.0} | options)


@pytest.fixture
def folder(tmp_path):
    for i, pages in enumerate(STACKS):
        file = tmp_path / "set" / "ab"[i % 2] / f"{i}.tif"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(stack(pages))
    return tmp_path / "set"


def test_the_first_page_is_taken_and_the_others_are_named(folder):
    found = load(folder)
    assert len(found.train.images) == 6
    assert (
        "5 of 6 files have pages or frames, 17 in all: the first of each is taken" in found.source
    )


def test_all_pages_are_images_of_their_files_class(folder):
    found = load(folder, pages="all")
    order = (0, 2, 4, 1, 3, 5)  # a/0, a/2, a/4, b/1, ...
    expected = np.concatenate([STACKS[i] for i in order])
    np.testing.assert_array_equal(np.asarray(found.train.images)[..., 0], expected)
    np.testing.assert_array_equal(found.train.labels, [0] * 10 + [1] * 8)
    assert len(found.reading.sizes) == 18
    assert "17 in all: each is an image" in found.source


def test_pages_of_a_file_are_held_out_together(folder):
    for seed in range(5):
        found = load(folder, pages="all", test_fraction=0.4, seed=seed)
        sides = [
            {image.tobytes() for image in part.images[:]} for part in (found.train, found.test)
        ]
        assert all(sides)
        for pages in STACKS:
            there = [{page.tobytes() for page in pages} <= side for side in sides]
            assert sum(there) == 1
        assert len(found.train.images) + len(found.test.images) == 18
        assert len(found.test.labels) == len(found.test.images)


def test_pages_as_channels(tmp_path, folder):
    with pytest.raises(UserError, match="a/0.tif: has 5 pages: data.pages=channels takes 3"):
        load(folder, pages="channels")
    found = load(folder, pages="channels", unreadable="skip")
    expected = [np.stack(STACKS[i], -1) for i in (2, 3)]
    np.testing.assert_array_equal(np.asarray(found.train.images), expected)
    with pytest.raises(UserError, match="leave data.channels=1 out"):
        load(folder, pages="channels", channels=1)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_frames_of_animations(tmp_path, kind):
    shades = [np.full((8, 8), value, np.uint8) for value in (10, 100, 200)]
    content = stack(shades, kind, **({"lossless": True} if kind == "WEBP" else {}))
    header = images.inspect(content)
    assert header.pages == (0, 1, 2)
    for page, shade in enumerate(shades):
        found = images.decode(content, resolution=8, channels=1, page=page)
        np.testing.assert_array_equal(found[..., 0], shade)


@pytest.mark.parametrize("subfile", [1, 4, 5])
def test_a_reduced_version_or_a_mask_in_front_is_no_page(subfile):
    small, *whole = noise(4, 4, 1), noise(8, 8, 1), noise(8, 8, 1)
    content = stack([small, *whole], tiffinfo={254: subfile})
    # Pillow gives the tag to every page: take it from the others.
    tag = b"\xfe\x00\x04\x00\x01\x00\x00\x00"
    at = content.find(tag) + len(tag) + 4
    content = content[:at] + content[at:].replace(tag + bytes([subfile]), tag + b"\0")
    header = images.inspect(content)
    assert (header.height, header.width) == (8, 8) and header.pages == (1, 2)
    for page, pixels in zip(header.pages, whole):
        found = images.decode(content, resolution=8, channels=1, page=page)
        np.testing.assert_array_equal(found[..., 0], pixels)


def test_one_range_for_all_pages(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    pages = [np.full((8, 8), value, np.uint16) for value in (100, 4095)]
    (folder / "a.tif").write_bytes(stack(pages))
    found = np.asarray(load(folder, pages="all").train.images)
    assert found[0, 0, 0, 0] == round(100 * 255 / 4095) and found[1, 0, 0, 0] == 255
    assert np.asarray(load(folder).train.images)[0, 0, 0, 0] == round(100 * 255 / 255)


def test_other_sources_have_no_pages(tmp_path):
    with pytest.raises(UserError, match="data.pages=all"):
        data.load("digits", pages="all")
    np.save(tmp_path / "set.npy", np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(UserError, match="set.npy has none"):
        data.load("images", path=str(tmp_path / "set.npy"), pages="all")
    with pytest.raises(UserError, match="choose one of: first, all, channels"):
        data.load("images", path=str(tmp_path), pages="every")
