"""Writes what documentation can take from the code: `python docs/generate.py`. A test checks that the pages are fresh.

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`, a file of docs/snippets between
`<!-- begin snippets/FILE -->` and `<!-- end snippets/FILE -->`. The text around them is written by hand.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from veldt.envs.options import EnvOptions
from veldt.runs.options import RunOptions
from veldt.settings import descriptions
from veldt.systems import SYSTEMS

DOCS = Path(__file__).parent
PAGES = (DOCS.parent / "README.md", *sorted(DOCS.glob("*.md")))

DQN_DEPARTURES = (
    # setting, the paper's number, why the default is another
    (
        "target_period_updates",
        "10,000 agent steps",
        "the same moment at 4 steps an update; whoever learns counts updates, and knows no steps",
    ),
    (
        "life_loss",
        "a lost life ends the discounting",
        "an option that only Atari has cannot be a default for every environment; the preset `atari` switches it on",
    ),
    ("eval_epsilon", "0.05", "greedy play suits most environments; the preset `atari` has the paper's 0.05"),
    (
        "eval_every_steps",
        "250,000 agent steps",
        "a twentieth of the run, whatever its length; the preset `atari` has the paper's number",
    ),
    (
        "eval_episodes",
        "125,000 agent steps of play",
        "whole episodes: a budget of steps counts short episodes more often",
    ),
    (
        "episode_cap_frames",
        "18,000 frames when evaluating",
        "later papers cap at 30 minutes of play instead of 5, in training and in evaluation",
    ),
)

GORILA_DEPARTURES = (
    ("bundles", "100", "what a desktop has cores for"),
    ("shards", "31", "what a desktop has cores for"),
    ("learning_rate", "not published", "the optimiser's usual one"),
    (
        "max_staleness_updates",
        "a threshold that is not published",
        "above the number of gradients that can be under way here, so that only a learner that was stopped exceeds it",
    ),
    ("outlier_deviations", "several", "several"),
    ("outlier_warm_up_losses", "not said", "a mean and a deviation need some losses"),
    (
        "pull_period_steps",
        "actors copy the weights when an episode starts (from memory, not verified)",
        "the weights are there, at no cost, in the bundle that the actor shares with a learner",
    ),
    ("epsilon_steps", "1,000,000 global updates or steps (not verified which)", "steps, as in DQN"),
    *((name, paper, why) for name, paper, why in DQN_DEPARTURES if name not in ("target_period_updates",)),
)

APEX_DEPARTURES = (
    ("actors", "360, of one environment each", "what a desktop has cores for; the ladder spans the same range for any number"),
    (
        "samples_per_insert",
        "not limited; at its speeds, 9,700 samples for 12,500 steps a second, 0.78",
        "a learning curve that does not depend on how fast the machine is; `none` runs free, as the paper did",
    ),
    ("steps", "5,700,000,000 (22.8 billion frames)", "a run that ends; `--steps` goes on"),
    (
        "episode_cap_frames",
        "50,000",
        "one cap for all systems; the preset `atari` has the paper's number",
    ),
)

APEX_DPG_DEPARTURES = (
    ("actors", "64, of one environment each", "what a desktop has cores for"),
    (
        "samples_per_insert",
        "not limited; 22,000 samples a second, its actors' speed is not known to us",
        "a learning curve that does not depend on how fast the machine is; the number is the DQN variant's",
    ),
)

IMPALA_DEPARTURES = (
    (
        "encoder",
        "the deep residual network",
        "`auto` reads every environment: nature for images, dense layers for vectors; the preset `atari` has the paper's, `impala`",
    ),
    ("actors", "150 to 210, of one environment each", "what a desktop has cores for"),
    (
        "queue_unrolls",
        "1 unroll of all actors in the released code",
        "actors and learner work at the same time only if unrolls wait; one more batch of lag at most",
    ),
    ("life_loss", "a lost life ends the discounting", "an option that only Atari has; the preset `atari` switches it on"),
)

A3C_DEPARTURES = (
    (
        "encoder",
        "two convolutions (16 of 8x8, 32 of 4x4)",
        "`auto` reads every environment: nature for images, dense layers for vectors; the preset `atari` has the paper's, `nips`",
    ),
    ("life_loss", "a lost life ends the discounting", "an option that only Atari has; the preset `atari` switches it on"),
)

R2D2_DEPARTURES = (
    ("actors", "256, of one environment each", "what a desktop has cores for; the ladder spans the same range for any number"),
    (
        "samples_per_insert",
        "not limited; at its speeds, 320 sequences for 16,640 steps a second, of which 40 make a new sequence: 0.77",
        "a learning curve that does not depend on how fast the machine is; `none` runs free, as the paper did",
    ),
    ("steps", "9,400,000,000 (37.5 billion frames)", "a run that ends; `--steps` goes on"),
    (
        "full_action_set",
        "true, on Atari",
        "an option that only Atari has cannot be a default for every environment; the preset `atari` switches it on",
    ),
)

R2D3_DEPARTURES = (
    ("actors", "256, of one environment each", "what a desktop has cores for; the ladder spans the same range for any number"),
    (
        "demo_ratio",
        "four values from 1/256 to 1/16 (the ends from memory, not verified); 1/256 best on four of eight tasks",
        "the one that did best there",
    ),
    (
        "sequence_steps",
        "80 with an overlap of 40, the first 40 of which only warm up",
        "the same sequences: 40 steps to warm up before 40 that are learned from, which no other sequence has",
    ),
    (
        "samples_per_insert",
        "not said",
        "R2D2's: a learning curve that does not depend on how fast the machine is; demonstrations count as what actors wrote",
    ),
)

DEPARTURES = {
    "dqn": DQN_DEPARTURES,
    "gorila": GORILA_DEPARTURES,
    "a3c": A3C_DEPARTURES,
    "apex": APEX_DEPARTURES,
    "apex-dpg": APEX_DPG_DEPARTURES,
    "impala": IMPALA_DEPARTURES,
    "r2d2": R2D2_DEPARTURES,
    "r2d3": R2D3_DEPARTURES,
}


def defaults(system: str) -> dict[str, Any]:
    """The default of every setting of a system."""
    return {
        field.name: field.default
        for cls in (SYSTEMS[system].config, RunOptions, EnvOptions)
        for field in dataclasses.fields(cls)
    }


def shown(value: Any) -> str:
    """A value as a reader would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, tuple):
        return " ".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def settings(cls: type[Any]) -> str:
    """Every field of a dataclass of settings with its default and what it is."""
    texts = descriptions(cls)
    rows = [(f"`{field.name}`", shown(field.default), texts[field.name]) for field in dataclasses.fields(cls)]
    return table(("setting", "default", "what it is"), rows)


def snippet(path: Path) -> str:
    """A file as a fenced block."""
    return f"```python\n{path.read_text()}```"


def departures(system: str) -> str:
    """Where a default is not the paper's number."""
    numbers = {name: shown(value) for name, value in defaults(system).items()}
    numbers["eval_every_steps"] = shown(RunOptions().evaluation_period_steps)
    rows = [(f"`{name}`", paper, numbers[name], why) for name, paper, why in DEPARTURES[system]]
    return table(("setting", "paper", "default", "why"), rows)


def presets(system: str) -> str:
    """Every setting that a preset changes, beside the default."""
    named = {name: preset.settings for name, preset in SYSTEMS[system].presets.items() if preset.settings}
    changed = [name for name in defaults(system) if any(name in settings for settings in named.values())]
    rows = [
        (f"`{name}`", shown(defaults(system)[name]), *(shown(given[name]) if name in given else "" for given in named.values()))
        for name in changed
    ]
    return table(("setting", "default", *(f"`{name}`" for name in named)), rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "options": partial(settings, EnvOptions),
    **{f"{name}/settings": partial(settings, system.config) for name, system in SYSTEMS.items()},
    **{f"{name}/departures": partial(departures, name) for name in SYSTEMS},
    **{f"{name}/presets": partial(presets, name) for name in SYSTEMS},
    **{f"snippets/{path.name}": partial(snippet, path) for path in sorted(DOCS.glob("snippets/*.py"))},
}


def fresh(text: str) -> str:
    """`text` with every block made anew. Raises `KeyError` for a block that nothing makes."""

    def made(found: re.Match[str]) -> str:
        name = found[1]
        return f"<!-- begin {name} -->\n{BLOCKS[name]()}\n<!-- end {name} -->"

    return re.sub(r"<!-- begin (\S+) -->\n.*?<!-- end \1 -->", made, text, flags=re.DOTALL)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(fresh(page.read_text()))
