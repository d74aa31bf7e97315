"""What `cmt score` reaches of what this machine could, beside what a person would write, and what size costs.

Every figure is a ratio within one run, the sides taking turns, on pictures made in a temporary folder. Decoding alone
and bare ONNX Runtime alone are each given all processors; sharing them perfectly would reach
``1 / (1 / decode + 1 / run)``. Clocks run inside the processes, once all of them are warm: the difference of a long and
a short run would flatter whoever has idle time while starting. Ratios are printed as median, least and most of all
turns, with the load: one beyond 1 says how far the machine was from quiet, not that the limit was beaten.

    python benchmarks/scoring.py --peers .venv-peers --ray --json scoring.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(ROOT := Path(__file__).resolve().parent.parent))

from benchmarks.scoring_data import SETS, ImageSet, make_guard, make_images
from runtime.cpus import usable_cpus
from runtime.versions import decisive_versions

AIMS = {
    "of_perfect_sharing": "at least 0.90",
    "over_torchvision": "at least 2.5",
    "memory": "at most 1.1",
    "first_row_seconds": "at most 2",
}
LIMITS, PEER = ROOT / "benchmarks/scoring_limits.py", ROOT / "benchmarks/scoring_peer.py"
CACHE = tempfile.TemporaryDirectory(prefix="cmt-bench-")
WATCHED = """
import json, resource, sys, time
from contextlib import contextmanager
import runtime.score_command as command
from runtime.cli import score
first = []
@contextmanager
def pace(): yield lambda done, total: first.append(time.time()) if done and not first else None
command.pace = pace
score(sys.argv[1:], standalone_mode=False)
peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps([first[0], *peaks]))
"""


class Cost(NamedTuple):
    """What an image costs in the steady state, in microseconds."""

    wall: float
    cpu: float


def main() -> None:
    """Measure, print one line a figure, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"among {', '.join(map(repr, SETS))}; default: all")
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers", help="environment with torchvision")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every side")
    parser.add_argument("--files", type=int, metavar="N", help="files of each set, instead of some thousand")
    parser.add_argument("--size", type=int, default=100_000, metavar="N", help="files of the large folder; 0: none")
    parser.add_argument("--ray", action="store_true", help="compare two workers with one, which takes a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the numbers")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="cmt-scoring-") as name:
        for title in arguments.sets or SETS:
            images = SETS[title]
            figures[title] = speed(Path(name, title.replace(" ", "-")), images, arguments)
            show(title, figures[title])
        if arguments.size:
            figures["size"] = growth(Path(name, "size"), arguments.size)
            show("size", figures["size"])
        if arguments.ray:
            figures["ray"] = cluster(Path(name, "ray"), arguments)
            show("ray", figures["ray"])
    if arguments.json:
        machine = {"processor": platform.machine(), "cpus": usable_cpus(), "python": platform.python_version()}
        machine |= decisive_versions() | {"simplejpeg": find_spec("simplejpeg") is not None}
        document = {"machine": machine, "rounds": arguments.rounds, "aims": AIMS, "figures": figures}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def speed(place: Path, images: ImageSet, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare scoring one kind of images with its limits, with threads instead of processes, and with the peer."""
    count, processors = arguments.files or images.files, usable_cpus()
    folder, guard = place / "images", place / "guard.onnx"
    make_images(folder, images, count)
    make_guard(guard, images.network, convolutions=images.convolutions)
    load = os.getloadavg()[0]
    sides: dict[str, tuple[Any, ...]] = {
        "decode": ("decode", guard, folder, processors),
        "run": ("run", guard, count, processors, 1),
        "run in one session": ("run", guard, count, 1, processors),
        "score": ("score", guard, folder, place / "rows.csv", "processes"),
        "score in threads": ("score", guard, folder, place / "rows.csv", "threads"),
    }
    peer = peer_python(arguments.peers) if images.convolutions else None
    turns: list[dict[str, Cost]] = []
    for _ in range(arguments.rounds):
        turn = {name: cost(python(LIMITS, *side)) for name, side in sides.items()}
        if peer is not None:
            turn["torchvision"] = cost(python(PEER, folder, *images.network, processors, interpreter=peer))
        turns.append(turn)

    def over(clock: str) -> list[float]:
        needs = [
            [getattr(turn[name], clock) for name in ("decode", "run", "run in one session", "score")] for turn in turns
        ]
        return spread((decode + min(run, one_session)) / score for decode, run, one_session, score in needs)

    found: dict[str, Any] = {
        "load": [load, os.getloadavg()[0]],
        "images_per_second": {
            name: round(1e6 / statistics.median(turn[name].wall for turn in turns)) for name in turns[0]
        },
        "cpu_microseconds": {name: round(statistics.median(turn[name].cpu for turn in turns), 1) for name in turns[0]},
        "of_perfect_sharing": over("wall"),
        "of_perfect_sharing_cpu": over("cpu"),
    }
    if peer is None:
        found["over_torchvision"] = f"left out: {arguments.peers} has no torch with a torchvision that imports"
    else:
        found["over_torchvision"] = spread(turn["torchvision"].wall / turn["score"].wall for turn in turns)
    return found


def growth(place: Path, size: int) -> dict[str, Any]:
    """Compare a large folder with one of a thousand: peak memory of the parent and of a worker, time to first row."""
    small = SETS["28x28 PNG"]
    guard = place / "guard.onnx"
    found: dict[str, Any] = {"load": os.getloadavg()[0]}
    for count in (1000, size):
        make_images(place / str(count), small, count)
        make_guard(guard, small.network, convolutions=False)
        started = time.time()
        done = python(WATCHED, guard, place / str(count), "-o", place / "rows.csv")
        first, parent, worker = json.loads(done.splitlines()[-1])
        found[str(count)] = {"first_row_seconds": round(first - started, 2), "parent_kb": parent, "worker_kb": worker}
    for who in ("parent", "worker"):
        found[f"memory_{who}"] = round(found[str(size)][f"{who}_kb"] / found["1000"][f"{who}_kb"], 3)
    return found


def cluster(place: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare two workers of a Ray cluster on this machine with one, and both with local workers."""
    images = SETS["32x32 JPEG"]
    folder, guard = place / "images", place / "guard.onnx"
    make_images(folder, images, arguments.files or images.files)
    make_guard(guard, images.network)
    turns = [
        {
            f"{engine} {workers}": cost(
                python(LIMITS, "score", guard, folder, place / "rows.csv", engine, workers)
            ).wall
            for engine in ("processes", "ray")
            for workers in (1, 2)
        }
        for _ in range(arguments.rounds)
    ]
    return {
        "load": os.getloadavg()[0],
        "images_per_second": {name: round(1e6 / statistics.median(turn[name] for turn in turns)) for name in turns[0]},
        "two_over_one": spread(turn["ray 1"] / turn["ray 2"] for turn in turns),
        "two_over_one_local": spread(turn["processes 1"] / turn["processes 2"] for turn in turns),
        "overhead_microseconds": spread(turn["ray 1"] - turn["processes 1"] for turn in turns),
    }


def cost(answer: str) -> Cost:
    """Read what a side prints last."""
    told = json.loads(answer.splitlines()[-1])
    return Cost(wall=1e6 * told["wall"] / told["images"], cpu=1e6 * told["cpu"] / told["images"])


def python(code: object, *arguments: object, interpreter: Path | None = None) -> str:
    """Run code, or a script by its path, in a process of its own, and return what it prints."""
    script = [str(code)] if isinstance(code, Path) else ["-c", str(code)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": CACHE.name}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # every process would compile every module again
    command = [str(interpreter or sys.executable), *script, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def peer_python(environment: Path) -> Path | None:
    """Return the interpreter of an environment where torchvision imports."""
    interpreter = environment / "bin/python"
    if not interpreter.exists():
        return None
    done = subprocess.run([interpreter, ROOT / "benchmarks/torchvision_import.py"], capture_output=True, check=False)
    return interpreter if done.returncode == 0 else None


def spread(values: Iterable[float]) -> list[float]:
    """Return median, least and most."""
    known = sorted(values)
    return [round(each, 2) for each in (statistics.median(known), known[0], known[-1])]


def show(title: str, figures: dict[str, Any]) -> None:
    """Print one line a figure."""
    print(title)
    for name, value in figures.items():
        aim = f"   (aim: {AIMS[name]})" if name in AIMS else ""
        print(f"  {name:24} {json.dumps(value)}{aim}", flush=True)


if __name__ == "__main__":
    main()
