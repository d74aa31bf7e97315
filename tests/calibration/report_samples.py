"""Results as `cmt attack` would write them, from a seed, with names chosen by an enemy."""

import base64
import functools
import io
from dataclasses import replace

import numpy as np
from PIL import Image

from calibration.availability import INVISIBLE, Availability
from calibration.datasets import load_dataset
from calibration.metrics import Counts, rate, share
from calibration.pixels import to_images, to_pixels
from calibration.results import Results
from calibration.results.detection_figures import detection_figures
from calibration.results.image_columns import ChangeColumns, VerdictColumns, pack, pack_labels
from calibration.results.records import (
    Answer,
    Cell,
    DataRecord,
    Environment,
    Example,
    LogitsCheck,
    ModelRecord,
    Repetition,
    Score,
    SelfCheck,
    Source,
)
from calibration.results.worst_case import worst_cases
from tests.calibration.small_results import lengths

HOSTILE = "<script>alert(1)</script>"
CLASSES = (
    "zero",
    HOSTILE,
    "two & 2",
    'three" onmouseover="x',
    "four",
    "\N{RIGHT-TO-LEFT OVERRIDE}five",
    "a very long class name indeed",
    "7",
    "{{ 8 }}",
    "nine",
)
CLASSMAP = (4, 8, 6, 0, 9, 2, 7, 3, 5, 1)
OBJECTIVE = {"name": "CrossEntropy", "of": "logits", "targeted": False}
SHA = {"guard": "3f" * 32, "twin": "a1" * 32, "data": "0c" * 32}


def counts(n, fooled, rejected, right_label=None):
    correct = n - fooled - rejected
    return Counts(
        n=n,
        correct=correct,
        rejected=rejected,
        fooled=fooled,
        right_label=correct if right_label is None else right_label,
    )


THRESHOLD = 0.731


def truth_of(n):
    return np.arange(n) % len(CLASSES)


@functools.cache
def columns(tally):
    """Verdicts that come to these counts; who is fooled first is fooled by everything stronger."""
    rng = np.random.default_rng(0)
    order, truth = rng.permutation(tally.n), truth_of(tally.n)
    fooled, rejected = np.split(order, [tally.fooled, tally.fooled + tally.rejected])[:2]
    wrong = np.concatenate([fooled, rejected[tally.right_label - tally.correct :]])
    labels, accepted, passes = truth.copy(), np.ones(tally.n, np.bool_), np.ones(tally.n, np.bool_)
    labels[wrong] = (truth[wrong] + 3) % len(CLASSES)
    accepted[rejected], passes[rejected[::2]] = False, False
    confidence = np.where(
        accepted, THRESHOLD + 0.001 + (0.999 - THRESHOLD) * rng.random(tally.n), 0.7 * rng.random(tally.n)
    )
    return VerdictColumns(
        labels=pack_labels(labels),
        accepted=pack(accepted, "u1"),
        passes=pack(passes, "u1"),
        confidence=pack(confidence, "<f4"),
    )


def changes(n, size):
    """Changes around a size, none above it."""
    spread = np.clip(size * np.random.default_rng(1).normal(0.95, 0.1, n), 0, size)
    return ChangeColumns(l2=pack(25 * spread, "<f4"), linf=pack(spread, "<f4"))


def score(*args):
    tally = counts(*args)
    return {"counts": tally, "rates": rate(tally), "verdicts": columns(tally)}


def figures(cell, benign, threshold):
    """The figures of detection that belong to a cell beside benign verdicts."""
    truth = truth_of(cell.counts.n)
    return detection_figures(benign.scores(truth), cell.verdicts.scores(truth), threshold=threshold)


@functools.cache
def examples(epsilon, seed=0, number=12):
    """Digits under seeded noise of `epsilon`, every outcome among them."""
    rng = np.random.default_rng(seed)
    split = load_dataset("digits").test
    rows = rng.permutation(len(split))[:number]
    pixels = to_pixels(split.images[rows])
    noise = np.sign(rng.standard_normal(pixels.shape)).astype(np.float32)
    attacked = to_images(np.clip(pixels + np.float32(epsilon) * noise, 0, 1))
    shown = []
    for place, row in enumerate(rows):
        label = int(split.labels[row])
        answers = ((label + 3) % 10, True), ((label + 5) % 10, False), (label, True), (-1, False)
        answer, accepted = answers[place % 4]
        shown.append(
            Example(
                index=int(row),
                label=label,
                attacked_image=png(attacked[place, :, :, 0]),
                benign_image=png(split.images[row, :, :, 0]),
                benign=Answer(label=label, accepted=True, confidence=0.991),
                attacked=Answer(label=answer, accepted=accepted, confidence=0.0 if answer < 0 else float(rng.random())),
            )
        )
    return tuple(shown)


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def cell(attack="igs", epsilon=0.3, fooled=0, rejected=960, *, n=1000, threat="grey-box", reading="z-star", **others):
    parameters = (
        {"epsilon": epsilon, "objective": OBJECTIVE} if epsilon is not None else {"confidence": 40.0, "steps": 1000}
    )
    if attack == "igs":
        parameters |= {"steps": 20, "step_size": 0.0375, "random_start": False, "seed": 0}
    values = {
        "threat": threat,
        "reading": reading,
        "adaptive": False,
        "strength": 30,
        "attack": attack,
        "parameters": parameters,
        "source": Source(
            file="guard.onnx", digest="5e" * 32, sha256=SHA["guard"], tensor="logits", straight_through=False
        ),
        **score(n, fooled, rejected),
        "changes": changes(n, epsilon or 0.41),
        "detection": None,
        **lengths(changes(n, epsilon or 0.41)),
        "zero_gradients": 0,
        "gradients_per_image": 20.0,
        "queries_per_image": 0.0,
        "seconds": 12.3,
        "examples": (),
    }
    return Cell(**{**values, **others})


def availability(n, accepted=0.997, **worse):
    """Shares of images accepted after each change; all the same but those named by their first word."""
    found = []
    for name in (*INVISIBLE, "JPEG, quality 75"):
        kept = round(n * worse.get(name.split()[0].rstrip(","), accepted))
        found.append(
            Availability(
                change=name, invisible=name in INVISIBLE, accepted=share(kept, n), right_label=share(n - n // 100, n)
            )
        )
    return tuple(found)


def results(*cells, n=1000, benign=(6, 3), **changes):
    """Everything but the cells; `benign` is fooled and rejected."""
    untouched = Score(**score(n, *benign, n - benign[0] - min(1, benign[1])))
    sheet = [replace(one, detection=figures(one, untouched.verdicts, THRESHOLD)) for one in cells if one.counts.n == n]
    confusion = np.random.default_rng(1).dirichlet(np.full(10, 0.6), 10)
    values = {
        "complete": True,
        "command": f"cmt attack guard.onnx --data '/data/{HOSTILE}' -a fgs,igs --epsilon 0.3 -n {n} -o results.json",
        "model": ModelRecord(
            file="out/<b>guard</b> it's.onnx",
            digest="5e" * 32,
            sha256=SHA["guard"],
            graph="77" * 32,
            rule="pair",
            classes=CLASSES,
            classmap=CLASSMAP,
            threshold=THRESHOLD,
            calibration={
                "data": SHA["data"],
                "images": 1000,
                "acceptance": 0.99,
                "per_class": False,
                "reached": 0.991,
                "interval": [0.98, 0.997],
                "precision": "fp32",
                "graph": "77" * 32,
            },
            precision="fp32",
            recipe={"name": "cmt", "alpha": 0.4, "beta": 0.4, "gamma": 0.2, "lock": "trained", "note": HOSTILE},
            training={
                "data": SHA["data"],
                "classmap": {
                    "counts": False,
                    "epsilon_max": 0.3,
                    "images": 5000,
                    "confusion": confusion.round(6).tolist(),
                },
            },
            input={"height": 8, "width": 8, "channels": 1, "resize": "bilinear", "max_pixels": 16777216},
        ),
        "data": DataRecord(
            name=f"digits {HOSTILE}",
            split="test",
            digest=SHA["data"],
            images=10000,
            sample=tuple(range(0, 10 * n, 10)),
            seed=0,
            eight_bit=False,
            labels=pack_labels(truth_of(n)),
        ),
        "environment": Environment(
            cmt="0.1.0",
            python="3.13.1",
            numpy="2.4.6",
            onnxruntime="1.32.0",
            onnx="1.23.2",
            system="Linux-6.1-x86_64",
            device="cpu",
            threads=2,
        ),
        "self_check": (
            SelfCheck(file="guard.onnx", of=("logits",), relative_error=0.0031, images=8, seed=0),
            SelfCheck(file="oracle.onnx", of=("logits",), relative_error=0.0009, images=8, seed=0),
        ),
        "logits_checks": (
            LogitsCheck(file="guard.onnx", tensor="logits", operator="Mul", probabilities=False),
            LogitsCheck(file="guard.onnx", tensor="robust_logits", operator="Gemm", probabilities=False),
        ),
        "repetition": Repetition(attack="IGS", images=8, different=0),
        "benign": untouched,
        "availability": availability(n),
        "worst_cases": worst_cases(untouched.verdicts, truth_of(n), sheet),
        "cells": tuple(sheet),
        "probes": (),
    }
    return Results(**{**values, **changes})


@functools.cache
def realistic():
    """Attackers who ignore the rule fail, one who knows it does not; several budgets, pictures, warnings."""
    adaptive = {"threat": "nearly-white-box", "reading": "pair", "adaptive": True, "strength": 40}
    black = {"threat": "black-box", "reading": "substitute", "strength": 10}
    twin = {"reading": "oracle", "strength": 20}
    return results(
        cell("pgd", 0.3, 780, 215, examples=examples(0.3), **adaptive),
        cell("pgd", 0.2, 420, 540, **adaptive),
        cell("pgd", 0.1, 121, 700, **adaptive),
        cell("igs", 0.3, 21, 960, examples=examples(0.3, 1, 4)),
        cell("igs", 0.2, 12, 933),
        cell("igs", 0.1, 4, 700),
        cell("fgs", 0.3, 9, 981, zero_gradients=31),
        cell("fgs", 0.2, 5, 902),
        cell("fgs", 0.1, 2, 455),
        cell("cw", None, 0, 1000),
        cell("igs", 0.3, 8, 989, **twin),
        cell("fgs", 8 / 255, 1, 40, **twin),
        cell("fgs", 0.3, 6, 991, **black),
        complete=False,
        availability=availability(1000, one=0.003, normal=0.9),
    )


def with_model(results, **model):
    """The same results of a file with other metadata."""
    return replace(results, model=replace(results.model, **model))
