"""Trains a diffusion model with timestep-aware data augmentation, or samples from one.

    python main.py --config=configs/digits_tada.py
    python main.py --config=configs/digits_tada.py --dry_run
    python main.py --config=configs/digits_tada.py --mode=sample --config.sample.count=1000
    python main.py --workdir=runs/digits_tada --mode=evaluate
    python main.py --workdir=runs/digits_tada --mode=export

A run that is there needs no --config: its folder holds its configuration. Any field of
configs/base.py can be set on the command line: --config.train.batch_size=64
"""

import os
import pathlib
import re
import sys

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from tada_jax.system import ahead, garbage, interrupt, logs, quiet
from tada_jax.system.errors import UserError
from tada_jax.system.paths import expanded

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file and variant, as configs/digits_tada.py:constant."
)
OF_A_RUN = ("train", "sample", "evaluate", "export")  # what --workdir alone is enough for
MODES = ("train", "sample", "evaluate", "compare", "analyze", "export")
MODE = flags.DEFINE_enum(
    "mode",
    "train",
    MODES,
    "Train a model, draw from it, measure it, train and compare many, find the sensitive band, or "
    "write it for others.",
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run (runs/<config>-<variant>).")
DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Say what a run would be (data, network, memory, advice); train nothing."
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0 of several, or auto (Slurm, Open MPI, Cloud TPU)."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes train together.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")


def open_streams():
    """Opens stdin, stdout and stderr where the process was started without.

    Else the first file that is opened gets such a number, and with it what is meant for a console.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (as long as the process)
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files in other encodings


def tell(text):
    """Prints to stdout; a reader that has left, as `head`, has seen enough."""
    logs.say(text, sys.stdout)


SAVED = pathlib.Path(__file__).with_name("configs") / "saved.py"


def configuration_of_a_run():
    """--config for the run in --workdir, if the flags name a run and no configuration."""
    given = {}
    for i, arg in enumerate(sys.argv):
        name, _, value = arg.lstrip("-").partition("=")
        if arg.startswith("-") and name in ("config", "workdir", "mode"):
            given[name] = value or "".join(sys.argv[i + 1 : i + 2])
    workdir = expanded(given.get("workdir", ""))
    if "config" in given or "workdir" not in given:
        return []
    if given.get("mode", "train") not in OF_A_RUN or not (workdir / "config.json").is_file():
        return []
    return [f"--config={SAVED}:{workdir}"]


def where_else(unknown, files):
    """Fields that may be meant by an unknown one of the command line, as the end of a message.

    ml_collections itself names the nearest one of the same section, if it is near.
    """
    given = [arg.lstrip("-").partition("=")[0].split(".")[1:] for arg in sys.argv]
    try:
        config = flags.FLAGS["config"].parser.parse(files[0].partition("=")[2])
        fields = [
            (section, name)
            for section, part in config.items()
            if isinstance(part, ConfigDict)
            for name in part
        ]
    except Exception:  # a file that fails, perhaps the second time only
        return ""
    sections = [names[0] for names in given if names[1:] == [unknown]]
    sections = [section for section in sections if (section, unknown) not in fields]
    if not sections and [unknown] not in given:
        return ""  # it is a section, or the file's own
    words = set(unknown.split("_"))
    same = [field for field in fields if field[0] in sections and words & {*field[1].split("_")}]
    meant = same or [field for field in fields if field[1] == unknown]
    listed = " or ".join(f"--config.{section}.{name}" for section, name in meant)
    return f": perhaps {listed}" if listed else ""


def parse():
    """Parses the flags, in any order; whatever the user got wrong becomes one line."""
    app.define_help_flags()
    for i, arg in enumerate(sys.argv[:-1]):
        if arg in ("--config", "-config"):  # with a space
            sys.argv[i : i + 2] = [f"--config={sys.argv[i + 1]}"]
    sys.argv += configuration_of_a_run()

    def names_file(arg):
        return arg.startswith(("--config=", "-config="))

    files = list(filter(names_file, sys.argv))
    for arg in files:
        path = arg.partition("=")[2].partition(":")[0]
        if not pathlib.Path(path).is_file():
            raise UserError(f"--config={path}: no such file; configs/digits_tada.py is one")
    if len(files) > 1:
        raise UserError(f"{' '.join(files)}: name one configuration file")
    # The file must be read before the fields that are set in it; ml_collections looks at sys.argv.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda arg: not names_file(arg))
    try:
        rest = flags.FLAGS(sys.argv)[1:]
        if CONFIG.value is not None:  # a file that could not be read says so only when it is used
            if not isinstance(CONFIG.value, ConfigDict):
                raise TypeError("get_config() must return an ml_collections.ConfigDict")
            CONFIG.value.to_dict()
    except UserError:  # of a configuration file that reads what it is about
        raise
    except Exception as e:  # absl, ml_collections and the configuration file each raise their own
        reason, inner = e, e.args[0] if e.args else None
        if isinstance(e, KeyError) or isinstance(inner, KeyError):
            name = inner.args[0] if isinstance(inner, KeyError) else inner
            name = re.sub(r"(?s)^Key (\S+) does not exist.* fields present:.*}\"", r"\1", str(name))
            reason = f"unknown field of the configuration: {name}"
            if "Did you mean" not in name:
                reason += where_else(name.strip("'\""), files)
        if not isinstance(e, (flags.Error, KeyError, AttributeError)):
            reason = f"the configuration file fails with {type(e).__name__}: {e}"
        if "Traceback" in str(reason):  # absl hands on that of a configuration file
            reason = f"the configuration file fails with {str(reason).strip().splitlines()[-1]}"
        raise UserError(" ".join(str(reason).split())) from e
    if rest:
        raise UserError(f"{rest[0]!r} is not a flag: write --config.train.batch_size=64 in full")
    if CONFIG.value is None and WORKDIR.value is None:
        raise UserError(
            "no configuration: pass --config=configs/digits_tada.py, or another file, or the "
            "folder of a run as --workdir"
        )
    if CONFIG.value is None and MODE.value not in OF_A_RUN:
        raise UserError(
            f"--mode={MODE.value} needs a configuration: pass --config=configs/digits_tada.py, or "
            f"another file; --workdir alone is enough for {', '.join(OF_A_RUN)}"
        )
    if CONFIG.value is None:
        raise UserError(
            f"--workdir={WORKDIR.value} holds no run (no config.json): name the folder of one, or "
            "pass --config=configs/digits_tada.py, or another file, to start one there"
        )


def default_workdir():
    """runs/<config>-<variant>, so that the same command continues the same run."""
    path, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return pathlib.Path("runs", "-".join(filter(None, (pathlib.Path(path).stem, variant))))


def main():
    """Does what the flags say."""
    garbage.collect_seldom()
    open_streams()
    interrupt.end_by_exception()
    quiet.orbax.enter()  # for good, since what it abandons may report after all is closed
    parse()
    workdir = WORKDIR.value or default_workdir()

    import tada_jax  # after the flags: a typo fails at once
    from tada_jax.system import backend

    backend.enable_compilation_cache()
    if CONFIG.value.train.deterministic:
        backend.be_deterministic()
    if COORDINATOR.value is None:
        side = CONFIG.value.data.resolution or (8 if CONFIG.value.data.name == "digits" else None)
        backend.use_cpu_well(
            CONFIG.value.train.batch_size,
            pixels=side and side**2,
            channels=CONFIG.value.model.channels,
        )
    backend.join_processes(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    backend.check_devices()
    if DRY_RUN.value and MODE.value != "train":
        raise UserError(f"--dry_run is of --mode=train, not of --mode={MODE.value}: leave it out")
    if DRY_RUN.value:
        tell("\n".join(tada_jax.describe(CONFIG.value)))
    elif MODE.value == "train":
        tada_jax.train(CONFIG.value, workdir)
        tell(f"samples, checkpoints and metrics: {workdir}")
    elif MODE.value == "sample":
        tell("\n".join(map(str, tada_jax.sample(CONFIG.value, workdir))))
    elif MODE.value == "evaluate":
        result = tada_jax.evaluate(CONFIG.value, workdir, say=tell)
        tell(f"\n{result.table()}\n{result.folder}")
    elif MODE.value == "export":
        tell(tada_jax.export(CONFIG.value, workdir))
    elif MODE.value == "compare":
        tada_jax.compare(CONFIG.value, workdir, say=tell)
    else:
        analysis = tada_jax.analyze(CONFIG.value, workdir, say=tell)
        tell(f"\n{analysis.text}\n{analysis.folder}")


if __name__ == "__main__":
    try:
        main()
    except UserError as e:
        logs.say(f"error: {e}")
        ahead.leave(1)
    except KeyboardInterrupt:  # before the first step, or between two batches of samples
        logs.say("\nstopped: the same command continues")
        ahead.leave(0)
