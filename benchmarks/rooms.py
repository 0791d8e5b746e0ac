"""Reads the imports of the package, prints what they come to, and draws its rooms.

    python benchmarks/rooms.py                      # the table
    python benchmarks/rooms.py docs/rooms.png       # and the drawing of docs/architecture.md

Nothing is imported: a file's imports are read from its text, also those inside functions.
"""

import argparse
import ast
import collections
import dataclasses
import pathlib

ROOT = pathlib.Path(__file__).parents[1] / "tada_jax"
DOOR = "the door"  # tada, augment, transforms, resample: the method, for anybody
ROOMS = (
    DOOR,
    "system",
    "data",
    "model",
    "weights",
    "methods",
    "band",
    "setup",
    "metrics",
    "training",
    "study",
)


@dataclasses.dataclass(frozen=True)
class House:
    """The modules of a package.

    Attributes:
      lines: {module: lines of its file}; names are as "model.unet".
      imports: {module: modules of the package that it imports}.
    """

    lines: dict[str, int]
    imports: dict[str, frozenset[str]]

    def room(self, module):
        """The package that a module lies in."""
        first = module.partition(".")[0]
        return first if first in ROOMS else DOOR

    def floors(self):
        """How many modules stand on one another at most, circles counting as one."""
        reached = self.reached()
        depth = {}

        def of(module):
            if module not in depth:
                below = [m for m in self.imports[module] if module not in reached[m]]
                depth[module] = 0  # what is met again on the way is in a circle
                depth[module] = 1 + max((of(m) for m in below), default=0)
            return depth[module]

        return max(map(of, self.lines))

    def reached(self):
        """{module: every module that it imports, directly or not}."""
        found = {}
        for module in self.lines:
            seen, left = set(), [module]
            while left:
                new = self.imports[left.pop()] - seen
                seen |= new
                left += new
            found[module] = seen
        return found

    def circles(self):
        """Sets of modules that import one another, directly or not."""
        reached = self.reached()
        return {
            frozenset(b for b in reached[a] if a in reached[b]) for a in reached if a in reached[a]
        }

    def upwards(self):
        """Imports of a later room, as pairs (module, imported)."""
        order = {room: i for i, room in enumerate(ROOMS)}
        return [
            (module, other)
            for module, others in self.imports.items()
            for other in others
            if order[self.room(other)] > order[self.room(module)]
        ]


def read(root=ROOT):
    """The `House` of a package."""
    paths = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:  # but for that of the package itself, which loads on demand
            paths[name] = path
    return House(
        lines={name: len(path.read_text().splitlines()) for name, path in paths.items()},
        imports={name: frozenset(_imports(path, root.name, paths)) for name, path in paths.items()},
    )


def _imports(path, package, known):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package:
            base = node.module.partition(".")[2]
            for alias in node.names:
                name = f"{base}.{alias.name}" if base else alias.name
                yield name if name in known else base
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == package and alias.name.partition(".")[2]:
                    yield alias.name.partition(".")[2]


def table(house):
    """What there is, as text."""
    rooms = collections.defaultdict(list)
    for module, lines in house.lines.items():
        rooms[house.room(module)].append(lines)
    rows = [f"{room:10} {len(n):3} files {sum(n):6,} lines" for room, n in rooms.items()]
    return "\n".join(
        [
            *rows,
            f"files at the door: {len(rooms[DOOR])}; floors: {house.floors()}; circles: "
            f"{len(house.circles())}; imports of a later room: {len(house.upwards())}; longest "
            f"file: {max(house.lines.values())} lines",
        ]
    )


def draw(house, path):
    """Draws the rooms, the first at the bottom, and which of them each builds on."""
    from matplotlib.figure import Figure

    modules = collections.defaultdict(list)
    for module in house.lines:
        if module not in ROOMS:
            inside = module.removeprefix(f"{house.room(module)}.")
            modules[house.room(module)].append(inside.replace(".", "/"))
    between = collections.Counter(
        (house.room(module), house.room(other))
        for module, others in house.imports.items()
        for other in others
        if house.room(module) != house.room(other)
    )
    figure = Figure(figsize=(12, 8.4), layout="constrained")
    axes = figure.subplots()
    for i, room in enumerate(ROOMS):
        axes.text(0.0, i, room, fontsize=14, fontweight="bold", va="center")
        axes.text(1.45, i, _wrapped(modules[room]), fontsize=8, va="center")
        axes.plot((-0.1, 7.9), (i + 0.45, i + 0.45), color="0.8", linewidth=0.8)
    for (upper, lower), count in sorted(between.items()):
        high, low = ROOMS.index(upper), ROOMS.index(lower)
        reach = 8.0 + 0.42 * (high - low)
        x = [8.0, reach, reach, 8.0]
        axes.plot(x, [high, high - 0.1, low + 0.1, low], color="#0072B2", linewidth=0.5 + count / 8)
        axes.plot(8.0, low, marker="<", color="#0072B2", markersize=6)
    axes.set(xlim=(-0.2, 12.2), ylim=(-0.6, len(ROOMS) - 0.3))
    axes.set_axis_off()
    figure.suptitle(
        f"tada_jax: {len(house.lines)} files in {len(ROOMS)} rooms; each builds on those below "
        "(width: number of imports)"
    )
    figure.savefig(path, dpi=100)


def _wrapped(names, width=96):
    lines = [""]
    for name in names:
        if len(lines[-1]) + len(name) > width:
            lines.append("")
        lines[-1] += f"{name}   "
    return "\n".join(lines)


def main():
    """Prints the table; with a path, draws too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="?", help="of the PNG")
    arguments = parser.parse_args()
    house = read()
    print(table(house))
    if arguments.path:
        draw(house, arguments.path)


if __name__ == "__main__":
    main()
