"""Scoring on a Ray cluster: Ray Data over the blocks, a guard in every actor, the rows of the local engine.

An actor decodes with our own code, so that its rows are those of this machine to the bit, and sends rows back, never
pixels. The process that asks is the only one that writes: what a lost machine had done and not handed over is done
again elsewhere, and no row comes twice.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from typing import Any

from runtime.blocks import Block
from runtime.errors import CmtError, UsageError, one_line
from runtime.guard import Guard
from runtime.tasks import Scored, Task, score_block
from runtime.versions import decisive_versions

_TOGETHER = 8
"""Blocks in one task of Ray: enough that its overhead does not show, few enough that little is done twice."""
_PATIENCE = 5.0
_CPUS = 0.5
"""What an actor asks for: the actors of a machine that is lost find room on half of the others."""


class GuardActor:
    """What runs on the cluster: a guard of its own, loaded once."""

    def __init__(self, model: Any, sha256: str, device: str, task: Task, versions: dict[str, str]) -> None:
        """Load the guard from bytes in the object store; it runs one thread an operator.

        What is wrong with this machine is kept as the answer to every block: a failed actor would be started again.
        """
        self._task = task
        self._guard: Guard | CmtError
        try:
            if (here := decisive_versions()) != versions:
                raise CmtError(f"--engine ray: expected {versions} on every machine, got {here}; install the same")
            self._guard = Guard(import_module("ray").get(model), sha256=sha256, device=device, threads=1)
        except CmtError as error:
            self._guard = error

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        """Score a block; an error comes back as the answer, so that it is not tried again."""
        block: Block = pickle.loads(row["block"])
        try:
            if isinstance(self._guard, CmtError):
                raise self._guard
            return {"scored": pickle.dumps(score_block(self._guard, block, self._task))}
        except CmtError as error:
            return {"scored": pickle.dumps(error)}


def in_cluster(
    guard: Guard, task: Task, blocks: Iterator[Block], *, model: bytes, address: str | None, actors: int | None
) -> Iterator[Scored]:
    """Score blocks on a Ray cluster, and yield them in the order they came.

    The whole listing goes to Ray's object store first, which spills to disk; a machine that is lost takes none of it.

    Args:
        guard: The guard as it is here; the actors load the same file and insist on its SHA-256.
        task: What to do.
        blocks: What to score; paths must lead to the same files on every machine.
        model: The bytes of the guard file.
        address: A running cluster, ``auto`` or ``host:port``; None starts one on this machine.
        actors: How many guards; None takes every processor of the cluster.

    Raises:
        UsageError: ray is missing.
        CmtError: No cluster is at the address, or what an actor raised.
    """
    ray, data = _ray()
    _connect(ray, address, actors)
    try:
        count = actors or max(1, int(ray.cluster_resources().get("CPU", 1)))
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_options.preserve_order = True
        tables = [ray.put(table) for table in _tables(blocks)]
        if not tables:
            return
        device = guard.device.partition(":")[0]
        resources = {"num_cpus": _CPUS} if device == "cpu" else {"num_cpus": _CPUS, "num_gpus": 1}
        scored = data.from_arrow_refs(tables).map(
            GuardActor,
            fn_constructor_args=(ray.put(model), guard.sha256, device, task, decisive_versions()),
            compute=data.ActorPoolStrategy(min_size=1, max_size=count, initial_size=count),
            **resources,
        )
        for row in scored.iter_rows():
            answer = pickle.loads(row["scored"])
            if isinstance(answer, CmtError):
                raise answer
            yield answer
    except ray.exceptions.RayError as error:
        raise CmtError(f"ray: expected the cluster to score, got: {one_line(error)}") from None
    finally:
        ray.shutdown()


def _ray() -> tuple[Any, Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing here opens the network unasked
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what is lost and done again is no error of the user's
    try:
        return import_module("ray"), import_module("ray.data")
    except ImportError:
        raise UsageError("--engine ray: expected ray[data], got none; install cmt[ray] or use --engine local") from None


def _connect(ray: Any, address: str | None, actors: int | None) -> None:
    options: dict[str, Any] = {} if address is not None else {"num_cpus": actors, "include_dashboard": False}
    host, _, port = (address or "").rpartition(":")
    if host and "/" not in host and port.isdecimal():
        error = _knock(host, port)
        if error is not None:  # ray itself would try for minutes
            got = f"got: {one_line(error)}; check that it runs"
            raise CmtError(f"--address {address!a}: expected a Ray cluster, {got}")
    try:
        ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **options)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise CmtError(f"--address {address!a}: expected a Ray cluster, got: {one_line(error)}") from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _knock(host: str, port: str) -> Exception | None:
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError, ValueError) as error:
        return error
    return None


def _tables(blocks: Iterator[Block]) -> Iterator[Any]:
    pyarrow = import_module("pyarrow")
    while some := list(islice(blocks, _TOGETHER)):
        yield pyarrow.table({"block": pyarrow.array([pickle.dumps(block) for block in some], pyarrow.large_binary())})
