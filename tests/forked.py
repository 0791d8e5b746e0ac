"""main.py as a user types it, without the seconds that it takes to import everything."""

import json
import os
import subprocess
import sys

from tests import tiny

SECONDS = 400  # what should be refused and is not would train for hours

_PROGRAM = """
import json, os, runpy, sys, warnings
warnings.filterwarnings("ignore", message=".*fork.*")
import tada_jax.training.loop, tada_jax.study.samples, tada_jax.data.folder, tada_jax.data.arrays
import tada_jax.study.evaluation, tada_jax.study.comparison
import scipy.stats, sklearn.datasets  # which they import when they need it
for line in sys.stdin:
    case = json.loads(line)
    child = os.fork()
    if not child:
        for stream, path in enumerate(case["outputs"], 1):
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), stream)
        os.environ.update(case["environment"])
        for limit, value in case["limits"].items():
            import resource
            resource.setrlimit(getattr(resource, limit), (value, value))
        if case["small"]:  # as of the fixtures `small_networks` and `no_figures`
            from tada_jax.setup import build
            from tada_jax.training import describe, observe
            from tests import tiny
            build.unet.UNet = tiny.SmallNet
            if not case["drawn"]:
                describe.figures = observe.figures = tiny.NoFigures()
        sys.argv = ["main.py", *case["arguments"]]
        code = 0
        try:
            runpy.run_path("main.py", run_name="__main__")
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else 1 if e.code else 0
            if isinstance(e.code, str):
                print(e.code, file=sys.stderr)
        except BaseException:
            import traceback
            traceback.print_exc()
            code = 70
        sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Forked:
    """`forked(*arguments)` runs main.py and returns (exit code, what it wrote to both streams).

    Each time in a process of its own, forked from one that has imported everything and started
    nothing. To be closed.
    """

    def __init__(self, folder):
        flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
        self._outputs = folder / "output", folder / "error"
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            cwd=tiny.ROOT,
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments, limits=(), small=False, drawn=False, apart=False, **environment):
        """Runs main.py.

        Args:
          *arguments: of the command line.
          limits: {name of the module `resource`: bound}; `SECONDS` of the processor's time, if
            nothing else is said.
          small: whether networks are `tiny.SmallNet`, and figures are left out.
          drawn: whether there are figures all the same.
          apart: whether to return (exit code, standard output, standard error).
          **environment: variables that differ.
        """
        case = {
            "arguments": [*map(str, arguments)],
            "environment": environment,
            "limits": {"RLIMIT_CPU": SECONDS} | dict(limits),
            "outputs": [str(self._outputs[0]), str(self._outputs[apart])],
            "small": small,
            "drawn": drawn,
        }
        for path in self._outputs:
            path.write_text("")
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        said, error = (path.read_text() for path in self._outputs)
        return (code, said, error) if apart else (code, said)

    def close(self):
        """Ends the process that the others are forked from."""
        self._process.stdin.close()
        self._process.wait()
