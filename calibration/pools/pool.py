"""A pool as an attacker meets it: all members behind one `pixels`, or one verdict of a member drawn for each question.

That the members are one graph is what lets every attack that follows gradients work on a pool as it is: it sees more
logits, and an objective (`objectives.pool`) that is the mean of the members' own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import ModelProto, helper
from onnx.compose import add_prefix
from onnx.utils import Extractor

from calibration.attacks.attack import FloatArray
from calibration.attacks.deployed import Deployed, Gallery
from calibration.evaluation.victims import Opened
from calibration.graphs.reading import opset_of
from calibration.objectives.pool import member_tensor
from calibration.pixels import to_images
from runtime.errors import UsageError
from runtime.guard import Guard
from runtime.verdicts import Verdicts

_TENSORS = {
    "pair": ("logits", "robust_logits"),
    "confidence": ("logits",),
    "detector": ("logits", "anomalies"),
}
"""What each rule decides by."""

_SHOWN = ("labels", "accepted", "confidence", "logits")


def open_pool(members: Sequence[Opened]) -> Opened:
    """Return a pool as one file to differentiate: what it says of itself is that of the first member.

    Args:
        members: Two or more guards for the same images and classes.

    Raises:
        UsageError: There are fewer than two, one twice, or they differ in classes, images or operators.
    """
    digests = [one.artifact.spec.digest for one in members]
    if len(members) < 2 or len(set(digests)) != len(digests):
        raise UsageError(f"--pool: expected guards that differ, got {', '.join(one.file for one in members)}")
    first = members[0].artifact
    for one in members[1:]:
        for what, expected, got in (
            ("classes", first.spec.classes, one.artifact.spec.classes),
            ("input", first.spec.input, one.artifact.spec.input),
        ):
            if got != expected:
                raise UsageError(
                    f"--pool {one.file}: expected the {what} of {members[0].file}, {expected!a:.80}, got {got!a:.80}"
                )
    digest = hashlib.sha256("".join(digests).encode("ascii")).hexdigest()
    return Opened(
        file=" + ".join(one.file for one in members),
        artifact=first._replace(model=_merged(members), spec=first.spec._replace(digest=digest), sha256=digest),
        sha256=digest,
        locked=False,
    )


class DeployedPool(Deployed):
    """A pool in the field: a member drawn anew answers each question about each image."""

    def __init__(self, members: Sequence[Guard], *, gallery: Gallery | None = None, seed: int = 0) -> None:
        """Put a pool behind it.

        Args:
            members: The guards.
            gallery: Images of the attacker's own, as for `Deployed`.
            seed: What members are drawn with.
        """
        super().__init__(members[0], gallery=gallery)
        self._members = tuple(members)
        self._rng = np.random.default_rng(seed)

    @property
    def classmap(self) -> tuple[int, ...] | None:
        """None: nobody knows whose Classmap will decide."""
        return None

    def verdicts(self, x: FloatArray) -> Verdicts:
        """Return verdicts as `Deployed` does, each of a member drawn for it."""
        images = to_images(x)
        drawn = self._rng.integers(len(self._members), size=len(x))
        self.queries += len(x)
        rows = [np.flatnonzero(drawn == number) for number in range(len(self._members))]
        asked = [(places, member) for places, member in zip(rows, self._members, strict=True) if len(places)]
        answers = [member.classify(images[places]) for places, member in asked]
        back = np.argsort(np.concatenate([places for places, _ in asked]))
        found = {name: np.concatenate([getattr(one, name) for one in answers])[back] for name in _SHOWN}
        return Verdicts(**found, classes=answers[0].classes)


def _merged(members: Sequence[Opened]) -> bytes:
    """Return one model from ``pixels`` to the logits of every member."""
    parts = [_part(number, one) for number, one in enumerate(members)]
    opsets = {opset_of(part) for part in parts}
    if len(opsets) != 1:
        found = ", ".join(map(str, sorted(opsets)))
        raise UsageError(
            f"--pool: expected members of one operator set, got {found}; export them with the same --opset"
        )
    shapes = [part.graph.input[0] for part in parts]
    pixels = helper.make_tensor_value_info(
        "pixels",
        onnx.TensorProto.FLOAT,
        [dim.dim_param or dim.dim_value for dim in shapes[0].type.tensor_type.shape.dim],
    )
    graph = helper.make_graph(
        [
            *(helper.make_node("Identity", ["pixels"], [shape.name]) for shape in shapes),
            *(node for part in parts for node in part.graph.node),
        ],
        "pool",
        [pixels],
        [value for part in parts for value in part.graph.output],
        initializer=[tensor for part in parts for tensor in part.graph.initializer],
        value_info=[value for part in parts for value in part.graph.value_info],
    )
    merged = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opsets.pop())],
        ir_version=max(part.ir_version for part in parts),
    )
    onnx.checker.check_model(merged)
    return bytes(merged.SerializeToString())


def _part(number: int, member: Opened) -> ModelProto:
    """Return one member from its ``pixels`` to what its rule decides by, every name led by the member's number."""
    model = onnx.load_model_from_string(member.artifact.model)
    part = Extractor(model).extract_model(["pixels"], list(_TENSORS[member.artifact.spec.rule]))
    prefixed: ModelProto = add_prefix(part, member_tensor(number, ""))
    return prefixed
