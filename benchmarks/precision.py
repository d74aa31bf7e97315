"""Throughput and size of a guard in INT8 against the same guard in float, and where the time of each goes.

The two take turns within one run, so that a busy machine slows both alike; what counts is the ratio of the medians.

    cmt quantize results/mnist/guard.onnx --data mnist/ -o guard-int8.onnx
    python benchmarks/precision.py results/mnist/guard.onnx guard-int8.onnx --threads 1 --json precision.json

The aims are those of a processor with 8-bit dot products (AVX-512 VNNI); without them INT8 is not worth it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from runtime.artifact import read_artifact
from runtime.bench import interleave
from runtime.guard import Guard
from runtime.session import create_session, session_options

AIMS = {1: 2.2, 16: 2.7, 64: 2.7}
SIZE_AIM = 0.3
PROFILED_RUNS = 50


def main() -> None:
    """Measure, print one line a figure, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("float_file", type=Path, help="a guard file in fp32")
    parser.add_argument("int8_file", type=Path, help="what cmt quantize made of it")
    parser.add_argument("--threads", type=int, default=1, help="threads of both sides")
    parser.add_argument("--seconds", type=float, default=6.0, help="per comparison")
    parser.add_argument("--profile", type=int, metavar="BATCH", help="say which operators take the time at this batch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the numbers")
    arguments = parser.parse_args()
    files = arguments.float_file, arguments.int8_file
    load = os.getloadavg()[0]
    figures = {
        "bare session": speedups([bare(file, arguments.threads) for file in files], files[0], arguments.seconds),
        "Guard.classify": speedups([guarded(file, arguments.threads) for file in files], files[0], arguments.seconds),
    }
    size = round(files[1].stat().st_size / files[0].stat().st_size, 4)
    for name, row in figures.items():
        for batch, (ratio, slow, fast) in row.items():
            times = f"{1e3 * slow:.3f} ms / {1e3 * fast:.3f} ms"
            print(f"{name:15} batch {batch:3}: {ratio:.2f} times as fast   ({times}, aim {AIMS[batch]})")
    print(f"size: {size} (aim: at most {SIZE_AIM}); load average at the start {load:.1f}")
    if arguments.profile:
        for file in files:
            print_profile(file, arguments.threads, arguments.profile)
    if arguments.json:
        machine = {"processor": processor(), "cpus": os.cpu_count(), "load": load}
        settings = {name: str(value) for name, value in vars(arguments).items()}
        versions = {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__}
        figures |= {"size": size, "aims": {**AIMS, "size": SIZE_AIM}}
        document = {"settings": settings, "machine": machine, "versions": versions, "figures": figures}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def bare(file: Path, threads: int) -> Callable[[np.ndarray], object]:
    session = create_session(read_artifact(file).model, device="cpu", threads=threads)
    return lambda images: session.run(None, {"images": images})


def guarded(file: Path, threads: int) -> Callable[[np.ndarray], object]:
    return Guard(file, device="cpu", threads=threads).classify


def speedups(
    calls: list[Callable[[np.ndarray], object]], file: Path, seconds: float
) -> dict[int, tuple[float, float, float]]:
    """Return, by batch size, the ratio of the medians and the medians in seconds."""
    shape = read_artifact(file).spec.input_shape
    found = {}
    for batch in AIMS:
        images = np.random.default_rng(0).integers(0, 256, (batch, *shape), np.uint8)
        slow, fast = interleave(lambda: calls[0](images), lambda: calls[1](images), seconds=seconds)  # noqa: B023
        medians = statistics.median(slow), statistics.median(fast)
        found[batch] = (round(medians[0] / medians[1], 3), *medians)
    return found


def print_profile(file: Path, threads: int, batch: int) -> None:
    """Print the median time of each operator in one run, by ONNX Runtime's own profiler."""
    artifact = read_artifact(file)
    options = session_options(threads)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = create_session(artifact.model, device="cpu", options=options)
        images = np.random.default_rng(0).integers(0, 256, (batch, *artifact.spec.input_shape), np.uint8)
        for _ in range(PROFILED_RUNS):
            session.run(None, {"images": images})
        events = json.loads(Path(session.end_profiling()).read_text())
    nodes: dict[tuple[str, str], list[int]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes[event["args"]["op_name"], event["name"]].append(event["dur"])
    operators: dict[str, float] = defaultdict(float)
    for (operator, _), durations in nodes.items():
        operators[operator] += statistics.median(durations)
    total = sum(operators.values())
    print(f"{file}, batch {batch}: {total / 1e3:.2f} ms in operators")
    for operator, time in sorted(operators.items(), key=lambda item: -item[1]):
        if time >= 0.01 * total:
            print(f"  {operator:20} {time / 1e3:8.3f} ms  {time / total:6.1%}")


def processor() -> str:
    """Return the name of the processor, and whether it has 8-bit dot products."""
    facts = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(": ")[2] for line in facts.splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, VNNI {'avx512_vnni' in facts or 'avx_vnni' in facts}"


if __name__ == "__main__":
    main()
