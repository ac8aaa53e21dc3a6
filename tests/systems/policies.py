"""What every system that learns a policy with a value must learn, whichever it is: `train(out, env, **settings)` runs it."""

from collections.abc import Callable
from pathlib import Path

import veldt
from tests.systems.toys import Aim, Recall, TwoSwitches

Train = Callable[..., veldt.Result]


def sets_two_switches(train: Train, tmp_path: Path) -> None:
    assert train(tmp_path / "run", TwoSwitches, discount=0.5).final_mean == 5.0


def aims(train: Train, tmp_path: Path) -> None:
    result = train(tmp_path / "run", Aim, discount=0.5, reward_clip=None, entropy_factor=0.0, steps=20_000)
    assert result.final_mean is not None
    assert result.final_mean > -0.5  # the middle of the range everywhere: about -12


def remembers_with_an_lstm_alone(train: Train, tmp_path: Path, steps: int) -> None:
    settings = {"steps": steps, "unroll_steps": 10, "eval_episodes": 40, "until_return": 1.0}
    assert train(tmp_path / "lstm", Recall, lstm_units=16, **settings).best_mean == 1.0
    guessing = train(tmp_path / "none", Recall, **{**settings, "steps": 8_000})
    assert guessing.best_mean is not None
    assert guessing.best_mean < 0.7  # of two equally likely answers, minus 1 for the wrong one
