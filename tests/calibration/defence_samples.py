"""Results of several defences that never ran, on ten images or a thousand, to compare."""

from dataclasses import replace

from tests.calibration import report_samples, small_results
from tests.calibration.small_results import columns

ADAPTIVE = {"threat": "nearly-white-box", "reading": "pair", "adaptive": True, "strength": 40}
CALIBRATED = {"acceptance": 0.99, "images": 900}


def attack(fooled=(), rejected=(), *, epsilon=0.3, norm="linf", restarts=1, **others):
    """One attack that knows the rule, on ten images."""
    values = {**ADAPTIVE, "attack": "apgd", **others}
    made = small_results.cell(verdicts=columns(fooled, rejected), epsilon=epsilon, **values)
    return replace(made, parameters={**made.parameters, "norm": norm, "restarts": restarts})


def defence(name, *cells, digest=None, calibration=CALIBRATED, file=None, recipe=None, **others):
    """Results of one file of a recipe."""
    found = small_results.results(*cells, **others)
    model = replace(
        found.model,
        file=file or f"out/{name}.onnx",
        digest=((digest or name).encode().hex() * 64)[:64],
        recipe={"name": name, **(recipe or {})},
        calibration=calibration,
    )
    return replace(found, model=model, command=f"cmt attack {name}.onnx")


def many(name, scale, n=1000, **recipe):
    """A defence on many images, with four budgets and an L2 one."""
    made = []
    for epsilon, share in ((0.1, 0.2), (0.2, 0.45), (0.3, 0.8), (0.4, 0.97)):
        fooled = int(n * min(0.97, share * scale))
        one = report_samples.cell("apgd", epsilon, fooled, int(n * 0.02), n=n, **ADAPTIVE)
        made.append(replace(one, parameters={**one.parameters, "norm": "linf", "restarts": 5 if n == 1000 else 1}))
    far = report_samples.cell("apgd", 2.0, int(n * 0.5 * scale), 5, n=n, **ADAPTIVE)
    made.append(replace(far, parameters={**far.parameters, "norm": "l2"}))
    if n == 1000:
        made.append(report_samples.cell("square", 0.3, int(n * 0.1 * scale), 5, n=n, threat="decision-only"))
    found = report_samples.results(*made, n=n, availability=report_samples.availability(n))
    model = {"digest": (name.encode().hex() * 64)[:64], "file": f"out/{name}.onnx", "recipe": {"name": name, **recipe}}
    return report_samples.with_model(found, **model)
