"""Results of an evaluation that never ran: few cells, round numbers."""

from calibration.metrics import Counts, rate
from calibration.results import (
    Answer,
    Cell,
    DataRecord,
    Environment,
    Example,
    ModelRecord,
    Results,
    Score,
    SelfCheck,
    Source,
)

HASH = "0" * 64


def counts(fooled, n=10):
    return Counts(n=n, correct=n - fooled, rejected=0, fooled=fooled, right_label=n - fooled)


def cell(*, strength=30, adaptive=False, fooled=1, attack="igs", epsilon=0.1):
    answer = Answer(label=1, accepted=True, confidence=0.75)
    return Cell(
        threat="grey-box",
        reading="z-star",
        adaptive=adaptive,
        strength=strength,
        attack=attack,
        parameters={"epsilon": epsilon, "objective": {"name": "CrossEntropy", "of": "logits"}},
        source=Source(file="guard.onnx", digest=HASH, sha256=HASH, tensor="logits", straight_through=False),
        counts=counts(fooled),
        rates=rate(counts(fooled)),
        mean_l2=1.0,
        mean_linf=0.1,
        largest_linf=0.1,
        zero_gradients=0,
        gradients_per_image=20.0,
        queries_per_image=0.0,
        seconds=1.5,
        examples=(
            Example(index=4, label=0, attacked_image="AA==", benign_image="AA==", benign=answer, attacked=answer),
        ),
    )


def results(*cells, complete=True):
    return Results(
        complete=complete,
        command="cmt attack guard.onnx --data digits",
        model=ModelRecord(
            file="guard.onnx",
            digest=HASH,
            sha256=HASH,
            graph=HASH,
            rule="pair",
            classes=("cat", "<b>dog</b>"),
            classmap=(1, 0),
            threshold=0.0,
            calibration=None,
            precision="fp32",
            recipe={"lock": "trained"},
            training={"data": HASH},
            input={"height": 6, "width": 5, "channels": 1},
        ),
        data=DataRecord(name="digits", split="test", digest=HASH, images=99, sample=(1, 5), seed=0, eight_bit=False),
        environment=Environment(
            cmt="0", python="3", numpy="2", onnxruntime="1", onnx="1", system="Linux", device="cpu", threads=2
        ),
        self_check=(SelfCheck(file="guard.onnx", of=("logits",), relative_error=1e-3, images=16, seed=0),),
        benign=Score(counts=counts(0), rates=rate(counts(0))),
        cells=cells,
    )
