"""From the command to the first step: with nothing compiled, and with everything in the cache.

python -m benchmarks.startup
python -m benchmarks.startup --config=configs/cifar10_tada.py --config.train.batch_size=32
python -m benchmarks.startup --against=../another_checkout

Every start is a process of its own, as a user's, in a folder that is thrown away; arguments are
those of main.py. What was imported is listed by what it took. With another checkout of this
repository beside it, the two start in turns.
"""

import argparse
import importlib.util
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import timing

ROOT = pathlib.Path(__file__).parents[1]
COLD, WARM = 3, 5  # starts of each kind
DEAR = ("tensorflow", "tensorflow_datasets", "torch", "matplotlib", "sklearn", "scipy", "pandas")


def start(arguments, cache, folder, root=ROOT):
    """Seconds from the command to the end of the first step of a run of a checkout."""
    command = [sys.executable, "main.py", *arguments, f"--workdir={folder}"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    mark = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        said = []
        for line in process.stdout:
            said.append(line)
            if "first step after" in line:
                process.kill()
                return time.monotonic() - mark
    raise SystemExit("error: the run did not begin:\n" + "".join(said[-5:]))


def imports(arguments):
    """Milliseconds of the dearest imports of a dry run, and which of `DEAR` were imported."""
    command = [sys.executable, "-X", "importtime", "main.py", *arguments, "--dry_run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    rows = re.findall(r"import time:\s+\d+ \|\s+(\d+) \| (\s*)(\S+)", done.stderr)
    took = {name: int(us) / 1e3 for us, _, name in rows}
    top = {name: ms for name, ms in took.items() if "." not in name}
    dearest = sorted(top.items(), key=lambda item: -item[1])[:6]
    return dearest, [n for n in DEAR if n in took and importlib.util.find_spec(n)]


def main():
    """Starts runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=pathlib.Path, help="folder of another checkout")
    options, arguments = parser.parse_known_args()
    arguments = arguments or ["--config=configs/digits_tada.py"]
    checkouts = {"here": ROOT}
    if options.against:
        checkouts = {"before": options.against.resolve(), **checkouts}
    took = {kind: {name: [] for name in checkouts} for kind in ("cold", "warm")}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        # Killed runs have saved nothing, so each folder is that of a fresh run.
        for number in range(COLD + WARM):
            kind, cache = ("cold", number) if number < COLD else ("warm", 0)
            for name, root in checkouts.items():
                places = scratch / name / f"cache{cache}", scratch / name / str(number)
                took[kind][name].append(start(arguments, *places, root))
    dearest, found = imports(arguments)
    machine = timing.machine()
    print(machine)
    for name in checkouts:
        cold, warm = (
            f"{statistics.median(s):.1f} s ({min(s):.1f} to {max(s):.1f})"
            for s in (took["cold"][name], took["warm"][name])
        )
        print(f"{name}: {cold} to the first step with nothing compiled, {warm} with the cache")
    timing.show(
        "dearest imports "
        + ", ".join(f"{name} {ms / 1e3:.2f} s" for name, ms in dearest)
        + f"; of {', '.join(DEAR)}: {', '.join(found) or 'none'} imported",
        benchmark="startup",
        arguments=arguments,
        cold_s=took["cold"],
        warm_s=took["warm"],
        imports_ms=dict(dearest),
        dear=found,
        machine=machine,
    )


if __name__ == "__main__":
    main()
