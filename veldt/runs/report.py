"""The learning curve of a run as a picture. Draws what is there; what is missing is left out, never an error.

Matplotlib is imported only when a curve is drawn (0.7 s).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from veldt.runs import metrics
from veldt.runs.files import replace_file
from veldt.runs.folder import RunFolder
from veldt.runs.metrics import EVAL_RETURN, TRAIN_RETURN, Series

SMOOTHING_SHARE = 0.05
"""The smoothed curve is a running mean over this share of the points."""


def draw_curve(folder: RunFolder) -> bool:
    """Draws returns over steps into the run's `curve.png`; False if the run has not recorded a return.

    The training return is drawn raw (faint) and smoothed, the evaluation return as points. Raises `OSError` if the
    picture cannot be written; a previous picture is then still whole.
    """
    table = metrics.read(folder.metrics_path) if folder.metrics_path.exists() else {}
    train, evaluation = _finite(table.get(TRAIN_RETURN)), _finite(table.get(EVAL_RETURN))
    if train is None and evaluation is None:
        return False
    picture = _draw(train, evaluation, _title(folder.config()))
    replace_file(folder.curve_path, [picture])
    return True


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the `window` values around each one of `values` [n], and of fewer at the ends; float64 [n]."""
    ones = np.ones(min(window, len(values)))
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")


def _draw(train: Series | None, evaluation: Series | None, title: str) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if train:
        window = max(1, round(len(train.values) * SMOOTHING_SHARE))
        axes.plot(train.steps, train.values, color="tab:blue", alpha=0.25, linewidth=0.8)
        mean = smoothed(train.values, window)
        axes.plot(train.steps, mean, color="tab:blue", linewidth=1.8, label=f"training, mean of {window}")
    if evaluation:
        axes.plot(evaluation.steps, evaluation.values, "o-", color="tab:orange", markersize=4, label="evaluation")
    axes.set_xlabel("steps (agent decisions)")
    axes.set_ylabel("return per episode (sum of unclipped rewards)")
    axes.set_title(title)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _finite(series: Series | None) -> Series | None:
    """The points of `series` that can be drawn, in the order of steps; None if there are none."""
    if series is None:
        return None
    order = np.argsort(series.steps, kind="stable")
    order = order[np.isfinite(series.values[order])]
    return Series(*(column[order] for column in series)) if len(order) else None


def _title(config: Mapping[str, Any]) -> str:
    """`apex on ALE/Pong-v5, seed 1`: what of this the config knows."""
    env = config.get("env")
    env_id = env.get("id") if isinstance(env, Mapping) else env
    title = " on ".join(str(part) for part in (config.get("system"), env_id) if part)
    seed = f"seed {config['seed']}" if config.get("seed") is not None else ""
    return ", ".join(part for part in (title, seed) if part) or "learning curve"
