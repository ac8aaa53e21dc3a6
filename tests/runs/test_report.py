"""The learning curve draws what there is."""

import numpy as np
import pytest

from veldt.runs.folder import RunFolder
from veldt.runs.metrics import EVAL_RETURN, TRAIN_RETURN, MetricsTable
from veldt.runs.report import draw_curve, smoothed

PNG = b"\x89PNG"


@pytest.fixture
def folder(tmp_path):
    made = RunFolder.create(tmp_path, {"system": "dqn", "env": {"id": "CartPole-v1"}, "seed": 1}, {}, {})
    yield made
    made.close()


@pytest.mark.parametrize("names", [(TRAIN_RETURN, EVAL_RETURN), (TRAIN_RETURN,), (EVAL_RETURN,)])
def test_returns_are_drawn_whichever_there_are(folder, names):
    table = MetricsTable(folder.metrics_path)
    for step in range(0, 1000, 10):
        table.write(step, 0, 0.0, {name: float(step) if step % 70 else float("nan") for name in names})
    table.close()
    assert draw_curve(folder)
    assert folder.curve_path.read_bytes().startswith(PNG)


def test_without_a_return_there_is_no_curve(folder):
    assert not draw_curve(folder)
    table = MetricsTable(folder.metrics_path)
    table.write(1, 0, 0.0, {"loss": 1.0, TRAIN_RETURN: float("nan")})
    table.close()
    assert not draw_curve(folder)
    assert not folder.curve_path.exists()


@pytest.mark.parametrize("window", [1, 2, 5, 50])
def test_smoothing_keeps_a_constant_and_the_number_of_points(window):
    np.testing.assert_allclose(smoothed(np.full(20, 3.0), window), np.full(20, 3.0))
