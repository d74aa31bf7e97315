"""Every defence trained, calibrated and attacked alike, one command after the other, and one table that grows with it.

    python benchmarks/defences.py --data mnist/ -o results/defences --plan
    python benchmarks/defences.py --data mnist/ -o results/defences --effort quick --only cmt,hardened
    python benchmarks/defences.py --data mnist/ -o results/defences --file hardened=hardened.onnx

Each step is a `cmt` command that is printed before it runs. What is finished is skipped, judged by what the file says:
its guard, its command, and that it came to the end; what was interrupted is resumed. The cheap attacks on all defences
come before the dear ones, and after each command the table is written anew with what has run. Several processes with
the same options share the steps, --threads 1 each. A full sweep takes about a day on two processors, see --plan.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from calibration.results import PoolResults, load_results
from runtime.artifact import read_artifact
from runtime.errors import CmtError, UsageError

ACCEPTANCE = 0.99
MOST_CLOSELY = ("hardened", "cmt", "pgd")
"""Attacked on 1,000 images, at the budget of the headline from five starts; the others on 200 from one."""

EFFORTS = "full; even: 200 images and one start for each defence; quick: 50 images, fewer steps and queries"

TRAINING = {
    "none": "--epochs 8",
    "adversarial": "--epochs 8",
    "distillation": "--epochs 8",
    "magnet": "--epochs 8",
    "pgd": "--epochs 8 --inner-steps 7 --inner-step-size 0.25",
    "trades": "--epochs 8 --inner-steps 7 --inner-step-size 0.25",
    "ccat": "--epochs 5 --inner-steps 20 --inner-step-size 0.05",
    "cmt": "--epochs 7",
    "hardened": "--epochs 32 --batch-size 512 --focus 0.25 --epsilon 0.4 --ramp 0.45 --inner-steps 6 "
    "--inner-step-size 0.3 --late-steps 10",
}
TRAINING["hardened-wide"] = f"{TRAINING['hardened']} --network wide"
"""How each recipe is trained on MNIST, beyond its defaults; what follows a hyphen is a training of that recipe."""

ON_PHOTOS = "--flip --crop 3 --averaging 0.999"
ATTACKED_ON_PHOTOS = f"--epochs 12 --epsilon 8/255 --inner-steps 5 --inner-step-size 0.4 {ON_PHOTOS}"
TRAINING_CIFAR = dict.fromkeys(("none", "distillation", "magnet"), f"--epochs 20 {ON_PHOTOS}")
TRAINING_CIFAR["adversarial"] = f"--epochs 12 --epsilon 8/255 {ON_PHOTOS}"
TRAINING_CIFAR["cmt"] = f"--epochs 12 --epsilon 0.1 {ON_PHOTOS}"
TRAINING_CIFAR |= dict.fromkeys(("pgd", "trades"), ATTACKED_ON_PHOTOS)
TRAINING_CIFAR["ccat"] = f"--epochs 8 --epsilon 8/255 --inner-steps 20 --inner-step-size 0.05 {ON_PHOTOS}"
TRAINING_CIFAR["hardened"] = f"{ATTACKED_ON_PHOTOS} --shift 0 --ramp 0.25"
TRAINING_CIFAR["hardened-wide"] = f"{TRAINING_CIFAR['hardened']} --network wide"
TRAINING_CIFAR["hardened-0"] = f"{TRAINING_CIFAR['hardened']} --clean-weight 0"
TWO_STEPS = f"--epochs 24 --inner-steps 2 --inner-step-size 0.6 --ramp 0.25 {ON_PHOTOS}"
TRAINING_CIFAR["hardened-8"] = f"{TWO_STEPS} --clean-weight 0 --shift 0 --epsilon 8/255"
TRAINING_CIFAR["hardened-12"] = f"{TWO_STEPS} --clean-weight 0 --shift 0 --epsilon 12/255"
TRAINING_CIFAR |= dict.fromkeys(("pgd-12", "trades-12"), f"{TWO_STEPS} --epsilon 12/255")
"""The same on CIFAR-10, within the budget that is attacked; `cmt` within that of `cmt reproduce`."""

RECIPES = tuple(name for name in TRAINING if "-" not in name)
"""What is compared unless --only says otherwise."""

WIDE_COST = 4
"""A gradient of the wide trunk in gradients of Table 1's."""

EPOCH_COST = {"none": 1.0, "adversarial": 2.3, "distillation": 1.3, "magnet": 1.2, "pgd": 5.1, "trades": 6.0}
EPOCH_COST |= {"ccat": 8.0, "cmt": 2.3, "hardened": 1.6, "hardened-wide": 1.6 * WIDE_COST}
"""An epoch in epochs of `none`: as in docs/recipes.md, those of fewer inner steps and of a focus by count."""
EPOCH_COST_CIFAR = EPOCH_COST | {"pgd": 4.0, "trades": 5.0, "hardened": 5.0, "hardened-wide": 5.0 * WIDE_COST}
EPOCH_COST_CIFAR |= {"hardened-0": 4.0, "hardened-8": 2.0, "hardened-12": 2.0, "pgd-12": 2.0, "trades-12": 2.5}

SECONDS_OF_NONE = 94.0
SECONDS_OF_NONE_CIFAR = 120.0
SECONDS_A_GRADIENT = 1.1e-3
SECONDS_A_QUERY = 0.6e-3
"""On two processors and the Table 1 trunk, with MNIST unless it says otherwise; for attacks, an image that resists."""

ENSEMBLE = ("hardened", "pgd", "cmt")
"""Members of the pool: rules of both kinds."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is asked for: the data, the budgets, and how hard to try."""

    data: str
    folder: Path
    effort: str
    cifar: bool
    threads: tuple[str, ...] = ()
    files: dict[str, Path] = field(default_factory=dict)

    def guard(self, name: str) -> Path:
        """Return where the file of a defence is."""
        return self.files.get(name, self.folder / name / "guard.onnx")

    def images(self, name: str) -> int:
        """Return how many test images a defence is attacked on."""
        return 1000 if self._closely(name) else 50 if self.effort == "quick" else 200

    def starts(self, name: str, epsilon: str) -> int:
        """Return how many starts APGD has at an L-infinity budget."""
        return 5 if self._closely(name) and epsilon == self.headline else 1

    def _closely(self, name: str) -> bool:
        return self.effort == "full" and name in MOST_CLOSELY

    @property
    def training(self) -> dict[str, str]:
        """Options of each recipe."""
        return TRAINING_CIFAR if self.cifar else TRAINING

    @property
    def steps(self) -> int:
        """Steps from each start."""
        return 30 if self.effort == "quick" else 100

    @property
    def queries(self) -> int:
        """Questions an attacker who only asks may put."""
        return 500 if self.effort == "quick" else 5000

    @property
    def epsilons(self) -> tuple[str, ...]:
        """L-infinity budgets of the curve, the one of the headline first."""
        return ("8/255", "4/255", "12/255") if self.cifar else ("0.3", "0.1", "0.2", "0.4")

    @property
    def headline(self) -> str:
        """The budget that dear attacks get."""
        return self.epsilons[0]

    @property
    def stated(self) -> tuple[str, ...]:
        """Budgets that a figure is stated for; the others only draw the curve."""
        return self.epsilons[:1] if self.cifar else ("0.3", "0.4")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command: what it is for, what it leaves, and about how long it takes where nothing is fooled early."""

    name: str
    arguments: tuple[str, ...]
    leaves: Path
    needs: tuple[Path, ...] = ()
    seconds: float = 0.0
    kind: str = "attack"

    @property
    def finished(self) -> bool:
        """Judge by what the file says, not by its being there."""
        try:
            if self.kind == "attack":
                return self._attacked()
            spec = read_artifact(self.leaves).spec
        except (CmtError, OSError):
            return False
        return self.kind != "calibrate" or (spec.calibration is not None and spec.calibration.acceptance == ACCEPTANCE)

    def _attacked(self) -> bool:
        results = load_results(self.leaves)
        parts = results.members if isinstance(results, PoolResults) else (results,)
        guards = self.needs if isinstance(results, PoolResults) else self.needs[:1]
        files = [read_artifact(path).sha256 for path in guards]
        return len(parts) == len(files) and all(
            part.complete and part.model.sha256 == sha256 and shlex.split(part.command)[1:] == list(self.arguments)
            for part, sha256 in zip(parts, files, strict=True)
        )


def preparation(sweep: Sweep, names: Sequence[str]) -> Iterator[Step]:
    """Yield training, export and calibration of every defence, and of the substitute that attackers own."""
    network = "s-cifar10" if sweep.cifar else "s-mnist"
    options = {name: ("--recipe", name.partition("-")[0], *sweep.training[name].split()) for name in names}
    options = {"substitute": ("--network", network, "--epochs", "8"), **options}
    for name, chosen in options.items():
        if name in sweep.files:
            continue
        checkpoint, guard = sweep.folder / name / "model.pt", sweep.guard(name)
        exported = guard if name == "substitute" else guard.with_name("uncalibrated.onnx")
        epochs = float(chosen[chosen.index("--epochs") + 1])
        costs, pace = (EPOCH_COST_CIFAR, SECONDS_OF_NONE_CIFAR) if sweep.cifar else (EPOCH_COST, SECONDS_OF_NONE)
        seconds = epochs * costs.get(name, 1.0) * pace
        train = ("train", sweep.data, "-o", str(checkpoint), *chosen, *sweep.threads, "--resume")
        yield Step(name=name, arguments=train, leaves=exported, seconds=seconds, kind="train")
        export = ("export", "--ckpt", str(checkpoint), "-o", str(exported))
        yield Step(name=name, arguments=export, leaves=exported, needs=(checkpoint,), kind="export")
        if name != "substitute":
            accept = ("--data", sweep.data, "--accept", str(ACCEPTANCE), "-n", "1000")
            calibrate = ("calibrate", str(exported), *accept, "-o", str(guard))
            yield Step(name=name, arguments=calibrate, leaves=guard, needs=(exported,), kind="calibrate")


def attacks(sweep: Sweep, names: Sequence[str], wanted: Sequence[str]) -> Iterator[Step]:
    """Yield every wanted attack on every defence, the cheap ones first."""
    for attack, build in ATTACKS.items():
        for name in names if attack in wanted else ():
            yield from build(sweep, name, names)


def _attack(sweep: Sweep, name: str, label: str, *options: str, seconds: float, guards: Sequence[Path] = ()) -> Step:
    guards = guards or (sweep.guard(name),)
    output = sweep.folder / name / f"{label.replace('/', '-')}.json"
    pool = [word for guard in guards[1:] for word in ("--pool", str(guard))]
    common = ("--data", sweep.data, "-n", str(sweep.images(name)), *sweep.threads, "--resume", "-o", str(output))
    arguments = ("attack", str(guards[0]), *pool, *options, *common)
    total = seconds * sweep.images(name) * len(guards) * (WIDE_COST if name.endswith("-wide") else 1)
    return Step(name=name, arguments=arguments, leaves=output, needs=tuple(guards), seconds=total)


def _budgets(sweep: Sweep) -> tuple[str, str]:
    return "--epsilon", ",".join(sweep.epsilons)


def _pgd(sweep: Sweep, name: str, names: Sequence[str]) -> Iterator[Step]:
    """The confidence of the rule itself, from three starts."""
    cost = len(sweep.epsilons) * 3 * 40 * SECONDS_A_GRADIENT
    yield _attack(sweep, name, "pgd", "-a", "pgd", "--threat", "nearly-white-box", *_budgets(sweep), seconds=cost)


def _apgd(sweep: Sweep, name: str, names: Sequence[str]) -> Iterator[Step]:
    """The same objective, from as many starts as the strongest attack has."""
    for epsilon in sweep.stated:
        work = ("--steps", str(sweep.steps), "--restarts", str(sweep.starts(name, epsilon)))
        options = ("-a", "apgd", "--threat", "nearly-white-box", "--epsilon", epsilon, *work)
        cost = (sweep.steps + 1) * sweep.starts(name, epsilon) * SECONDS_A_GRADIENT
        yield _attack(sweep, name, f"confidence-{epsilon}", *options, seconds=cost)


def _cw(sweep: Sweep, name: str, names: Sequence[str]) -> Iterator[Step]:
    if name != "magnet":  # detectors have no margin in logits
        yield _attack(sweep, name, "cw", "-a", "cw", "--threat", "nearly-white-box", seconds=280 * SECONDS_A_GRADIENT)


def _transfer(sweep: Sweep, name: str, names: Sequence[str]) -> Iterator[Step]:
    """From the substitute and from every other defence, whose rule the attacker may rehearse."""
    others = ["substitute", *(other for other in names if other != name)]
    words = [word for other in others for word in ("--substitute", str(sweep.guard(other)))]
    budgets = ("--epsilon", ",".join(sweep.stated), "--restarts", "1")
    cost = len(others) * 1.5 * len(sweep.stated) * 41 * SECONDS_A_GRADIENT
    step = _attack(sweep, name, "transfer", "-a", "pgd", "--threat", "black-box", *words, *budgets, seconds=cost)
    yield Step(**{**vars(step), "needs": (*step.needs, *(sweep.guard(other) for other in others))})


def _grey_box(sweep: Sweep, name: str, names: Sequence[str]) -> Iterator[Step]:
    """A wrong label, the rule ignored: what is left where nothing is rejected."""
    cost = len(sweep.stated) * (sweep.steps + 1) * SECONDS_A_GRADIENT
    work = ("--steps", str(sweep.steps), "--restarts", "1", "--epsilon", ",".join(sweep.stated))
    yield _attack(sweep, name, "grey-box", "-a", "apgd", "--threat", "grey-box", *work, seconds=cost)


def _far(sweep: Sweep, name: str, names: Sequence[str]) -> Iterator[Step]:
    """L2, which no recipe trains for."""
    epsilon = "0.5" if sweep.cifar else "2"
    options = ("-a", "apgd", "--norm", "l2", "--epsilon", epsilon, *_every_target(sweep, 1, steps=3 * sweep.steps))
    yield _attack(sweep, name, "l2", *options, seconds=_targets_cost(sweep, 7))  # two climbs of 3 · steps each


def _targets(sweep: Sweep, name: str, names: Sequence[str]) -> Iterator[Step]:
    for epsilon in sweep.stated:
        starts = sweep.starts(name, epsilon)
        options = ("-a", "apgd", "--epsilon", epsilon, *_every_target(sweep, starts))
        yield _attack(sweep, name, f"apgd-{epsilon}", *options, seconds=_targets_cost(sweep, starts))


def _pre_lock(sweep: Sweep, name: str, names: Sequence[str]) -> Iterator[Step]:
    if name == "cmt":
        options = ("-a", "pgd", "--threat", "pre-lock", *_budgets(sweep))
        yield _attack(sweep, name, "pre-lock", *options, seconds=len(sweep.epsilons) * 120 * SECONDS_A_GRADIENT)


def _square(sweep: Sweep, name: str, names: Sequence[str]) -> Iterator[Step]:
    yield _attack(sweep, name, "square", "-a", "square", *_asking(sweep), seconds=sweep.queries * SECONDS_A_QUERY)


def _hopskipjump(sweep: Sweep, name: str, names: Sequence[str]) -> Iterator[Step]:
    options = ("-a", "hopskipjump", "--norm", "linf", *_asking(sweep))
    yield _attack(sweep, name, "hopskipjump", *options, seconds=sweep.queries * SECONDS_A_QUERY)


def _asking(sweep: Sweep) -> tuple[str, ...]:
    return "--threat", "decision-only", "--queries", str(sweep.queries), "--epsilon", sweep.headline


def _ensemble(sweep: Sweep, name: str, names: Sequence[str]) -> Iterator[Step]:
    """The paper's future work: one of several files answers; built once, with the first of its members."""
    members = [one for one in ENSEMBLE if one in names]
    if len(members) < 2 or name != members[0]:
        return
    guards = [sweep.guard(one) for one in members]
    budgets, stated = _budgets(sweep), ("--epsilon", ",".join(sweep.stated))
    asking = sweep.queries * SECONDS_A_QUERY
    pgd, targets = len(sweep.epsilons) * 120 * SECONDS_A_GRADIENT, len(sweep.stated) * _targets_cost(sweep, 1)
    for label, options, seconds in (
        ("pgd", ("-a", "pgd", "--threat", "nearly-white-box", *budgets), pgd),
        ("cw", ("-a", "cw", "--threat", "nearly-white-box"), 280 * SECONDS_A_GRADIENT),
        ("apgd", ("-a", "apgd", *_every_target(sweep, 1), *stated), targets),
        ("square", ("-a", "square", *_asking(sweep)), asking),
        ("hopskipjump", ("-a", "hopskipjump", "--norm", "linf", *_asking(sweep)), asking),
    ):
        yield _attack(sweep, "ensemble", label, *options, seconds=seconds, guards=guards)


def _every_target(sweep: Sweep, starts: int, *, steps: int = 0) -> tuple[str, ...]:
    work = ("--steps", str(steps or sweep.steps), "--restarts", str(starts))
    return ("--threat", "nearly-white-box", "--all-targets", *work)


def _targets_cost(sweep: Sweep, starts: int) -> float:
    return 9 * (sweep.steps + 1) * starts * SECONDS_A_GRADIENT


ATTACKS = {
    "pgd": _pgd,
    "confidence": _apgd,
    "cw": _cw,
    "grey-box": _grey_box,
    "pre-lock": _pre_lock,
    "transfer": _transfer,
    "l2": _far,
    "targets": _targets,
    "ensemble": _ensemble,
    "square": _square,
    "hopskipjump": _hopskipjump,
}
"""What ``--attacks`` takes, cheap before dear."""


def compare(sweep: Sweep, names: Sequence[str]) -> None:
    """Write the table with everything that has run."""
    found = sorted(path for path in sweep.folder.glob("*/*.json") if path.is_file())
    run = {path.parent.name for path in found}
    awaited = [word for name in (*names, "ensemble") if name not in run for word in ("--awaited", name)]
    if found:
        execute(("compare", *map(str, found), "-o", str(sweep.folder), *awaited))


def execute(arguments: Sequence[str]) -> int:
    """Show a `cmt` command, run it, and return its exit code."""
    print(f"$ cmt {shlex.join(arguments)}", flush=True)
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    program = "import sys; sys.argv[0] = 'cmt'; from cmt_export.cli import main; main()"
    return subprocess.run([sys.executable, "-c", program, *arguments], check=False, env=environment).returncode


def show_plan(steps: Sequence[Step]) -> None:
    """Print every command, whether it is finished, and what it may take."""
    left = 0.0
    for step in steps:
        done = step.finished
        left += 0.0 if done else step.seconds
        print(f"{'done' if done else f'{step.seconds / 3600:.2f} h':>8}  cmt {shlex.join(step.arguments)}")
    print(f"at most about {left / 3600:.1f} hours on two processors; images that fall early cost next to nothing")


@contextmanager
def claim(leaves: Path) -> Iterator[bool]:
    """Say whether the step is this process's alone, until it ends, however it ends."""
    leaves.parent.mkdir(parents=True, exist_ok=True)
    with leaves.with_suffix(".lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def run(sweep: Sweep, names: Sequence[str], steps: Sequence[Step]) -> int:
    """Run what is not finished, again from the first step until nothing is left that this process could do."""
    failed = 0
    left = list(steps)
    while left:
        step = next((step for step in left if all(path.exists() for path in step.needs)), None)
        if step is None:
            break
        left.remove(step)
        with claim(step.leaves) as ours:
            if not ours or step.finished:
                print(f"{'done' if ours else 'another process has'}: {step.leaves}", flush=True)
                continue
            code = execute(step.arguments)
        if code == 130:
            return code
        failed += code != 0
        if step.kind == "attack":
            compare(sweep, names)
    for step in left:
        print(f"waits: {step.leaves}", flush=True)
    return 5 if failed else 0


def main() -> None:
    """Read what is asked for, then plan or run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="as for `cmt attack`")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the folder for everything")
    parser.add_argument("--only", default=",".join(RECIPES), help="defences, with commas; by default every recipe")
    parser.add_argument("--attacks", default=",".join(ATTACKS), help="which attacks, with commas; by default all")
    parser.add_argument("--effort", choices=["full", "even", "quick"], default="full", help=EFFORTS)
    parser.add_argument("--cifar", action="store_true", help="the budgets of CIFAR-10 in place of those of MNIST")
    parser.add_argument("--file", action="append", default=[], metavar="NAME=GUARD.onnx", help="take this file")
    parser.add_argument("--threads", type=int, help="of each command; by default all usable processors")
    parser.add_argument("--plan", action="store_true", help="show commands and hours, run nothing")
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    files = dict(pair.partition("=")[::2] for pair in arguments.file)
    known = TRAINING_CIFAR if arguments.cifar else TRAINING
    unknown = [name for name in (*names, *files) if name not in (*known, "substitute")]
    if unknown:
        raise UsageError(f"expected defences out of {', '.join(known)}, got {', '.join(unknown)}")
    wanted = arguments.attacks.split(",")
    if unknown := [name for name in wanted if name not in ATTACKS]:
        raise UsageError(f"expected attacks out of {', '.join(ATTACKS)}, got {', '.join(unknown)}")
    sweep = Sweep(
        data=arguments.data,
        folder=arguments.output,
        effort=arguments.effort,
        cifar=arguments.cifar,
        threads=("--threads", str(arguments.threads)) if arguments.threads else (),
        files={name: Path(path) for name, path in files.items()},
    )
    steps = [*preparation(sweep, names), *attacks(sweep, names, wanted)]
    if arguments.plan:
        show_plan(steps)
        return
    sys.exit(run(sweep, names, steps))


if __name__ == "__main__":
    try:
        main()
    except CmtError as error:
        sys.exit(f"defences: {error}")
