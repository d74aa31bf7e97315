"""Our attacks on an exported file against those of Foolbox, ART and torchattacks on the same network in PyTorch.

Same weights, same images, same hyper-parameters, as many threads on both sides. Only the attack itself is timed: models
are loaded, sessions started and caches warm before. Every party is asked by its own engine whether it succeeded.

    benchmarks/peers                                             # makes .venv-peers, once
    python benchmarks/attacks.py --data mnist/ --ckpt oracle.pt --json attacks.json

Without --data and --ckpt it trains a network on the bundled digits, which takes a minute the first time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(ROOT := Path(__file__).resolve().parent.parent))

from calibration.attacks.attack import Attack, AttackResult
from calibration.attacks.catalogue import ATTACKS
from calibration.datasets import load_dataset
from calibration.gradients import GradientGraph
from calibration.objectives import CROSS_ENTROPY
from calibration.pixels import to_pixels
from runtime.cpus import usable_cpus

PEERS = {
    "fgs": ("foolbox", "art", "torchattacks"),
    "igs": ("foolbox", "art", "torchattacks"),
    "deepfool-linf": ("foolbox",),
    "deepfool": ("foolbox", "art", "torchattacks"),
    "cw": ("foolbox", "torchattacks"),
    "jsma": ("art",),
}
AIMS = {"fgs": 1.0, "igs": 1.0, "deepfool-linf": 4.0, "deepfool": 4.0, "cw": 10.0, "jsma": 10.0}
SHARE = 0.145
"""Largest share of the pixels that JSMA may change, as in its source."""

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class Sample(NamedTuple):
    """What everybody attacks; `targets` are for JSMA."""

    pixels: FloatArray
    labels: IntArray
    targets: IntArray


def main() -> None:
    """Measure, print one line a party, and write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=tuple(PEERS), action="append", help="which attacks; may be given again")
    parser.add_argument("--data", default="digits", help="as for `cmt train`")
    parser.add_argument("--ckpt", type=Path, help="an undefended checkpoint, as `cmt train --recipe none` writes it")
    parser.add_argument("--images", type=int, default=64, help="test images that the network classifies correctly")
    parser.add_argument("--threads", type=int, default=usable_cpus(), help="threads of every party")
    parser.add_argument("--rounds", type=int, default=3, help="timings of each of our attacks")
    parser.add_argument("--epsilon", type=float, default=0.1, help="budget of fgs and igs")
    parser.add_argument("--steps", type=int, default=20, help="steps of igs")
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers", help="made by benchmarks/peers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the numbers")
    arguments = parser.parse_args()
    python = arguments.peers / "bin/python"
    if not python.exists():
        parser.error(f"expected the peers' environment at {arguments.peers}, got none; run benchmarks/peers")
    with tempfile.TemporaryDirectory(prefix="cmt-attacks-") as folder:
        bench = Bench(arguments, Path(folder), python)
        figures = {name: bench.compare(name) for name in arguments.only or PEERS}
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


class Bench:
    """One network and one sample, attacked by everybody."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, python: Path) -> None:
        """Export the checkpoint and choose the images."""
        self.arguments, self.folder, self.python = arguments, folder, python
        self.checkpoint = (arguments.ckpt or trained(arguments.data)).resolve()
        model = folder / "model.onnx"
        _cmt("export", "--ckpt", self.checkpoint, "-o", model)
        self.graph = GradientGraph(model, of=["logits"], device="cpu", threads=arguments.threads)
        self.sample = sample(self.graph, arguments.data, arguments.images)
        np.savez(folder / "data.npz", **self.sample._asdict())

    def compare(self, name: str) -> dict[str, Any]:
        """Run one attack of everybody, ours before and after the peers, and print what came out."""
        attack, targets = self.ours(name)
        ours = [self.run(attack, targets)]
        peers = {peer: self.peer(name, peer) for peer in PEERS[name]}
        ours += [self.run(attack, targets) for _ in range(self.arguments.rounds - 1)]
        mine = ours[0] | {"seconds": statistics.median(run["seconds"] for run in ours)}
        mine["gradient_seconds"] = self.gradient_seconds() * mine["gradients"] * len(self.sample.labels)
        figure = summary(mine, peers) | {"aim": AIMS[name], "load": os.getloadavg()[0]}
        show(name, mine, peers, figure)
        return figure

    def ours(self, name: str) -> tuple[Attack[Any], bool]:
        """Return our attack with the peers' hyper-parameters, and whether it is given targets."""
        epsilon, steps = self.arguments.epsilon, self.arguments.steps
        options: dict[str, dict[str, Any]] = {
            "fgs": {"epsilon": epsilon},
            "igs": {"epsilon": epsilon, "steps": steps},
            "deepfool-linf": {"norm": "linf"},
            "deepfool": {"norm": "l2"},
            "cw": {},
            "jsma": {"targeted": True, "theta": 1.0, "gamma": SHARE},
        }
        return ATTACKS[name.partition("-")[0]](**options[name]), name == "jsma"

    def run(self, attack: Attack[Any], targeted: bool) -> dict[str, Any]:
        """Time one of our attacks and describe what it made."""
        pixels, labels, targets = self.sample
        given: dict[str, Any] = {"targets": targets} if targeted else {}
        attack(self.graph, pixels[:2], labels[:2], **{key: value[:2] for key, value in given.items()})
        started = time.perf_counter()
        result: AttackResult = attack(self.graph, pixels, labels, **given)
        seconds = time.perf_counter() - started
        found = self.graph.logits(result.x_adv)["logits"].argmax(axis=1)
        return self.describe(result.x_adv, found, seconds, targeted) | {"gradients": float(result.gradients.mean())}

    def peer(self, name: str, peer: str) -> dict[str, Any]:
        """Run one attack of one peer in its own process."""
        output = self.folder / f"{name}-{peer}.npz"
        task = {
            "attack": name,
            "peer": peer,
            "checkpoint": str(self.checkpoint),
            "data": str(self.folder / "data.npz"),
            "output": str(output),
            **{key: getattr(self.arguments, key) for key in ("threads", "epsilon", "steps")},
        }
        command = [str(self.python), str(ROOT / "benchmarks/attack_peers.py")]
        subprocess.run(command, input=json.dumps(task), text=True, check=True, stdout=subprocess.DEVNULL)
        made = np.load(output)
        found = self.describe(made["x_adv"], made["labels"], float(made["seconds"]), name == "jsma")
        return found | {"forwards": float(made["forwards"])}

    def describe(self, x_adv: FloatArray, found: IntArray, seconds: float, targeted: bool) -> dict[str, Any]:
        """Return success and, over the successful images, mean distortions."""
        pixels, labels, targets = self.sample
        inside = (x_adv >= 0).all() and (x_adv <= 1).all()
        hit = (found == targets if targeted else found != labels) if inside else np.zeros(len(labels), np.bool_)
        change = np.abs(x_adv - pixels).reshape(len(pixels), -1)[hit].astype(np.float64)
        means = {
            "l2": float(np.linalg.norm(change, axis=1).mean()) if hit.any() else None,
            "linf": float(change.max(axis=1).mean()) if hit.any() else None,
            "l0": float((change > 1e-6).mean(axis=1).mean()) if hit.any() else None,
        }
        return {"seconds": seconds, "success": float(hit.mean()), **means}

    def gradient_seconds(self) -> float:
        """Return what one gradient of one image costs in a batch of all of them, nothing else done."""
        pixels, labels, _ = self.sample

        def once() -> float:
            started = time.perf_counter()
            self.graph.value_and_gradient(CROSS_ENTROPY, pixels, labels=labels)
            return (time.perf_counter() - started) / len(pixels)

        return statistics.median(once() for _ in range(9))


def summary(ours: dict[str, Any], peers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Compare with the fastest peer that succeeds as often, and with the least mean distortion among those."""
    rivals = {name: peer for name, peer in peers.items() if peer["success"] >= ours["success"]} or {
        max(peers.items(), key=lambda pair: pair[1]["success"])[0]: max(
            peers.values(), key=lambda peer: peer["success"]
        )
    }
    fastest = min(rivals, key=lambda name: rivals[name]["seconds"])
    least = {f"peer_{norm}": min(peer[norm] for peer in rivals.values()) for norm in ("l2", "linf", "l0")}
    return {
        "speedup": rivals[fastest]["seconds"] / ours["seconds"],
        **ours,
        "over_gradients": ours["seconds"] / ours["gradient_seconds"],
        "peer": fastest,
        "peer_success": rivals[fastest]["success"],
        "peer_seconds": rivals[fastest]["seconds"],
        **least,
        "peers": peers,
    }


def show(name: str, ours: dict[str, Any], peers: dict[str, dict[str, Any]], figure: dict[str, Any]) -> None:
    """Print one line a party, then the comparison."""
    for party, run in {"cmt": ours, **peers}.items():
        cost = f"{run['gradients']:7.1f} gradients" if "gradients" in run else f"{run['forwards']:7.1f} forwards"
        means = "  ".join(f"{norm} {run[norm]:.4f}" for norm in ("l2", "linf", "l0") if run[norm] is not None)
        print(f"{name:14}{party:13}{run['seconds']:9.3f} s  {100 * run['success']:5.1f} %  {cost}  {means}", flush=True)
    print(
        f"{name:14}{figure['speedup']:.2f} times as fast as {figure['peer']} (aim {figure['aim']:g}), "
        f"{figure['over_gradients']:.2f} times the bare cost of its gradients, load {figure['load']:.1f}",
        flush=True,
    )


def sample(graph: GradientGraph, data: str, count: int) -> Sample:
    """Return the first test images, in a fixed random order, that the network classifies correctly."""
    test = load_dataset(data).test
    order = np.random.default_rng(0).permutation(len(test))[: 4 * count]
    pixels, labels = to_pixels(np.ascontiguousarray(test.images[order])), test.labels[order]
    right = np.flatnonzero(graph.logits(pixels)["logits"].argmax(axis=1) == labels)[:count]
    k = graph.classes["logits"]
    targets = (labels[right] + 1 + np.arange(len(right)) % (k - 1)) % k
    return Sample(pixels[right], labels[right], targets)


def trained(data: str) -> Path:
    """Return an undefended checkpoint on `data`, trained when it is first asked for."""
    folder = Path(os.environ.get("CMT_CACHE", Path.home() / ".cache/cmt")) / "benchmarks"
    path = folder / f"{Path(data).name}-oracle.pt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _cmt("train", data, "-o", path, "--recipe", "none", "--epochs", "20" if data == "digits" else "3")
    return path


def _cmt(*arguments: object) -> None:
    code = "import sys; from cmt_export.cli import main; sys.exit(main())"
    command: list[str] = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)


if __name__ == "__main__":
    main()
