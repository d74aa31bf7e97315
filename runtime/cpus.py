"""How many processors this process may really use: its affinity, cut down by the quota of its control group."""

from __future__ import annotations

import math
import os


def usable_cpus(root: str | os.PathLike[str] = "/") -> int:
    """Return how many threads can run at the same time, at least 1.

    Args:
        root: Folder that holds `proc` and `sys`; another one only in tests.
    """
    quota = cgroup_cpus(root)
    cpus = affinity_cpus()
    return cpus if quota is None else max(1, min(cpus, math.floor(quota)))


def affinity_cpus() -> int:
    """Return how many processors the scheduler may give to this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_cpus(root: str | os.PathLike[str] = "/") -> float | None:
    """Return the smallest CPU quota on the way up from this process's control group, in processors.

    Both versions are read, as a process may be in either; None means that no quota is set.

    Args:
        root: Folder that holds `proc` and `sys`; another one only in tests.
    """
    mount = os.path.join(root, "sys/fs/cgroup")
    quotas = []
    for line in _read(root, "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            quotas += [_quota_v2(folder) for folder in _upwards(mount, path)]
        elif "cpu" in controllers.split(","):
            for top in {os.path.join(mount, controllers), os.path.join(mount, "cpu")}:
                quotas += [_quota_v1(folder) for folder in _upwards(top, path)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _upwards(top: str, path: str) -> list[str]:
    """Return the folders of a control group and of all its parents; inside a container only `top` may exist."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return [os.path.join(top, *parts[:depth]) for depth in range(len(parts), -1, -1)]


def _quota_v2(folder: str) -> float | None:
    quota, period = [*_read(folder, "cpu.max").split(), "max", "0"][:2]
    return _ratio(quota, period)


def _quota_v1(folder: str) -> float | None:
    return _ratio(_read(folder, "cpu.cfs_quota_us").strip(), _read(folder, "cpu.cfs_period_us").strip())


def _ratio(quota: str, period: str) -> float | None:
    """Return quota / period; None for `max`, -1 and whatever else is no positive number."""
    if not (quota.isdecimal() and period.isdecimal() and int(quota) and int(period)):
        return None
    return int(quota) / int(period)


def _read(folder: str | os.PathLike[str], name: str) -> str:
    try:
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
