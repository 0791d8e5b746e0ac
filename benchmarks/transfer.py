"""Sorts the emoji of two npm packages for configs/emoji_transfer.py.

npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0
python -m benchmarks.transfer FOLDER      # in which the two .tgz lie

Writes runs/emoji/google, pictures of all kinds, and runs/emoji/twitter, animals, food, places,
objects and activities; 64x64, each emoji once, without the variants of skin colours.
"""

import argparse
import json
import pathlib
import tarfile

THINGS = ("Animals & Nature", "Food & Drink", "Travel & Places", "Objects", "Activities")
PEOPLE = ("Smileys & Emotion", "People & Body", "Symbols", "Flags")
KINDS = {"google": (*THINGS, *PEOPLE), "twitter": THINGS}


def sort_out(package, style, folder):
    """Writes the pictures of a style's kinds to a folder; returns how many."""
    with tarfile.open(package) as files:
        emoji = json.load(files.extractfile("package/emoji.json"))
        wanted = [e["image"] for e in emoji if e["category"] in KINDS[style]]
        wanted = {f"package/img/{style}/64/{name}": name for name in wanted}
        found = {m.name: files.extractfile(m).read() for m in files if m.name in wanted}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in found.items():
        (folder / wanted[name]).write_bytes(content)
    return len(found)


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=pathlib.Path, help="in which the two packages lie")
    place = parser.parse_args().folder
    for style in KINDS:
        (package,) = place.glob(f"emoji-datasource-{style}-*.tgz")
        folder = pathlib.Path("runs/emoji") / style
        print(f"{folder}: {sort_out(package, style, folder):,} pictures of {package.name}")


if __name__ == "__main__":
    main()
