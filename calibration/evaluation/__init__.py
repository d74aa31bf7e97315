"""Attack x threat x data: `planning` says who attacks which file with what, `sweep` does all of it.

`victims` opens files and `target` is the one under attack; `crafting` runs one attack, `cells` judges and records it,
`probes` are the attacks of sanity checks, `logits_check` doubts the logits, `provenance` notes where all came from,
`examples` and `saved_images` keep pictures.
"""

from calibration.evaluation.planning import EvaluationConfig
from calibration.evaluation.sweep import evaluate

__all__ = ["EvaluationConfig", "evaluate"]
