#!/usr/bin/env bash
# Keeping the best checkpoints freezes the step that training resumes from
# orbax-checkpoint 0.12.8, jax 0.10.2, CPU, Python 3.11
#
# With best_fn and max_to_keep one would expect the manager to keep the best checkpoints and the one
# to resume from. It keeps the best only: a step that is worse than those it holds is written in full
# and removed at once, save returns True, and latest_step() goes on naming an older one.
#
# Six saves 100 steps apart, FID 50, 20, 10, 12, 14, 16 (falls, then rises: what small sets of images
# do once the network copies), max_to_keep=2. Output seen:
#   best_fn:  after step   0: save gave True, kept [0], latest 0
#   best_fn:  after step 100: save gave True, kept [0, 100], latest 100
#   best_fn:  after step 200: save gave True, kept [100, 200], latest 200
#   best_fn:  after step 300: save gave True, kept [200, 300], latest 300
#   best_fn:  after step 400: save gave True, kept [200, 300], latest 300
#   best_fn:  after step 500: save gave True, kept [200, 300], latest 300
#   policies: after step 500: save gave True, kept [200, 500], latest 500
# What follows: once FID has turned, every new start of the same command repeats the same stretch of
# training and none gets further than one time limit allows. A preservation policy that joins the
# latest and the best keeps both, also printed; its latest step is the last one saved.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$tmp/check.py" <<'PY'
import pathlib
import sys

import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies


def fid(metrics):
    return metrics["fid"]


def train(folder, options):
    steps = []
    with ocp.CheckpointManager(folder, options=options) as manager:
        for i, value in enumerate((50, 20, 10, 12, 14, 16)):
            state = ocp.args.StandardSave({"weights": np.full(3, float(i))})
            saved = manager.save(100 * i, args=state, metrics={"fid": value})
            manager.wait_until_finished()
            steps.append((100 * i, saved, manager.latest_step(), manager.all_steps()))
    return steps


folder = pathlib.Path(sys.argv[1])
best = train(
    folder / "best", ocp.CheckpointManagerOptions(best_fn=fid, best_mode="min", max_to_keep=2)
)
for step, saved, latest, kept in best:
    print(f"best_fn:  after step {step:3}: save gave {saved}, kept {kept}, latest {latest}")
policy = policies.AnyPreservationPolicy(
    [policies.LatestN(1), policies.BestN(get_metric_fn=fid, n=1, reverse=True)]
)
joined = train(
    folder / "both",
    ocp.CheckpointManagerOptions(best_fn=fid, best_mode="min", preservation_policy=policy),
)
step, saved, latest, kept = joined[-1]
print(f"policies: after step {step:3}: save gave {saved}, kept {kept}, latest {latest}")
if not all(saved for _, saved, _, _ in best):
    sys.exit("changed: a save says that it did not keep the step")
if best[-1][2:] != (300, [200, 300]):
    sys.exit(f"changed: latest step {best[-1][2]} of the steps {best[-1][3]}")
if joined[-1][2:] != (500, [200, 500]):
    sys.exit(f"changed: the joined policies keep {joined[-1][3]}")
print("as described")
PY
"$tmp/venv/bin/python" "$tmp/check.py" "$tmp/checkpoints" 2> "$tmp/log" || {
    status=$?
    tail -n 5 "$tmp/log"
    exit "$status"
}
