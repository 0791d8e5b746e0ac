"""Speed and sharpness of resampling methods, kept and rejected.

    python -m benchmarks.resampling [--data path/to/images.zip] [--size 32 64]

Times are medians and minima of interleaved repetitions, each on a batch in which every image has an
affine map of its own. Sharpness, after rotating images by uniform random angles:
  power  high-frequency power (.25-.5 cycles/pixel of the luma in a soft disc), relative to before
  PSNR   of rotating there and back, inside a radius of 26 of 64 pixels, peak-to-peak 2 [dB]
  ring   RMS error more than 2 and more than 4 pixels away from any edge of a rotated square of
         contrast 2
"""

import argparse
import functools
import io
import json
import pathlib
import statistics
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from benchmarks import timing
from tada_jax import resample as rs
from tada_jax.system import backend

# Rejected methods, here so that the choice can be checked.


def direct(kernel, radius):
    """A separable kernel evaluated at every pixel: (2 radius)^2 look-ups."""

    def method(x, matrix):
        height, width, _ = x.shape
        column, row = rs.positions(matrix, height, width)
        offsets = jnp.arange(1 - radius, radius + 1)

        def taps(position, size):
            pixel = jnp.floor(position).astype(jnp.int32)[..., None] + offsets
            weight = kernel(position[..., None] - pixel)
            inside = jnp.mod(pixel, 2 * (size - 1))
            mirrored = jnp.minimum(inside, 2 * (size - 1) - inside)
            return mirrored, weight / weight.sum(-1, keepdims=True)

        (i, wi), (j, wj) = taps(row, height), taps(column, width)
        read = x[i[..., :, None], j[..., None, :]]
        return jnp.einsum("hwa,hwb,hwabc->hwc", wi, wj, read)

    return method


def triangle(d):
    """The kernel of bilinear interpolation."""
    return jnp.maximum(1.0 - jnp.abs(d), 0.0)


def cubic(d):
    """Cubic convolution (Keys 1981), a = -1/2."""
    d = jnp.abs(d)
    near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return jnp.where(d < 1, near, jnp.where(d < 2, far, 0.0))


def lanczos(d, radius=3):
    """The Lanczos kernel."""
    return jnp.where(jnp.abs(d) < radius, jnp.sinc(d) * jnp.sinc(d / radius), 0.0)


def two_passes(x, matrix):
    """Columns, then rows, by dense products with a matrix for each line (Catmull & Smith 1980).

    The image is transposed first where that keeps the intermediate one larger.
    """
    height, width, _ = x.shape
    (a, b, tx), (c, d, ty) = matrix

    def line_products(image, scale, slope, shift):
        """Resamples each row v of [H,W,C] at scale * x + slope * v + shift."""
        v = jnp.arange(image.shape[0]) - (image.shape[0] - 1) / 2
        size = image.shape[1]
        to = jnp.arange(size) - (size - 1) / 2
        at = scale * to + slope * v[:, None] + shift + (size - 1) / 2
        inside = jnp.mod(at, 2 * (size - 1))
        at = jnp.minimum(inside, 2 * (size - 1) - inside)
        weights = lanczos(at[..., None] - jnp.arange(size))
        weights /= weights.sum(-1, keepdims=True)
        return jnp.einsum("vts,vsc->vtc", weights, image)

    def passes(image, a, b, tx, c, d, ty):
        # out(x, y) = image(a x + b y + tx, c x + d y + ty); first columns at fixed source row v.
        det = a * d - b * c
        first = line_products(image, det / d, b / d, tx - b / d * ty)
        return line_products(first.swapaxes(0, 1), d, c, ty).swapaxes(0, 1)

    upright = passes(x, a, b, tx, c, d, ty)
    turned = passes(x.swapaxes(0, 1), c, d, ty, a, b, tx)
    return jnp.where(jnp.abs(d) >= jnp.abs(b), upright, turned)


def bilinear(image, column, row):
    """Reads an image [H,W,C] at positions [H',W'] inside it."""
    height, width, _ = image.shape
    left = jnp.clip(column.astype(jnp.int32), 0, max(width - 2, 0))
    top = jnp.clip(row.astype(jnp.int32), 0, max(height - 2, 0))
    right, bottom = jnp.minimum(left + 1, width - 1), jnp.minimum(top + 1, height - 1)
    u, v = (column - left)[..., None], (row - top)[..., None]
    upper = (1 - u) * image[top, left] + u * image[top, right]
    lower = (1 - u) * image[bottom, left] + u * image[bottom, right]
    return (1 - v) * upper + v * lower


def dense(x, matrix):
    """The kept method with nodes in their order, which two dense matrix products make."""
    low_x, low_y, column, row = rs._prepare(x, matrix)
    enlarge_y, enlarge_x = (rs._nodes(n) @ low for n, low in zip(x.shape, (low_y, low_x)))
    large = jnp.einsum("bw,awc->abc", enlarge_x, jnp.einsum("ah,hwc->awc", enlarge_y, x))
    return bilinear(large, rs.OVERSAMPLING * column, rs.OVERSAMPLING * row)


def at_once(x, matrix):
    """The kept method without chunks."""
    return rs._look_up(x, matrix)


def oversampled(factor):
    """The kept method with another number of nodes a pixel."""

    def method(x, matrix):
        kept, rs.OVERSAMPLING = rs.OVERSAMPLING, factor

        def forget():
            return [f.cache_clear() for f in (rs._taps, rs._phases)]

        forget()
        try:
            return rs.resample(x, matrix, form="gather")
        finally:
            rs.OVERSAMPLING = kept
            forget()

    return method


METHODS = {
    "bilinear": direct(triangle, 1),
    "cubic convolution": direct(cubic, 2),
    "Lanczos-3": direct(lanczos, 3),
    "two passes, dense": two_passes,
    "2 nodes a pixel": oversampled(2),
    "3 nodes a pixel": oversampled(3),
    "KEPT: 4 nodes": functools.partial(rs.resample, form="gather"),
    "KEPT, matmul form": functools.partial(rs.resample, form="matmul"),
    "KEPT, without chunks": at_once,
    "KEPT, dense, no chunks": dense,
    "6 nodes a pixel": oversampled(6),
}


# Measurements.


def affine(angles, scales=1.0, shifts=None):
    """Matrices [N,2,3] that read the source at scale * rotation(angle) + shift."""
    n = len(angles)
    c, s = np.cos(angles) * scales, np.sin(angles) * scales
    shifts = np.zeros((n, 2)) if shifts is None else shifts
    rows = [[c, -s, shifts[:, 0]], [s, c, shifts[:, 1]]]
    return jnp.asarray(np.array(rows).transpose(2, 0, 1), jnp.float32)


def sharpness(method, images, seed=0):
    """The figures of a method; images [N,64,64,3] in [-1, 1]."""
    n, size = images.shape[:2]
    angles = np.random.default_rng(seed).uniform(-np.pi, np.pi, n)
    apply = jax.jit(jax.vmap(method))
    there = apply(images, affine(angles))
    back = np.asarray(apply(there, affine(-angles)))
    offset = np.arange(size) - (size - 1) / 2
    radius = np.hypot(*np.meshgrid(offset, offset))
    disc = 1 / (1 + np.exp((radius - 26) / 1.5))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    high = (frequency >= 0.25) & (frequency <= 0.5)

    def power(x):
        luma = np.asarray(x) @ np.array([0.299, 0.587, 0.114])
        return (np.abs(np.fft.fft2(luma * disc)) ** 2)[:, high].sum()

    error = (back - images)[:, radius <= 26]
    psnr = 10 * np.log10(4 / np.mean(error**2))
    return {
        "power": float(power(there) / power(images)),
        "psnr_db": float(psnr),
        "ringing_2px": ringing(method, 2, size),
        "ringing_4px": ringing(method, 4, size),
    }


def ringing(method, far, size=64, half=12):
    """RMS error of a rotated square more than `far` pixels away from its edges."""
    offset = np.arange(size) - (size - 1) / 2
    x, y = np.meshgrid(offset, offset)
    square = np.where(np.maximum(abs(x), abs(y)) < half, 1.0, -1.0)[..., None]
    angles = np.linspace(0.1, 1.5, 8)
    got = jax.jit(jax.vmap(method, (None, 0)))(jnp.float32(square), affine(angles))
    squares = []
    for angle, image in zip(angles, np.asarray(got)[..., 0]):
        c, s = np.cos(angle), np.sin(angle)
        dx, dy = abs(c * x - s * y) - half, abs(s * x + c * y) - half
        outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
        distance = np.where((dx > 0) | (dy > 0), outside, -np.maximum(dx, dy))
        truth = np.where((dx < 0) & (dy < 0), 1.0, -1.0)
        squares.append(((image - truth)[distance > far] ** 2).mean())
    return float(np.sqrt(np.mean(squares)))


def timings(size, batch, repeats):
    """(median, minimum) seconds a batch of every method at size x size, over all devices."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (batch, size, size, 3)).astype(np.float32)
    matrices = affine(
        rng.uniform(-np.pi, np.pi, batch),
        2 ** (0.2 * rng.normal(size=batch)),
        0.125 * size * rng.normal(size=(batch, 2)),
    )
    spread = backend.over_batch(backend.data_mesh(batch))
    x, matrices = jax.device_put((x, matrices), spread)
    actions = {}
    for name, method in METHODS.items():
        run = jax.jit(jax.vmap(method), out_shardings=spread)
        actions[name] = lambda run=run: run(x, matrices).block_until_ready()
    seconds = timing.interleaved(actions, repeats)
    return {name: (statistics.median(of), min(of)) for name, of in seconds.items()}


def load_images(path):
    """Every 9th image by name, the first 120, of a zip or folder of 64x64 PNGs, over white."""
    path = pathlib.Path(path)
    if path.is_dir():
        found = {str(file): file.read_bytes for file in path.rglob("*.png")}
    else:
        archive = zipfile.ZipFile(path)
        found = {n: functools.partial(archive.read, n) for n in archive.namelist()}
    images = []
    for name in sorted(n for n in found if n.lower().endswith(".png"))[::9][:120]:
        image = Image.open(io.BytesIO(found[name]())).convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        images.append(np.asarray(Image.alpha_composite(white, image).convert("RGB")))
    return np.stack(images).astype(np.float32) / 127.5 - 1


def synthetic_images(count=120, size=64):
    """Coloured noise with about the spectrum of natural images, for lack of real ones."""
    rng = np.random.default_rng(0)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size))) + 1 / size
    noise = np.fft.fft2(rng.normal(size=(count, 3, size, size))) / f**1.25
    x = np.fft.ifft2(noise).real.transpose(0, 2, 3, 1)
    return (x / np.abs(x).max((1, 2, 3), keepdims=True)).astype(np.float32)


def main():
    """Prints one table and one JSON line a method."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="zip or folder of 64x64 PNGs; else synthetic images")
    parser.add_argument("--size", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()

    backend.use_cpu_well(args.batch, pixels=max(args.size) ** 2, channels=64)
    images = load_images(args.data) if args.data else synthetic_images()
    source = pathlib.Path(args.data).name if args.data else "synthetic images"
    print(timing.machine())
    print(f"batches of {args.batch}; sharpness on {len(images)} of {source}")
    seconds = {size: timings(size, args.batch, args.repeats) for size in args.size}
    print(f"{'':38}" + "".join(f"{f'{n}x{n}: images/s':>18}{'(best)':>9}" for n in seconds), end="")
    print(f"{'power':>8}{'PSNR dB':>9}{'ring >2px':>11}{'>4px':>9}")
    lines = []
    for name in seconds[args.size[0]]:
        text, line = f"{name:38}", {"name": name, "batch": args.batch}
        for size, of in seconds.items():
            median, least = of[name]
            text += f"{args.batch / median:18,.0f}{args.batch / least:9,.0f}"
            line[f"{size}x{size}"] = {"median_s": median, "min_s": least}
        figures = sharpness(METHODS[name], images)
        text += "{:8.3f}{:9.1f}{:11.5f}{:9.5f}".format(*figures.values())
        line |= figures
        print(text, flush=True)
        lines.append(line)
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
