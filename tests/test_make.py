"""What the Makefile installs, where."""

import os
import subprocess

import pytest

from tests import tiny


def dry_run(*arguments, path="", **environment):
    """What `make` would do, and its errors."""
    clean = {k: v for k, v in os.environ.items() if k not in ("TPU_NAME", "DEVICE", "MAKEFLAGS")}
    clean["PATH"] = f"{path}{os.pathsep}{clean['PATH']}" if path else clean["PATH"]
    command = ["make", "--dry-run", "--always-make", *arguments]
    return subprocess.run(
        command, cwd=tiny.ROOT, env=clean | environment, capture_output=True, text=True
    )


def program(folder, name, says):
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return str(folder)


def test_a_gpu_that_is_there_is_installed_for(tmp_path):
    path = program(tmp_path, "nvidia-smi", "GPU 0: NVIDIA H100 (UUID: GPU-0)")
    for done in (dry_run("train", path=path), dry_run("train", DEVICE="cuda")):
        assert "-r requirements-cuda.lock" in done.stdout and "DEVICE=cuda" in done.stdout
    chosen = dry_run("train", "DEVICE=cpu", path=path)
    assert "-r requirements.lock" in chosen.stdout


def test_a_tpu_that_is_there_is_installed_for(tmp_path):
    path = program(tmp_path, "nvidia-smi", "No devices were found")
    assert "-r requirements-tpu.lock" in dry_run("train", path=path, TPU_NAME="local").stdout


def test_elsewhere_it_is_the_processor(tmp_path):
    path = program(tmp_path, "nvidia-smi", "No devices were found")
    assert "-r requirements.lock" in dry_run("train", path=path).stdout


FAKE_PYTHON = """#!/bin/sh
[ "$1 $2" = "-m venv" ] || exit 0
for name in pip uv; do
    printf '#!/bin/sh\\necho "%s $@"; case "%s $@" in $REFUSED) exit 1;; esac\\n' $name $name \\
        > "$4/bin/$name"
    chmod +x "$4/bin/$name"
done
"""


@pytest.mark.parametrize(
    ("refused", "programs", "installed"),
    [
        ("", "pip uv", True),
        ("uv*", "pip uv pip", True),
        ("*uv.lock", "pip pip", True),  # there is no uv for this machine
        ("pip*", "pip pip", False),
    ],
)
def test_pip_installs_where_uv_does_not_get_through(refused, programs, installed, tmp_path):
    """By programs that only say how they were called."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "python").write_text(FAKE_PYTHON)
    (tmp_path / "python").chmod(0o755)
    target = f"{tmp_path}/venv/installed-cpu"
    names = [f"VENV={tmp_path}/venv", f"PYTHON={tmp_path}/python", "DEVICE=cpu"]
    done = subprocess.run(
        ["make", *names, target],
        cwd=tiny.ROOT,
        env={k: v for k, v in os.environ.items() if k != "MAKEFLAGS"} | {"REFUSED": refused},
        capture_output=True,
        text=True,
    )
    calls = [line.split() for line in done.stdout.splitlines() if " --quiet " in line]
    calls = [call for call in calls if call[0] in ("pip", "uv")]
    assert " ".join(call[0] for call in calls) == programs
    assert all("--require-hashes" in call for call in calls)
    rest = "requirements.lock" if calls[-1][0] == "uv" else f"{tmp_path}/venv/rest.lock"
    assert calls[0][-1] == f"{tmp_path}/venv/uv.lock" and calls[-1][-1] == rest
    assert (done.returncode == 0) == os.path.exists(target) == installed
    own, others = ((tmp_path / "venv" / f"{name}.lock").read_text() for name in ("uv", "rest"))
    assert own.startswith("uv==") and "\nuv==" not in others and own.count("==") == 1
    assert len((own + others).splitlines()) == len(
        (tiny.ROOT / "requirements.lock").open().readlines()
    )


def test_another_word_is_a_line(tmp_path):
    done = dry_run("train", "DEVICE=gpu")
    assert done.returncode and "DEVICE=gpu is unknown: cpu, cuda or tpu" in done.stderr


@pytest.mark.parametrize("device", ["", "-cuda", "-tpu"])
def test_every_lock_holds_the_pins(device):
    """`make lock` was not forgotten."""
    pins = (tiny.ROOT / "requirements.txt").read_text().splitlines()
    pins += (tiny.ROOT / "requirements-dev.txt").read_text().splitlines()
    pins += (tiny.ROOT / "requirements-formats.txt").read_text().splitlines()
    lock = (tiny.ROOT / f"requirements{device}.lock").read_text().lower()
    for pin in pins:
        if "==" in pin:
            assert f"\n{pin.partition(' ')[0].lower()} " in "\n" + lock, pin
    for line in lock.splitlines():
        assert line.startswith(("    --hash=sha256:", "#")) or line.endswith("\\"), line
