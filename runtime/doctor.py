"""What this machine can and cannot do for the project: versions, processors, devices, missing parts."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from runtime.cpus import affinity_cpus, cgroup_cpus, usable_cpus
from runtime.elf import missing_libraries
from runtime.session import available_providers, cuda_library, try_provider

PACKAGES = ("cmt", "numpy", "onnxruntime", "onnxruntime-gpu", "Pillow", "simplejpeg", "click", "rich", "onnx", "torch")
ATTACK = ("onnx", "scipy", "matplotlib", "jinja2")
TRAIN = (*ATTACK, "torch", "onnxscript", "sklearn")
NEEDS = {
    "score": ("PIL",),
    "score -o x.parquet": ("PIL", "pyarrow"),
    "score --engine ray": ("PIL", "pyarrow", "ray"),
    "attack": ATTACK,
    "calibrate": ATTACK,
    "quantize": ATTACK,
    "report": ATTACK,
    "train": TRAIN,
    "export": TRAIN,
    "verify": TRAIN,
    "demo": TRAIN,
    "reproduce": TRAIN,
}
EXTRAS = {
    "PIL": "cmt",
    "pyarrow": "cmt[parquet]",
    "ray": "cmt[ray]",
    "torch": "cmt[train]",
    "onnxscript": "cmt[train]",
    "sklearn": "cmt[train]",
} | dict.fromkeys(ATTACK, "cmt[attack]")
ONE_NODE = (  # ModelProto: IR version 10, the graph y = Identity(x) over float32 (1,), ai.onnx 18
    b"\x08\x0a"
    b'\x3a\x37\x0a\x10\x0a\x01x\x12\x01y"\x08Identity\x12\x01g'
    b"\x5a\x0f\x0a\x01x\x12\x0a\x0a\x08\x08\x01\x12\x04\x0a\x02\x08\x01"
    b"\x62\x0f\x0a\x01y\x12\x0a\x0a\x08\x08\x01\x12\x04\x0a\x02\x08\x01"
    b"\x42\x04\x0a\x00\x10\x12"
)


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What was found.

    Attributes:
        python: Version of the interpreter.
        system: Operating system and processor architecture.
        versions: Version of every package that matters; None where it is not installed.
        affinity: Processors this process may use.
        quota: CPU quota of its control group in processors; None where there is none.
        threads: What a guard takes by default.
        providers: Execution providers this ONNX Runtime lists: empty where one really runs, else why not.
        missing_libraries: Shared libraries that its CUDA part needs and this machine does not have.
        missing: For every command that cannot run here, the modules it lacks and what to install.
        problems: What should be mended, one line each.
    """

    python: str
    system: str
    versions: dict[str, str | None]
    affinity: int
    quota: float | None
    threads: int
    providers: dict[str, str]
    missing_libraries: list[str]
    missing: dict[str, dict[str, str]]
    problems: list[str]


def examine() -> Examination:
    """Look at this machine; nothing is changed, installed or downloaded."""
    versions = {package: _version(package) for package in PACKAGES}
    providers = {provider: try_provider(ONE_NODE, provider) for provider in available_providers()}
    library = cuda_library()
    missing_cuda = missing_libraries(library) if library.exists() else []
    return Examination(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        versions=versions,
        affinity=affinity_cpus(),
        quota=cgroup_cpus(),
        threads=usable_cpus(),
        providers=providers,
        missing_libraries=missing_cuda,
        missing=missing_modules(),
        problems=find_problems(versions, providers, missing_cuda),
    )


def missing_modules() -> dict[str, dict[str, str]]:
    """Return, for every command that cannot run here, the modules it lacks and what to install for each."""
    lacking = {
        command: {module: EXTRAS[module] for module in modules if find_spec(module) is None}
        for command, modules in NEEDS.items()
    }
    return {command: modules for command, modules in lacking.items() if modules}


def find_problems(
    versions: dict[str, str | None], providers: dict[str, str], missing_libraries: list[str]
) -> list[str]:
    """Return what should be mended, one line each.

    Args:
        versions: As in `Examination`.
        providers: As in `Examination`.
        missing_libraries: As in `Examination`.
    """
    problems = []
    if versions.get("onnxruntime") and versions.get("onnxruntime-gpu"):
        problems.append(
            "onnxruntime and onnxruntime-gpu overwrite each other: uninstall both, then install cmt[gpu] or cmt[cpu]"
        )
    for library in missing_libraries:
        problems.append(f"CUDA needs {library}, which is not on this machine: install it, or use device=cpu")
    for provider, reason in providers.items():
        if reason:
            problems.append(f"{provider} is listed but does not start: {reason}")
    return problems


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
