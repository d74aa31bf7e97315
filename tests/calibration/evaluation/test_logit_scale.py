"""A network whose logits are multiplied decides as before, so an attack on it has to succeed as before."""

import numpy as np
import pytest

from calibration.attacks.apgd import Apgd
from calibration.attacks.carlini_wagner import CarliniWagner
from calibration.attacks.pgd import Pgd
from calibration.evaluation import EvaluationConfig, evaluate
from tests.calibration.guards import dataset, guard_file

ATTACKS = {
    "pgd": Pgd(epsilon=0.12, steps=10),
    "pgd l2": Pgd(epsilon=0.67, norm="l2", steps=10),
    "apgd": Apgd(epsilon=0.12, steps=10, restarts=1),
    "every target": Apgd(epsilon=0.12, steps=10, restarts=1, all_targets=True),
    "cw": CarliniWagner(),
}
SCALES = (1e-6, 1e-3, 0.1, 1.0, 1e4)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_attacks_do_not_depend_on_the_scale_of_the_logits(attack, tmp_path):
    fooled, lengths = [], []
    for scale in SCALES:
        file = tmp_path / "scaled.onnx"
        file.write_bytes(guard_file(pair=False, sharpness=5.0 * scale))
        config = EvaluationConfig(attacks=(attack,), threats=("nearly-white-box",), n=60, device="cpu", threads=1)
        (cell,) = evaluate(config, file, dataset()).cells
        fooled.append(cell.counts.fooled)
        lengths.append(cell.mean_l2)
    print(fooled, lengths)
    assert fooled[-2] > 0
    assert max(fooled) - min(fooled) <= 1
    if attack.budget is None:
        np.testing.assert_allclose(lengths, lengths[-2], rtol=0.05)
