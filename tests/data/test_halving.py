"""Images are halved to the very pixels that Pillow's boxes give."""

import numpy as np
import pytest
from PIL import Image

from tada_jax.data import images
from tests.data.pictures import noise


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "size", [(64, 64), (256, 512), (24, 40), (36, 36), (50, 20), (33, 64), (17, 19), (1, 8)]
)
@pytest.mark.parametrize("times", [0, 1, 2, 3, 5])
def test_halved_as_by_pillow(size, channels, times):
    pixels = noise(*size, channels)
    for values in (pixels, np.where(pixels > 127, np.uint8(255), np.uint8(0))):
        image = expected = Image.fromarray(values)
        for _ in range(times):
            halves = [max(1, x // 2) for x in expected.size]
            expected = expected.resize(halves, Image.Resampling.BOX)
        found = images._halved(image, times)
        assert found.mode == expected.mode
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
