"""Results of an evaluation that never ran: few cells, round numbers, verdicts on ten images."""

import numpy as np

from calibration.metrics import Counts, rate
from calibration.results import Results
from calibration.results.detection_figures import detection_figures
from calibration.results.image_columns import ChangeColumns, VerdictColumns, pack, pack_labels
from calibration.results.records import (
    Answer,
    Cell,
    DataRecord,
    Environment,
    Example,
    ModelRecord,
    Score,
    SelfCheck,
    Source,
)
from calibration.results.worst_case import worst_cases

HASH = "0" * 64
N = 10
TRUTH = np.arange(N) % 2
SAMPLE = tuple(range(1, 2 * N, 2))


def counts(fooled, n=N):
    return Counts(n=n, correct=n - fooled, rejected=0, fooled=fooled, right_label=n - fooled)


def columns(fooled=(), rejected=(), *, confidence=0.75, rejected_confidence=0.5, truth=TRUTH):
    """Verdicts: some images fooled, some rejected by the hard rule, all others right."""
    fooled, rejected = (np.isin(np.arange(len(truth)), list(rows)) for rows in (fooled, rejected))
    return VerdictColumns(
        labels=pack_labels(np.where(fooled, 1 - truth, truth)),
        accepted=pack(~rejected, "u1"),
        passes=pack(~rejected, "u1"),
        confidence=pack(np.where(rejected, rejected_confidence, confidence), "<f4"),
    )


def changes(size, n=N):
    """Every image changed by so much in four pixels."""
    return ChangeColumns(
        l2=pack(np.broadcast_to(2 * np.asarray(size), n), "<f4"), linf=pack(np.broadcast_to(size, n), "<f4")
    )


def lengths(moved):
    """The three figures that follow from changes."""
    l2, linf = moved.norm("l2"), moved.norm("linf")
    return {"mean_l2": float(l2.mean()), "mean_linf": float(linf.mean()), "largest_linf": float(linf.max())}


def cell(*, strength=30, adaptive=False, fooled=1, attack="igs", epsilon=0.1, verdicts=None, size=None, **others):
    answer = Answer(label=1, accepted=True, confidence=0.75)
    said = columns(range(fooled)) if verdicts is None else verdicts
    tally = counts(fooled) if verdicts is None else tally_of(verdicts)
    moved = changes(epsilon or 0.1 if size is None else size)
    parameters = {} if epsilon is None else {"epsilon": epsilon}
    values = {
        "threat": "grey-box",
        "reading": "z-star",
        "adaptive": adaptive,
        "strength": strength,
        "attack": attack,
        "parameters": {**parameters, "objective": {"name": "CrossEntropy", "of": "logits"}},
        "source": Source(file="guard.onnx", digest=HASH, sha256=HASH, tensor="logits", straight_through=False),
        "counts": tally,
        "rates": rate(tally),
        "verdicts": said,
        "changes": moved,
        "detection": detection_figures(columns().scores(TRUTH), said.scores(TRUTH), threshold=0.0),
        **lengths(moved),
        "zero_gradients": 0,
        "gradients_per_image": 20.0,
        "queries_per_image": 0.0,
        "seconds": 1.5,
        "examples": (
            Example(index=4, label=0, attacked_image="AA==", benign_image="AA==", benign=answer, attacked=answer),
        ),
    }
    return Cell(**{**values, **others})


def tally_of(verdicts, truth=TRUTH):
    outcomes = verdicts.outcomes(truth)
    return Counts(n=len(truth), **{name: int(mask.sum()) for name, mask in outcomes._asdict().items()})


def results(*cells, complete=True, **others):
    values = {
        "complete": complete,
        "command": "cmt attack guard.onnx --data digits",
        "model": ModelRecord(
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
            input={"height": 6, "width": 5, "channels": 1, "resize": "none", "max_pixels": 9999},
        ),
        "data": DataRecord(
            name="digits",
            split="test",
            digest=HASH,
            images=99,
            sample=SAMPLE,
            seed=0,
            eight_bit=False,
            labels=pack_labels(TRUTH),
        ),
        "environment": Environment(
            cmt="0", python="3", numpy="2", onnxruntime="1", onnx="1", system="Linux", device="cpu", threads=2
        ),
        "self_check": (SelfCheck(file="guard.onnx", of=("logits",), relative_error=1e-3, images=16, seed=0),),
        "logits_checks": (),
        "repetition": None,
        "benign": Score(counts=counts(0), rates=rate(counts(0)), verdicts=columns()),
        "availability": (),
        "worst_cases": worst_cases(columns(), TRUTH, cells),
        "cells": cells,
        "probes": (),
    }
    return Results(**{**values, **others})
