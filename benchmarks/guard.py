"""What the guard costs over a bare ONNX Runtime session of the same file: calls, start, memory; and which options win.

Everything is a ratio within one run, the two sides taking turns, so that a busy machine slows both alike. Starts and
memory are measured in fresh processes, with byte code cached as an installed package has it.

    python benchmarks/guard.py results/mnist/guard.onnx --twin undefended.onnx --json guard.json
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
from pathlib import Path

import numpy as np
import onnxruntime

sys.path.insert(0, str(ROOT := Path(__file__).resolve().parent.parent))

from runtime.artifact import read_artifact
from runtime.bench import BATCHES, compare, interleave
from runtime.cpus import usable_cpus
from runtime.session import create_session, session_options

AIMS = {"classify": 1.05, "start": 1.10, "import_ms": 10.0, "memory": 1.05}
CACHE = tempfile.TemporaryDirectory(prefix="cmt-bench-")
BARE = """
import sys, time, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = int(sys.argv[2]), 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
shape = session.get_inputs()[0].shape[1:]
images = numpy.zeros((int(sys.argv[3]), *shape), numpy.uint8)
for _ in range(int(sys.argv[4])): session.run(None, {"images": images})
"""
GUARD = """
import sys, time, numpy
from runtime import Guard
guard = Guard(sys.argv[1], device="cpu", threads=int(sys.argv[2]))
images = numpy.zeros((int(sys.argv[3]), *guard.spec.input_shape), numpy.uint8)
for _ in range(int(sys.argv[4])): guard.classify(images)
"""
PEAK = "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
IMPORTS = """
import time, numpy, onnxruntime
start = time.perf_counter()
from runtime import Guard
print(time.perf_counter() - start)
"""


def main() -> None:
    """Measure, print one line a figure, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("guard", nargs="?", default=ROOT / "results/mnist/guard.onnx", help="a guard file")
    parser.add_argument("--twin", help="the undefended twin: what do second head and rule cost?")
    parser.add_argument("--threads", type=int, default=usable_cpus(), help="threads of both sides")
    parser.add_argument("--seconds", type=float, default=4.0, help="per comparison of calls")
    parser.add_argument("--starts", type=int, default=15, help="process starts of each side")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the numbers")
    arguments = parser.parse_args()
    model = Path(arguments.guard).resolve()
    figures = {
        "classify": {
            str(cost.batch): cost.ratio
            for cost in compare(str(model), device="cpu", threads=arguments.threads, seconds=arguments.seconds)
        },
        "start": start_ratio(model, arguments.threads, arguments.starts),
        "import_ms": import_milliseconds(arguments.starts),
        "memory": {str(batch): memory_ratio(model, arguments.threads, batch) for batch in (1, 256)},
        "options": option_ratios(model, arguments.threads, arguments.seconds),
    }
    if arguments.twin:
        figures["over_twin"] = twin_ratios(model, Path(arguments.twin), arguments.threads, arguments.seconds)
    for name, value in figures.items():
        aim = f"   (aim: at most {AIMS[name]})" if name in AIMS else ""
        print(f"{name:10} {json.dumps(value, default=str)}{aim}")
    if arguments.json:
        machine = {"processor": platform.machine(), "cpus": usable_cpus(), "python": platform.python_version()}
        versions = {"numpy": np.__version__, "onnxruntime": onnxruntime.__version__}
        settings = {"threads": arguments.threads, "seconds": arguments.seconds, "starts": arguments.starts}
        document = {"settings": settings, "machine": machine, "versions": versions, "aims": AIMS, "figures": figures}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def start_ratio(model: Path, threads: int, starts: int) -> float:
    """Return seconds from process start to first verdict, guard / bare."""
    bare, guard = interleave(
        lambda: _process(BARE, model, threads, 1, 1),
        lambda: _process(GUARD, model, threads, 1, 1),
        seconds=0,
        least=starts,
    )
    return round(statistics.median(guard) / statistics.median(bare), 3)


def import_milliseconds(starts: int) -> float:
    """Return what `from runtime import Guard` adds once numpy and onnxruntime are loaded."""
    return round(1e3 * statistics.median(float(_process(IMPORTS)) for _ in range(starts)), 2)


def memory_ratio(model: Path, threads: int, batch: int) -> float:
    """Return peak resident memory over ten calls, guard / bare."""
    peaks = [
        statistics.median(int(_process(code + PEAK, model, threads, batch, 10)) for _ in range(5))
        for code in (BARE, GUARD)
    ]
    return round(peaks[1] / peaks[0], 3)


def option_ratios(model: Path, threads: int, seconds: float) -> dict[str, dict[str, float]]:
    """Return time per call with one option changed, over time with ours; above 1 ours is faster."""
    levels = onnxruntime.GraphOptimizationLevel
    ours = session_options(threads)
    variants = {
        name: session_options(threads)
        for name in ("level extended", "level basic", "no arena", "no pattern", "no spin")
    }
    variants["level extended"].graph_optimization_level = levels.ORT_ENABLE_EXTENDED
    variants["level basic"].graph_optimization_level = levels.ORT_ENABLE_BASIC
    variants["no arena"].enable_cpu_mem_arena = False
    variants["no pattern"].enable_mem_pattern = False
    variants["no spin"].add_session_config_entry("session.intra_op.allow_spinning", "0")
    variants |= {f"{count} threads": session_options(count) for count in {1, threads} - {threads}}
    model_bytes = read_artifact(model).model
    base = create_session(model_bytes, device="cpu", options=ours)
    shape = base.get_inputs()[0].shape[1:]
    ratios: dict[str, dict[str, float]] = {}
    for name, options in variants.items():
        session = create_session(model_bytes, device="cpu", options=options)
        ratios[name] = {str(batch): _ratio(base, session, (batch, *shape), seconds / 2) for batch in BATCHES}
    return ratios


def twin_ratios(model: Path, twin: Path, threads: int, seconds: float) -> dict[str, float]:
    """Return the bare session of the guard over that of its undefended twin."""
    sessions = [create_session(read_artifact(path).model, device="cpu", threads=threads) for path in (twin, model)]
    shape = sessions[0].get_inputs()[0].shape[1:]
    return {str(batch): _ratio(*sessions, (batch, *shape), seconds) for batch in BATCHES}


def _ratio(
    first: onnxruntime.InferenceSession, second: onnxruntime.InferenceSession, shape: tuple[int, ...], seconds: float
) -> float:
    feed = {"images": np.random.default_rng(0).integers(0, 256, shape, np.uint8)}
    times = interleave(lambda: first.run(None, feed), lambda: second.run(None, feed), seconds=seconds)
    return round(statistics.median(b / a for a, b in zip(*times, strict=True)), 3)


def _process(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": CACHE.name}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
