"""Reading folders of images beside torchvision and Hugging Face's datasets.

python -m benchmarks.read_race --venv=/tmp/peers      # installs them there, some gigabytes
python -m benchmarks.read_race --peers=/tmp/peers/bin/python

Draws 10,000 PNGs of 64x64 and 2,000 JPEGs of 512x512 in 10 folders; each contestant reads them, a
process for every reading, into a uint8 array [N,H,W,3] with labels: first with nothing in its
cache, and again. The contestants take turns. Seconds are from the end of the imports to the
array; processor time, workers included, depends less on what else runs. Memory is what the process
had at most above what it had after the imports: all of it, pages of mapped files included (a mapped
array counts once every image has been looked at, as ours is here), and anonymous memory alone,
looked at every 10 ms. What worker processes have is not counted.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from benchmarks import readers, timing

ROOT = pathlib.Path(__file__).parents[1]
PEERS = ("torch==2.14.1", "torchvision==0.29.1", "datasets==5.2.0", "pillow==13.0.0")
# name: (files, side, ending, what they are read at, 0 for as they are)
SETS = {
    "PNG 64": ("png", 10_000, 64, 0),
    "JPEG 512": ("jpg", 2_000, 512, 0),
    "JPEG 512 to 64": ("jpg", 2_000, 512, 64),
}
CLASSES = 10


def picture(rng, side, grain):
    """Soft light, shapes and, in some places, grain: uint8 [side,side,3]."""

    def smooth(nodes):
        coarse = rng.integers(0, 256, (nodes, nodes, 3), np.uint8)
        made = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        return np.asarray(made, np.float32)

    top, left = rng.integers(0, len(grain) - side, 2)
    where = smooth(3)[..., :1] / 255
    made = 32 + 0.75 * smooth(4) + 0.3 * where * (smooth(max(8, side // 16)) - 128)
    made += (2 + 5 * where) * grain[top : top + side, left : left + side, None]
    return made.clip(0, 255).astype(np.uint8)


def draw(folder, ending, count, side):
    """Writes pictures to folders of classes."""
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 1, (4 * side, 4 * side)).astype(np.float32)
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True)
    for i in range(count):
        file = folder / f"class{i % CLASSES}" / f"{i:05d}.{ending}"
        Image.fromarray(picture(rng, side, grain)).save(file, quality=90)


def install(folder):
    """The interpreter of an environment that has the peers."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PEERS], check=True)
    return python


def versions(python):
    """Of the peers, as one line."""
    names = [peer.partition("==")[0] for peer in PEERS]
    code = f"from importlib.metadata import version\nfor n in {names}: print(n, version(n))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return ", ".join(done.stdout.splitlines())


def read(name, python, folder, resolution, cache):
    """What `readers` prints of a reading, and `anonymous`, the most anonymous memory, in bytes."""
    own = {"TADA_JAX_CACHE": cache / "ours", "HF_HOME": cache / "peers", "HF_HUB_OFFLINE": "1"}
    command = [python, ROOT / "benchmarks" / "readers.py", name, folder, resolution]
    anonymous = 0
    with subprocess.Popen(
        [str(part) for part in command],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | {key: str(own[key]) for key in own},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        said = process.stdout.readline()
        while said == "imported\n" and process.poll() is None:
            try:
                anonymous = max(anonymous, readers.memory(process.pid).get("RssAnon", 0))
            except OSError:  # it has just ended
                break
            time.sleep(0.01)
        said, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"error: {name}: {errors[-2000:]}")
    found = json.loads(said.splitlines()[-1])
    return found | {"anonymous": anonymous - found["before"]["RssAnon"]}


def race(name, folder, resolution, contestants, repetitions, place):
    """{(contestant, "first" or "again"): [readings]} of a set, by turns."""
    found = {}
    for repetition in range(repetitions):
        for contestant, python in contestants.items():
            cache = pathlib.Path(tempfile.mkdtemp(dir=place))
            for start in ("first", "again"):
                made = read(contestant, python, folder, resolution, cache)
                found.setdefault((contestant, start), []).append(made)
                print(
                    f"{name}, {contestant}, {start} {repetition + 1}: {made['seconds']:.2f} s",
                    file=sys.stderr,
                )
            shutil.rmtree(cache)
    of = {contestant: readings[0] for (contestant, _), readings in found.items()}
    for contestant, reading in of.items():
        assert reading["shape"] == of["ours"]["shape"], contestant
        assert reading["labels"] == of["ours"]["labels"], contestant
        assert resolution or reading["crc"] == of["ours"]["crc"], contestant
    return found


def report(name, found, machine):
    """Prints a set's rows."""
    contestants = dict.fromkeys(contestant for contestant, _ in found)
    for start in ("first", "again"):
        own = [reading["seconds"] for reading in found["ours", start]]
        for contestant in contestants:
            readings = found[contestant, start]
            seconds = [reading["seconds"] for reading in readings]
            ratios = [theirs / mine for theirs, mine in zip(seconds, own)]
            size = int(np.prod(readings[0]["shape"]))
            peak, anonymous = (
                max(reading[key] - less for reading, less in zip(readings, before)) / size
                for key, before in (
                    ("peak", [reading["before"]["VmHWM"] for reading in readings]),
                    ("anonymous", [0] * len(readings)),
                )
            )
            median = statistics.median(seconds)
            worked = statistics.median(
                reading["cpu_s"] / mine["cpu_s"]
                for reading, mine in zip(readings, found["ours", start])
            )
            times = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            timing.show(
                f"| {name} | {start} | {contestant} | {median:.2f} s | {times} | {worked:.2f} | "
                f"{peak:.2f} | {anonymous:.2f} |",
                **{"benchmark": "read_race", "set": name, "start": start, "name": contestant},
                **{"seconds": seconds, "times_ours": ratios, "peak_by_array": peak},
                **{"anonymous_by_array": anonymous, "array_bytes": size, "machine": machine},
                cpu_by_ours=worked,
                import_s=statistics.median(reading["import_s"] for reading in readings),
            )


def main():
    """Draws, reads, prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers", help="an interpreter that has the peers")
    parser.add_argument(
        "--venv", type=pathlib.Path, help="where to install them, or where they are"
    )
    parser.add_argument("--folder", type=pathlib.Path, help="where to draw, or what was drawn")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--sets", default=";".join(SETS), help="which, with ; between them")
    parser.add_argument("--only", help="contestants beside ours, with ; between them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = pathlib.Path(temporary)
        python = options.peers or install(options.venv or place / "venv")
        contestants = {name: python for name in readers.CONTESTANTS}
        if options.only is not None:
            chosen = options.only.split(";")
            contestants = {name: python for name in contestants if name in chosen}
        contestants = {"ours": sys.executable} | contestants | {"ours": sys.executable}
        machine = timing.machine()
        print(f"{machine}; {versions(python)}")
        print(
            "| set | start | | median | times ours | processor time, times ours | peak / array "
            "| anonymous / array |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for name in options.sets.split(";"):
            ending, count, side, resolution = SETS[name]
            folder = (options.folder or place / "drawn") / f"{ending}_{count}_{side}"
            if not folder.exists():
                draw(folder, ending, count, side)
            what = name, folder, resolution, contestants, options.repetitions, place
            report(name, race(*what), machine)


if __name__ == "__main__":
    main()
