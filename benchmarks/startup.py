"""From the command to the first step: with nothing compiled, and with everything in the cache.

python -m benchmarks.startup
python -m benchmarks.startup --config=configs/cifar10_tada.py --config.train.batch_size=32

Every start is a process of its own, as a user's, in a folder that is thrown away; arguments are
those of main.py. What was imported is listed by what it took.
"""

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
REPETITIONS = 5
DEAR = ("tensorflow", "tensorflow_datasets", "torch", "matplotlib", "sklearn", "scipy", "pandas")


def start(arguments, cache, folder):
    """Seconds from the command to the end of the first step of a run."""
    command = [sys.executable, "main.py", *arguments, f"--workdir={folder}"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    mark = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=ROOT,
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
    arguments = sys.argv[1:] or ["--config=configs/digits_tada.py"]
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        cache = scratch / "cache"
        # Killed runs have saved nothing, so each folder is that of a fresh run.
        cold = start(arguments, cache, scratch / "cold")
        warm = [start(arguments, cache, scratch / f"warm{i}") for i in range(REPETITIONS)]
    dearest, found = imports(arguments)
    machine, median = timing.machine(), statistics.median(warm)
    print(machine)
    timing.show(
        f"to the first step: {cold:.1f} s with nothing compiled, {median:.1f} s "
        f"({min(warm):.1f} to {max(warm):.1f}) with the cache; dearest imports "
        + ", ".join(f"{name} {ms / 1e3:.2f} s" for name, ms in dearest)
        + f"; of {', '.join(DEAR)}: {', '.join(found) or 'none'} imported",
        benchmark="startup",
        arguments=arguments,
        cold_s=cold,
        warm_s=warm,
        imports_ms=dict(dearest),
        dear=found,
        machine=machine,
    )


if __name__ == "__main__":
    main()
