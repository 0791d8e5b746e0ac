#!/usr/bin/env bash
# Precision, density and coverage collapse when the reference set holds images more than once
# prdc 0.2, scikit-learn 1.9.1, numpy 2.4.6, scipy 1.17.1, Python 3.11
#
# Repeating every image of the reference equally often changes no distribution, and one would expect
# scores of the same generator to stay where they were. All but recall measure by the distance from
# each reference image to its k-th nearest neighbour, and copies are the nearest: with k = 5, four
# repeats already halve precision, and from six copies on the radius is zero. Even a generator that
# hands out the reference itself then scores about 0; a few pairs pass by rounding of the distances.
#
# Features: 500 draws of N(0, 1) in 64 dimensions, repeated; against the same rows once, and against
# 500 new draws (a perfect generator). Output seen:
#   1 copies, same rows: precision 1.00, recall 1.00, density 1.00, coverage 1.00
#   1 copies, new draws: precision 0.76, recall 0.78, density 0.93, coverage 0.96
#   4 copies, same rows: precision 1.00, recall 1.00, density 0.80, coverage 1.00
#   4 copies, new draws: precision 0.38, recall 0.78, density 0.71, coverage 0.46
#   6 copies, same rows: precision 0.00, recall 1.00, density 0.00, coverage 0.00
#   6 copies, new draws: precision 0.00, recall 0.78, density 0.00, coverage 0.00
#   8 copies, same rows: precision 0.00, recall 1.00, density 0.01, coverage 0.00
#   8 copies, new draws: precision 0.00, recall 0.78, density 0.00, coverage 0.00
# What follows: a small set that was enlarged by repeating images, or has many blank or equal tiles,
# gives scores that say nothing about the generator; remove exact copies before making the reference.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    prdc==0.2 scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
cat > "$tmp/check.py" <<'PY'
import contextlib
import io
import sys

import numpy as np
from prdc import compute_prdc

random = np.random.default_rng(0)
once = random.standard_normal((500, 64))
fresh = random.standard_normal((500, 64))
for copies in (1, 4, 6, 8):
    reference = np.repeat(once, copies, axis=0)
    for name, made in (("same rows", once), ("new draws", fresh)):
        with contextlib.redirect_stdout(io.StringIO()):
            score = compute_prdc(reference, made, nearest_k=5)
        row = ", ".join(f"{key} {value:.2f}" for key, value in score.items())
        print(f"{copies} copies, {name}: {row}")
        low = max(score["precision"], score["density"], score["coverage"])
        if copies == 1 and not score["precision"] > 0.6:
            sys.exit("changed: precision is low without copies, too")
        if copies == 4 and name == "new draws" and not score["precision"] < 0.5:
            sys.exit("changed: four copies no longer halve precision")
        if copies >= 6 and not low < 0.05:
            sys.exit("changed: six copies no longer bring the scores to zero")
        if not score["recall"] > 0.6:
            sys.exit("changed: recall falls as well")
print("as described")
PY
"$tmp/venv/bin/python" "$tmp/check.py"
