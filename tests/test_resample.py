import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tada_jax import resample as rs
from tada_jax.resample import resample

run = jax.jit(resample, static_argnames="form")
batch = jax.jit(jax.vmap(resample))


def affine(angle=0.0, scale=1.0, shift=(0.0, 0.0)):
    """The matrix that reads the source at scale * rotation(angle) + shift."""
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]], np.float32)


def natural_images(count, size=64, seed=0):
    """Images whose spectrum falls about like that of natural ones, each with a crisp disc."""
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)) + 1 / size
    noise = np.fft.fft2(rng.normal(size=(count, size, size))) / f**1.25
    x = np.fft.ifft2(noise).real
    x = x / np.abs(x).max((1, 2), keepdims=True)
    y, c = np.mgrid[:size, :size] - size / 2
    r = np.hypot(y - rng.normal(0, 8, (count, 1, 1)), c)
    edges = np.clip(rng.uniform(6, 20, (count, 1, 1)) - r + 0.5, 0, 1)  # a pixel wide
    return jnp.asarray((0.6 * x + 0.4 * edges)[..., None], jnp.float32)


def numpy_reference(x, matrix):
    """The stated kernel, evaluated pixel by pixel in float64 on the endlessly mirrored image."""
    h, w, _ = x.shape
    y, c = np.mgrid[:h, :w].astype(np.float64)
    c, y = c - (w - 1) / 2, y - (h - 1) / 2
    m = np.asarray(matrix, np.float64)
    columns = m[0, 0] * c + m[0, 1] * y + m[0, 2] + (w - 1) / 2
    rows = m[1, 0] * c + m[1, 1] * y + m[1, 2] + (h - 1) / 2

    def taps(centre, size, stretch):
        """Weights of all pixels around a place on the endless axis, folded into the image."""
        period = max(2 * (size - 1), 1)
        pixels = np.arange(-100, size + 100)
        k = rs.kernel((centre - pixels) / stretch)
        mirrored = np.abs((pixels + size - 1) % period - (size - 1))
        return np.bincount(mirrored, k / k.sum(), minlength=size)

    @functools.cache
    def node(n, size, a):
        """Weights of a node: between pixels from which what would alias has been taken."""
        low_pass = np.stack([taps(p, size, rs.STRETCHES[a]) for p in range(size)])
        return taps(n / rs.OVERSAMPLING, size, 1.0) @ low_pass

    def weights(position, size, step):
        """Weights of all pixels at one position: linear between nodes, and between stretches."""
        period = 2 * (size - 1)
        inside = position % period
        at = rs.OVERSAMPLING * min(inside, period - inside)
        level = min(max(2 * np.log2(max(step, 1.0)), 0), len(rs.STRETCHES) - 1)
        total = np.zeros(size)
        for a in range(len(rs.STRETCHES)):
            for n in range(rs.OVERSAMPLING * (size - 1) + 1):
                share = max(1 - abs(level - a), 0) * max(1 - abs(at - n), 0)
                if share:
                    total += share * node(n, size, a)
        return total

    steps = np.linalg.norm(m[:, :2], axis=1)
    out = np.empty(x.shape)
    for i in range(h):
        for j in range(w):
            wy = weights(rows[i, j], h, steps[1])
            wx = weights(columns[i, j], w, steps[0])
            out[i, j] = np.einsum("h,w,hwc->c", wy, wx, x)
    return out


@pytest.mark.parametrize("form", rs.FORMS)
@pytest.mark.parametrize(
    ("shape", "matrix"),
    [
        ((7, 11, 3), affine(0.4, 1.0, (0.3, -1.2))),
        ((7, 11, 1), affine(-2.5, 1.9, (31.7, -55.2))),  # far outside, and shrinking
        ((8, 5, 2), affine(1.3, 0.6)),
        ((6, 6, 1), np.float32([[3.0, 0.4, 0.0], [-0.2, 0.7, 2.5]])),
    ],
)
def test_agrees_with_a_direct_evaluation_of_its_kernel(shape, matrix, form):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.testing.assert_allclose(run(x, matrix, form=form), numpy_reference(x, matrix), atol=5e-5)


@pytest.mark.parametrize("shape", [(9, 9, 3), (8, 13, 1)])
def test_passes_through_the_pixels(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    h, w, _ = shape
    close = functools.partial(np.testing.assert_allclose, atol=2e-5)
    close(run(x, affine()), x)
    close(run(x, np.float32([[-1, 0, 0], [0, 1, 0]])), x[:, ::-1])
    close(run(x, np.float32([[1, 0, 0], [0, -1, 0]])), x[::-1])
    moved = np.pad(x, ((2, 2), (3, 3), (0, 0)), "reflect")
    close(run(x, affine(shift=(-3, 2))), moved[4:, :w])
    if h == w:
        close(run(x, affine(np.pi / 2)), np.rot90(x, 1))


def test_tends_to_the_identity():
    x = natural_images(1)[0]
    for tiny in (1e-2, 1e-3):
        error = jnp.abs(run(x, affine(tiny / 32)) - x).max()
        assert error < 5 * tiny


def test_gather_and_matmul_are_the_same_and_vmap_is_the_loop():
    x = natural_images(5, size=17)
    rng = np.random.default_rng(1)
    matrices = np.stack(
        [affine(rng.uniform(-3, 3), 2 ** rng.normal(), 3 * rng.normal(size=2)) for _ in range(5)]
    )
    looped = np.stack([run(a, m, form="gather") for a, m in zip(x, matrices)])
    np.testing.assert_allclose(batch(x, matrices), looped, atol=1e-5)
    matmul = np.stack([run(a, m, form="matmul") for a, m in zip(x, matrices)])
    np.testing.assert_allclose(matmul, looped, atol=1e-5)


@pytest.mark.parametrize("count", [16, 9])  # in chunks of 8 and of 3
def test_vmap_in_chunks_keeps_the_order(count, monkeypatch):
    monkeypatch.setattr(rs, "CHUNK_PIXELS", 8 * 12 * 12)
    batch = jax.jit(lambda *args: jax.vmap(resample)(*args))  # traced anew, with that number
    x = natural_images(count, size=12)
    rng = np.random.default_rng(2)
    matrices = np.stack([affine(a, 1.0, rng.normal(size=2)) for a in rng.uniform(-3, 3, count)])
    looped = np.stack([run(a, m, form="gather") for a, m in zip(x, matrices)])
    np.testing.assert_allclose(batch(x, matrices), looped, atol=1e-5)
    one_image = jax.jit(jax.vmap(resample, (None, 0)))(x[0], matrices)
    np.testing.assert_allclose(one_image[-1], run(x[0], matrices[-1]), atol=1e-5)
    one_matrix = jax.jit(jax.vmap(resample, (0, None)))(x, matrices[0])
    np.testing.assert_allclose(one_matrix[-1], run(x[-1], matrices[0]), atol=1e-5)


@pytest.mark.parametrize("shape", [(9, 6, 3), (1, 4, 1), (2, 3, 1)])
def test_phases_by_slices_and_by_products_are_the_same(shape):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    found = jax.jit(rs._phases_by_slices)(x)
    np.testing.assert_allclose(found, jax.jit(rs._phases_by_products)(x), atol=1e-5)
    np.testing.assert_array_equal(found[0, 0], x)  # the pixels themselves


def test_inside_a_step_that_is_differentiated(monkeypatch):
    """Gradients for other quantities pass it by, rematerialised or not."""
    monkeypatch.setattr(rs, "CHUNK_PIXELS", 8 * 12 * 12)
    x, matrices = natural_images(16, size=12), np.stack([affine(0.3)] * 16)

    def loss(scale):
        return (scale * jax.vmap(resample)(x, matrices)).sum()

    expected = batch(x, matrices).sum()
    for function in (loss, jax.checkpoint(loss)):
        assert float(jax.jit(jax.grad(function))(1.0)) == pytest.approx(float(expected), rel=1e-5)


def bilinear(x, matrix):
    """The control: what most augmentation libraries do."""
    rows, columns = rs.positions(matrix, *x.shape[:2])[::-1]
    read = jax.scipy.ndimage.map_coordinates
    return read(x[..., 0], [rows, columns], order=1, mode="mirror")[..., None]


def test_sharpness_under_rotation():
    """The benchmark's two figures and its thresholds, on synthetic images."""
    x = natural_images(24)
    size = x.shape[1]
    angles = np.random.default_rng(0).uniform(-np.pi, np.pi, len(x))
    forth, back = (np.stack([affine(sign * a) for a in angles]) for sign in (1, -1))
    y, c = np.mgrid[:size, :size] - (size - 1) / 2
    disc = 1 / (1 + np.exp((np.hypot(y, c) - 26) / 1.5))
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    high = (f >= 0.25) & (f <= 0.5)

    def power(images):
        spectrum = np.fft.fft2(np.asarray(images)[..., 0] * disc)
        return (np.abs(spectrum) ** 2)[:, high].sum()

    def figures(method):
        apply = jax.jit(jax.vmap(method))
        there = apply(x, forth)
        error = np.asarray(apply(there, back) - x)[:, np.hypot(y, c) <= 26]
        return power(there) / power(x), 10 * np.log10(4 / np.mean(error**2))

    share, psnr = figures(resample)
    assert share > 0.93 and psnr > 38
    share, psnr = figures(bilinear)
    assert share < 0.6 and psnr < 36


def test_shrinking_does_not_alias():
    """A pattern finer than the smaller image can show turns grey instead of into another one."""
    y, x = np.mgrid[:64, :64]
    stripes = np.cos(2 * np.pi * 0.4 * x)[..., None].astype(np.float32)
    shrunk = run(stripes, affine(scale=2.0))[:, 8:-8]
    assert float(jnp.abs(shrunk).mean()) < 0.05
    nearest = stripes[:, ::2]
    assert np.abs(nearest).mean() > 0.5  # what plain sampling would show
    # Along one axis only: the other keeps its detail.
    one_axis = run(stripes.swapaxes(0, 1), np.float32([[2, 0, 0], [0, 1, 0]]))
    np.testing.assert_allclose(one_axis[8:-8, 8:-8], stripes.swapaxes(0, 1)[8:-8, 8:-8], atol=0.03)


@pytest.mark.parametrize("scale", [1.5, 2.0, 3.0])
def test_a_shrunk_checkerboard_turns_grey(scale):
    board = (np.indices((64, 64)).sum(0) % 2 * 2.0 - 1)[..., None].astype(np.float32)
    matrix = affine(0.3, scale)
    aliases = float((np.asarray(bilinear(board, matrix)) ** 2).mean())
    assert aliases > 0.05  # the control
    assert float((run(board, matrix) ** 2).mean()) < 1e-3 * aliases


def test_flat_areas_stay_flat():
    """No ringing beyond the kernel's radius."""
    x = np.full((64, 64, 1), -1, np.float32)
    x[20:44, 20:44] = 1
    y = np.asarray(run(x, affine(0.7)))[..., 0]
    r = np.hypot(*(np.mgrid[:64, :64] - 31.5))
    np.testing.assert_allclose(y[r < 12 - 5], 1, atol=1e-3)
    np.testing.assert_allclose(y[r > 12 * np.sqrt(2) + 6], -1, atol=1e-3)


def test_one_compilation_for_all_matrices():
    traces = []

    @jax.jit
    def counted(x, m):
        traces.append(1)
        return resample(x, m)

    for i in range(4):
        counted(jnp.ones((5, 6, 1)), affine(i, 1 + i))
    assert len(traces) == 1


def test_single_rows_and_columns():
    x = np.random.default_rng(0).normal(size=(1, 6, 1)).astype(np.float32)
    for form in rs.FORMS:
        np.testing.assert_allclose(run(x, affine(), form=form), x, atol=1e-5)


def test_refuses_unknown_forms():
    with pytest.raises(ValueError, match="nearest"):
        resample(jnp.ones((4, 4, 1)), affine(), form="nearest")
