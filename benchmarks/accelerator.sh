#!/usr/bin/env bash
# Everything that a GPU must show, by one call on a machine that has JAX, flax, optax, orbax and
# perhaps PyTorch of its own, and reaches no registry:
#
#     make wheels                         # here: what such machines lack, into wheels/ (not committed)
#     benchmarks/accelerator.sh OUT       # there; leaves OUT/accelerator.json within nine minutes
#
# More arguments go to benchmarks/accelerator.py; PYTHON=... names another interpreter.
set -euo pipefail
[ $# -gt 0 ] || { echo "error: name a folder for the result: benchmarks/accelerator.sh OUT" >&2; exit 1; }
out=$(realpath -m "$1")  # as the caller means it
shift
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
missing=()
for wheel in wheels/*.whl; do
  [ -e "$wheel" ] || { echo "error: no wheels/: run make wheels where there is a network" >&2; exit 1; }
  name=$(basename "$wheel")
  # What is there already stays as it is: newer versions of JAX want newer companions.
  "$python" -c 'import importlib.metadata, sys; importlib.metadata.version(sys.argv[1])' \
    "${name%%-*}" 2>/dev/null || missing+=("$wheel")
done
if [ ${#missing[@]} -gt 0 ]; then
  "$python" -m pip install --quiet --no-index --no-deps --target "$place" "${missing[@]}"
fi
PYTHONPATH="$place${PYTHONPATH:+:$PYTHONPATH}" "$python" -m benchmarks.accelerator "$out" "$@"
