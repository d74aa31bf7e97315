import pytest
import torch
from scipy.special import log_softmax, softmax

from cmt_export.checkpoint import Schedule
from cmt_export.exporting import export
from cmt_export.recipes import Distillation, Undefended
from cmt_export.run import start
from cmt_export.training import train
from runtime.errors import UsageError
from tests.cmt_export.conftest import EXECUTION
from tests.cmt_export.recipes.batches import make_batch, make_network
from tests.cmt_export.recipes.quick import TRUNK, begin_quickly


def test_the_student_learns_the_soft_answers_of_its_teacher():
    recipe = Distillation(temperature=7.0)
    network, batch = make_network(recipe), make_batch()
    with torch.no_grad():
        taught, learnt = (each(batch.pixels).logits.numpy() / 7 for each in (network.teacher, network.student))
    expected = -(softmax(taught, axis=1) * log_softmax(learnt, axis=1)).sum(axis=1).mean()
    assert recipe.loss(network, batch).item() == pytest.approx(expected, rel=1e-5)


def test_the_teacher_is_not_trained_and_stays_in_evaluation_mode():
    network = make_network(Distillation()).train()
    assert network.student.training
    assert not network.teacher.training
    assert not any(weight.requires_grad for weight in network.teacher.parameters())


def test_the_student_alone_is_exported(bars, tmp_path):
    checkpoint = train(begin_quickly(bars, Distillation(temperature=5.0)), tmp_path / "model.pt")
    exported = export(checkpoint, tmp_path / "guard.onnx", trunk=TRUNK)
    teacher, student = (checkpoint.weights[f"{whose}.head.bias"] for whose in ("teacher", "student"))
    assert not torch.equal(teacher, student)
    assert student.numpy().tobytes() in exported.model
    assert teacher.numpy().tobytes() not in exported.model


@pytest.mark.parametrize("stage", ["none", "another temperature"])
def test_a_wrong_teacher_is_refused(bars, tmp_path, stage):
    schedule, teacher = Schedule(epochs=1, batch_size=384), None
    if stage != "none":
        run = start(bars, recipe=Undefended(), schedule=schedule, trunk=TRUNK, execution=EXECUTION)
        teacher = train(run, tmp_path / "teacher.pt")
    with pytest.raises(UsageError, match=r"teacher: expected a finished checkpoint of Undefended.*temperature=20"):
        start(
            bars,
            recipe=Distillation(),
            schedule=schedule,
            trunk=TRUNK,
            first_stage=teacher,
            execution=EXECUTION,
        )


def test_wrong_options():
    with pytest.raises(UsageError, match=r"recipe distillation: expected temperature in \[1, 1000\], got 0.0"):
        Distillation(temperature=0.0)
