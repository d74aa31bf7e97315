"""What the edge installation takes on disk, package by package.

    python benchmarks/size.py

It installs into a fresh environment, without byte code, and removes it again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIZES = """
import importlib.metadata as metadata, json
def size(distribution):
    paths = [distribution.locate_file(file) for file in distribution.files or ()]
    return sum(path.stat().st_size for path in paths if path.is_file())
print(json.dumps({found.metadata["Name"]: size(found) for found in metadata.distributions()}))
"""


def main() -> None:
    """Install, and print one line a package, largest first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extra", default="cpu", help="which lane: cpu, gpu, attack, train")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the numbers, in bytes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cmt-size-") as folder:
        python = Path(folder) / "bin/python"
        _run(sys.executable, "-m", "venv", "--without-pip", folder)
        target = ["--python", str(python), "install", "--quiet", "--no-compile", "-c", str(ROOT / "constraints.txt")]
        _run(sys.executable, "-m", "pip", *target, f"{ROOT}[{arguments.extra}]")
        sizes: dict[str, int] = json.loads(_run(python, "-c", SIZES))
    for name, size in sorted(sizes.items(), key=lambda pair: -pair[1]):
        print(f"{size / 1e6:8.2f} MB  {name}")
    print(f"{sum(sizes.values()) / 1e6:8.2f} MB  in all")
    if arguments.json:
        arguments.json.write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")


def _run(*command: str | Path) -> str:
    return subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
