#!/usr/bin/env bash
# ml_collections: of a config's two copies one forgets the types of its open fields, the other shares their values
# ml_collections 1.1.0, Python 3.11
#
# placeholder(int), and a FieldReference with a field_type, are how a ConfigDict says "an int, not yet known" or
# "one of these types": anything else is refused. A copy by copy_and_resolve_references(), which says True to
# is_type_safe and is_locked as its original does, takes any value there, and a field with a type of its own is
# narrowed to that of its present value. A copy by ConfigDict(config) keeps the types, and is no copy of those
# fields: what is set in it is set in the original too. copy.deepcopy keeps the types and the values apart.
#
# Output seen (whether width="wide" and steps="auto" are taken; is_type_safe and is_locked of the resolved copy;
# whether the second copy refuses width="wide", and the original's width once 5 is set in the copy):
#   original: (False, True)
#   resolved: (True, False)
#   flags: (True, True)
#   shared: (True, 5)
#   deep: (False, True, 100)
# What follows: where types matter, copy.deepcopy (fields that refer to one another stay tied in it); else resolve,
# and check what is set by other means.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check ml-collections==1.1.0
cat > "$tmp/check.py" <<'PY'
import abc
import copy
import sys

from ml_collections.config_dict import ConfigDict, FieldReference, placeholder


class Steps(abc.ABC):
    """A number, or a word."""


Steps.register(int)
Steps.register(str)


def made():
    config = ConfigDict()
    config.width = placeholder(int)
    config.steps = FieldReference(100, field_type=Steps)
    return config.lock()


def takes(config, field, value):
    try:
        setattr(config, field, value)
    except TypeError:
        return False
    return True


def both(config):
    return takes(config, "width", "wide"), takes(config, "steps", "auto")


resolved, shared = made().copy_and_resolve_references(), made()
flags = resolved.is_type_safe, resolved.is_locked
of_shared = ConfigDict(shared)
refuses = not takes(of_shared, "width", "wide")
of_shared.width = 5
apart = made()
deep = copy.deepcopy(apart)
found = {
    "original": both(made()),
    "resolved": both(resolved),
    "flags": flags,
    "shared": (refuses, shared.width),
    "deep": (*both(deep), apart.steps),
}
for name, what in found.items():
    print(f"{name}: {what}")
expected = {
    "original": (False, True),
    "resolved": (True, False),
    "flags": (True, True),
    "shared": (True, 5),
    "deep": (False, True, 100),
}
if found != expected:
    sys.exit(f"changed: expected {expected}")
print("as described")
PY
"$tmp/venv/bin/python" "$tmp/check.py"
