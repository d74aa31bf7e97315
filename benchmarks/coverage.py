"""Whole torchvision networks through `GradientGraph`, with random weights, against torch.autograd.

The first half runs where torchvision is, in the environment that `benchmarks/peers` makes or `--peers` names: it writes
every network as ONNX, and what torch says of its gradient, into a cache outside this tree. The second half reads them.

    python benchmarks/coverage.py --peers .venv-peers --json coverage.json
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
BATCH = 2
CLASSES = 10
SIZES = {
    "resnet18": 64,
    "mobilenet_v3_small": 64,
    "mobilenet_v3_large": 64,
    "vgg11": 224,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "convnext_tiny": 64,
    "vit_b_16": 64,
}
OPSETS = (18, 21)


def main() -> int:
    """Export what the cache lacks, compare, print one line a network, and write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"among {', '.join(SIZES)}; default: all")
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers", help="environment with torchvision")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "cmt-coverage", metavar="DIR")
    parser.add_argument("--threads", type=int, default=1, help="threads of ONNX Runtime")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each call")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the numbers")
    parser.add_argument("--export", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = arguments.networks or list(SIZES)
    unknown = [name for name in names if name not in SIZES]
    if unknown:
        parser.error(f"expected networks among {', '.join(SIZES)}, got {', '.join(unknown)}")
    if arguments.export:
        export_all(names, arguments.cache)
        return 0
    problem = fill(arguments.cache, names, arguments.peers / "bin" / "python")
    if problem:
        print(problem, file=sys.stderr)
        return 2
    rows = compare(names, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def fill(cache: Path, names: Iterable[str], python: Path) -> str:
    """Let `python` export what the cache lacks; return what went wrong, empty where nothing did."""
    missing = [name for name in names if not all(path.exists() for path in files(cache, name))]
    if not missing:
        return ""
    if not python.exists():
        return (
            f"expected torchvision in an environment, got no {python}; make it with benchmarks/peers or use --peers DIR"
        )
    command = [str(python), __file__, "--export", "--cache", str(cache), *missing]
    code = subprocess.run(command, check=False).returncode
    return f"expected {python} to export {', '.join(missing)}, got exit code {code}" if code else ""


def files(cache: Path, name: str) -> list[Path]:
    """What the cache holds of one network: torch's numbers, and the network at each opset."""
    return [cache / f"{name}.npz", *(cache / f"{name}-{opset}.onnx" for opset in OPSETS)]


def export_all(names: Iterable[str], cache: Path) -> None:
    """Write the networks and torch's gradients; runs where torchvision is."""
    import torch

    from benchmarks.torchvision_import import import_torchvision

    torchvision = import_torchvision()

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    cache.mkdir(parents=True, exist_ok=True)
    for name in names:
        print(f"exporting {name} with torch {torch.__version__}, torchvision {torchvision.__version__}", flush=True)
        size = SIZES[name]
        torch.manual_seed(0)
        sized = {"image_size": size} if name.startswith("vit") else {}
        network = getattr(torchvision.models, name)(weights=None, num_classes=CLASSES, **sized)
        settle(network, size)
        x = torch.rand(BATCH, 3, size, size)
        cotangents = torch.randn(BATCH, CLASSES)
        wide = reference(network.double(), x.double(), cotangents.double())
        logits, gradient = reference(network.float(), x, cotangents)
        numbers, *models = files(cache, name)
        for opset, path in zip(OPSETS, models, strict=True):
            export(network, x, opset, path)
        np.savez(
            numbers,
            x=x.numpy(),
            cotangents=cotangents.numpy(),
            logits=logits,
            gradient=gradient,
            wide_gradient=wide[1],
            versions=[torch.__version__, torchvision.__version__],
        )


def settle(network, size):
    """Give normalisation layers the statistics of some images, and weights that start at nothing a value."""
    import torch

    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    network.train()
    with torch.no_grad():
        for _ in range(8):
            network(torch.rand(8, 3, size, size))
    network.eval()


def reference(network, x, cotangents):
    """Logits and the gradient by torch.autograd."""
    x = x.clone().requires_grad_()
    logits = network(x)
    (logits * cotangents).sum().backward()
    return logits.detach().numpy(), x.grad.numpy()


def export(network, x, opset, path):
    """Write one network as ONNX with a symbolic batch."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (x,),
            path,
            dynamo=True,
            opset_version=opset,
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            external_data=False,
            verbose=False,
        )


def compare(names: Iterable[str], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Differentiate each network, time it, and print its line."""
    print(f"{'network':20} opset  nodes  operators  error    torch's  gradient / forward")
    rows = []
    for name in names:
        numbers, *models = files(arguments.cache, name)
        for opset, path in zip(OPSETS, models, strict=True):
            row = {"network": name, "opset": opset, **measured(path, np.load(numbers), arguments)}
            rows.append(row)
            print(
                f"{name:20} {opset:5} {row['nodes']:6} {len(row['operators']):10}  {row['error']:.1e}  "
                f"{row['torch_error_to_float64']:.1e}  {row['forward_passes']:6.2f}",
                flush=True,
            )
    return rows


def measured(path: Path, torch_says: Mapping[str, np.ndarray], arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare and time one network."""
    sys.path.insert(0, str(ROOT))
    import onnx

    from calibration.gradients import GradientGraph

    operators = Counter(node.op_type for node in onnx.load(path).graph.node)
    graph = GradientGraph(path, device="cpu", threads=arguments.threads)
    x, cotangents = torch_says["x"], {"logits": torch_says["cotangents"]}
    gradient = graph.vjp(x, cotangents)
    return {
        "image": list(x.shape),
        "nodes": operators.total(),
        "operators": dict(operators.most_common()),
        "logits_error": relative(graph.logits(x)["logits"], torch_says["logits"]),
        "error": relative(gradient, torch_says["gradient"]),
        "error_to_float64": relative(gradient, torch_says["wide_gradient"]),
        "torch_error_to_float64": relative(torch_says["gradient"], torch_says["wide_gradient"]),
        "forward_passes": ratio(lambda: graph.vjp(x, cotangents), lambda: graph.logits(x), arguments.repeats),
        "versions": [str(version) for version in torch_says["versions"]],
    }


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    """Distance over length, both in the L2 norm."""
    return float(np.linalg.norm(actual.astype(np.float64) - expected) / np.linalg.norm(expected.astype(np.float64)))


def ratio(first: Callable[[], object], second: Callable[[], object], repeats: int) -> float:
    """Median time of one call over that of another, both called in turn."""
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(repeats):
        for index, call in enumerate((first, second)):
            start = time.perf_counter()
            call()
            seconds[index].append(time.perf_counter() - start)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])


if __name__ == "__main__":
    sys.exit(main())
