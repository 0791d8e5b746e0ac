"""Everything that a machine with a GPU must show, in one call: one JSON of all figures.

    benchmarks/accelerator.sh OUT                    # installs what is missing, then the next line
    python -m benchmarks.accelerator OUT             # 9 minutes at most
    python -m benchmarks.accelerator OUT --small     # on a CPU, to see that all of it runs

Each part is a command of this folder or of main.py, in a process of its own, in order of
importance; what no longer fits into the time is named as left out. A part that fails ends none of
the others.
"""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
PYTHON = sys.executable


@dataclasses.dataclass(frozen=True)
class Part:
    """A command: its name, what it shows, and the seconds that it may take.

    Attributes:
      name: of the part in the JSON.
      command: arguments.
      seconds: after which it is stopped.
    """

    name: str
    command: tuple[str, ...]
    seconds: int


def parts(runs, small, images):
    """The `Part`s, in order of importance.

    Args:
      runs: folder for runs of main.py.
      small: whether the network is the one of digits, on a CPU.
      images: folder or zip of pictures for a short training, or None: digits.
    """
    half = "--config.model.dtype=bfloat16"

    def bench(name, *flags):
        return (PYTHON, "-m", f"benchmarks.{name}", *flags)

    def network(word):
        if small:
            return "--config=configs/digits_tada.py", half
        return f"--config=configs/ffhq64_tada.py:{word}", "--side=64", half

    few = (f"--repetitions={3 if small else 7}",)
    peer = () if small else ("--against=torch", "--compile")
    run = (PYTHON, "main.py", f"--config=configs/digits_tada.py:{'none' if small else 'tada'}")
    run += (
        "--config.train.deterministic=True",
        f"--config.train.total_steps={20 if small else 500}",
    )
    run += ("--config.log.every=10", "--config.log.metrics_every=0")
    pictures = ("--config=configs/digits_tada.py",)
    if images:
        pictures = ("--config=configs/folder_tada.py", f"--config.data.path={images}")
        pictures += ("--config.data.resolution=64", half)
    steps, times = (20, 4) if small else (1500, 1)
    pictures += (f"--config.train.total_steps={steps}", f"--config.log.sample_every={steps}")
    pictures += ("--config.log.metrics_every=0", f"--workdir={runs / 'pictures'}")
    found = (
        ("train_68m", bench("train_step", *network("68m"), *few, *peer), 150),
        ("train_17m", bench("train_step", *network("17m"), *few, *peer), 120),
        ("augment_68m", bench("augment", *network("68m"), *few), 90),
        ("attention", bench("attention", *few), 60),
        ("sample_17m", bench("sample", *network("17m"), "--count=64", *few), 90),
        ("once", (*run, f"--workdir={runs / 'once'}"), 60),
        ("again", (*run, f"--workdir={runs / 'again'}"), 60),
        ("train_95m", bench("train_step", *network("95m"), *few), 120),
        ("pictures", (PYTHON, "main.py", *pictures), 150),
    )
    return [Part(name, command, times * seconds) for name, command, seconds in found]


def perform(part, left):
    """{"seconds", "code", "figures" (lines of JSON that it printed), "tail"} of a part."""
    began, limit = time.monotonic(), min(part.seconds, left)
    try:
        done = subprocess.run(
            part.command, cwd=ROOT, capture_output=True, text=True, timeout=limit, errors="replace"
        )
        code, output, errors = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as e:
        code, (output, errors) = None, (_text(e.stdout), _text(e.stderr))
    figures = []
    for line in output.splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # text, or a line that was cut short
            figures += [json.loads(line)] if line.startswith("{") else []
    return {
        "command": list(part.command[1:]),
        "seconds": round(time.monotonic() - began, 1),
        "code": code,  # None: it was stopped
        "figures": figures,
        "tail": "" if code == 0 else errors[-2000:],
    }


def _text(content):
    return content.decode(errors="replace") if isinstance(content, bytes) else content or ""


def equal_bits(first, second):
    """Whether two runs logged the same numbers, but for their speed; None if one has no log."""
    logs = [folder / "metrics.jsonl" for folder in (first, second)]
    if not all(log.is_file() for log in logs):
        return None
    speeds = {"images_per_s", "steps_per_s"}
    lines = [[json.loads(line) for line in log.read_text().splitlines()] for log in logs]
    kept = [[{k: v for k, v in line.items() if k not in speeds} for line in of] for of in lines]
    return kept[0] == kept[1] and len(kept[0]) > 0


def _write(out, runs, found, left_out):
    """Writes accelerator.json with what is known so far."""
    whole = all(found.get(run, {}).get("code") == 0 for run in ("once", "again"))
    report = {
        "parts": found,
        "left_out": left_out,
        "two_runs_equal_bit_for_bit": equal_bits(runs / "once", runs / "again") if whole else None,
    }
    (out / "accelerator.json").write_text(json.dumps(report, indent=1) + "\n")


def main():
    """Performs all parts and writes accelerator.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path, help="folder for accelerator.json and the runs")
    parser.add_argument("--images", help="pictures for a short training; else digits")
    parser.add_argument("--minutes", type=float, default=9.0, help="that all of it may take")
    parser.add_argument("--small", action="store_true", help="the network of digits, on a CPU")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    runs = out / "accelerator_runs"
    shutil.rmtree(runs, ignore_errors=True)  # a run that is there would only be continued
    ends, found, left_out = time.monotonic() + 60 * options.minutes, {}, []
    for part in parts(runs, options.small, options.images):
        left = ends - time.monotonic()
        if left < 20:
            left_out.append(part.name)
            continue
        found[part.name] = perform(part, left)
        state = {0: "done", None: "stopped"}.get(found[part.name]["code"], "failed")
        print(f"{part.name}: {state} after {found[part.name]['seconds']:.0f} s", flush=True)
        _write(out, runs, found, left_out)
    _write(out, runs, found, left_out)
    if left_out:
        print(f"left out, for time: {', '.join(left_out)}")
    print(f"{out / 'accelerator.json'}")
    sys.exit(any(part["code"] != 0 for part in found.values()))


if __name__ == "__main__":
    main()
