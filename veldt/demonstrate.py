"""The commands `veldt demos record` and `veldt demos show`. An entry point: it brings policies and demonstrations together."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from veldt.data import EnvSpec, Seen
from veldt.demos.datasets import Dataset, damaged, open_dataset
from veldt.demos.demonstrators import BabyAIBot, expert
from veldt.demos.keyboard import Keyboard, playable
from veldt.demos.recording import Demonstrator, record, require_free_name
from veldt.envs.families import Env
from veldt.envs.make import make_env_spec
from veldt.envs.options import EnvOptions
from veldt.errors import ConfigError, did_you_mean, require_at_least
from veldt.policy import Policy, load

USAGE = """veldt demos: demonstrations, as Minari datasets

  veldt demos record ENV --out NAME [flags]   play episodes and keep them   (veldt demos record --help)
  veldt demos show NAME [--json]              describe a dataset"""


@dataclasses.dataclass(frozen=True)
class RecordFlags:
    """Plays episodes of ENV and writes them into a new Minari dataset. One of --policy, --expert, --bot and --keyboard says who plays."""

    env: Annotated[str, tyro.conf.Positional]
    """A Gymnasium id or package.module:callable."""

    out: str
    """The new dataset's name, such as minigrid/doorkey-v0."""

    policy: Path | None = None
    """The run folder of a policy, of any system."""

    expert: str | None = None
    """A script, package.module:callable: of the observation, or of the observation and the environment."""

    bot: bool = False
    """BabyAI's bot, for BabyAI's levels."""

    keyboard: bool = False
    """A person, for environments that render rgb_array."""

    episodes: int = 100
    """How many episodes."""

    seed: int = 0
    """Seeds the environment."""

    epsilon: float | None = None
    """Chance of a random action of a policy; by default what the run evaluated with."""

    quiet: bool = False
    """Say nothing until the end."""

    options: EnvOptions = dataclasses.field(default_factory=EnvOptions)


@dataclasses.dataclass(frozen=True)
class ShowFlags:
    """Describes a Minari dataset: episodes, returns, lengths, spaces."""

    dataset: Annotated[str, tyro.conf.Positional]
    """The name of a dataset; one behind hf://... is downloaded unless it is here."""

    json: bool = False
    """Print JSON."""


SHAPES: dict[str, type[Any]] = {"record": RecordFlags, "show": ShowFlags}


def demos(arguments: Sequence[str]) -> int:
    """Runs `veldt demos ...`; its exit status."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    name, *rest = arguments
    if name not in SHAPES:
        raise ConfigError(f"unknown command 'demos {name}'{did_you_mean(name, SHAPES)}\n\n{USAGE}")
    asked = parse(name, rest)
    return _record(asked) if name == "record" else _show(asked)


def parse(name: str, arguments: Sequence[str]) -> Any:
    """The flags of `veldt demos NAME`."""
    return tyro.cli(SHAPES[name], args=list(arguments), prog=f"veldt demos {name}", config=(tyro.conf.OmitArgPrefixes,))


class PolicyPlays:
    """A trained policy as a demonstrator."""

    def __init__(self, policy: Policy, epsilon: float | None) -> None:
        self.name = f"the {policy.about['system']} policy of step {int(policy.about['step']):,}"
        self._policy, self._epsilon = policy, epsilon

    def __call__(self, seen: Seen, env: Env | None) -> np.ndarray:
        """See `demos.recording.Demonstrator`."""
        return self._policy.act(seen.obs, self._epsilon, first=seen.first, reward=seen.last_reward)


@contextlib.contextmanager
def demonstrator(asked: RecordFlags) -> Iterator[tuple[EnvSpec, Demonstrator]]:
    """Who plays, and where.

    Raises:
        ConfigError: nobody or several play, or who plays cannot play there.
    """
    who = {"policy": asked.policy is not None, "expert": asked.expert is not None, "bot": asked.bot, "keyboard": asked.keyboard}
    if sum(who.values()) != 1:
        given = " ".join(f"--{name}" for name, wanted in who.items() if wanted) or "none of them"
        raise ConfigError(f"one of --policy, --expert, --bot and --keyboard says who plays; got {given}")
    if asked.options.life_loss:
        raise ConfigError("demonstrations are whole games: record them without life_loss")
    if asked.policy is not None:
        yield _policy_plays(asked, asked.policy)
        return
    env = make_env_spec(asked.env, options=asked.options)
    if asked.expert is not None:
        yield env, expert(asked.expert)
    elif asked.bot:
        yield env, BabyAIBot()
    else:
        env = playable(env)
        with contextlib.closing(Keyboard(env.action.sizes[0])) as person:
            yield env, person


def _policy_plays(asked: RecordFlags, folder: Path) -> tuple[EnvSpec, Demonstrator]:
    if asked.options != EnvOptions():
        raise ConfigError("a policy plays in the environment of its run: leave the options of the environment out")
    policy = load(folder)
    if policy.env.id.rpartition(":")[2] != asked.env.rpartition(":")[2]:
        raise ConfigError(f"the policy in {folder} plays {policy.env.id}, not {asked.env}")
    return policy.env, PolicyPlays(policy, asked.epsilon)


def _record(asked: RecordFlags) -> int:
    require_at_least("episodes", asked.episodes, 1)
    require_at_least("seed", asked.seed, 0)
    require_free_name(asked.out)
    done = 0

    def tell(number: int, episode: Any) -> None:
        nonlocal done
        done = number
        if not asked.quiet:
            print(
                f"episode {number:,} of {asked.episodes:,}: return {episode.reward.sum():.4g}, {len(episode):,} steps",
                flush=True,
            )

    with demonstrator(asked) as (env, player):
        try:
            record(env, player, episodes=asked.episodes, seed=asked.seed, name=asked.out, on_episode=tell)
        except KeyboardInterrupt:
            if not done:
                raise
            print(f"stopped; {done:,} whole episodes are kept")
    print(f"{Description.of(open_dataset(asked.out))}\nnext:  veldt train r2d3 {asked.env} --demos {asked.out}")
    return 0


@dataclasses.dataclass(frozen=True)
class Description:
    """What a dataset holds; returns and lengths are those of its episodes."""

    dataset: str
    env: str | None
    played_by: str | None
    episodes: int
    steps: int
    observation_space: str
    action_space: str
    terminated: int
    returns: list[float]
    lengths_steps: list[int]

    @classmethod
    def of(cls, dataset: Dataset) -> Description:
        """Reads all of `dataset`.

        Raises:
            DatasetRefused: an episode cannot be read.
        """
        returns, lengths, terminated = [], [], 0
        for number, episode in enumerate(dataset.episodes()):
            rewards, ends = np.asarray(episode["rewards"]), np.asarray(episode["terminations"])
            if rewards.ndim != 1 or ends.shape != rewards.shape or not len(rewards):
                raise damaged(dataset.name, f"episode {number} has {rewards.shape} rewards and {ends.shape} terminations")
            returns.append(float(rewards.sum(dtype=np.float64)))
            lengths.append(len(rewards))
            terminated += bool(ends[-1])
        played_by = dataset.metadata.get("algorithm_name")
        spaces = str(dataset.observation_space), str(dataset.action_space)
        return cls(dataset.name, dataset.env, played_by, len(returns), sum(lengths), *spaces, terminated, returns, lengths)

    def json(self) -> str:
        """As JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    def __str__(self) -> str:
        returns, lengths = np.array(self.returns), np.array(self.lengths_steps)
        return "\n".join((
            f"{self.dataset}: {self.episodes:,} episodes, {self.steps:,} steps",
            f"environment   {self.env or 'not said'}",
            f"played by     {self.played_by or 'not said'}",
            f"return        {returns.mean():.4g} (min {returns.min():.4g}, max {returns.max():.4g})",
            f"length        {lengths.mean():.4g} steps (min {lengths.min()}, max {lengths.max()})",
            f"ends          {self.terminated:,} terminated, {self.episodes - self.terminated:,} were cut",
            f"observation   {self.observation_space}",
            f"action        {self.action_space}",
        ))  # fmt: skip


def _show(asked: ShowFlags) -> int:
    found = Description.of(open_dataset(asked.dataset))
    print(found.json() if asked.json else found)
    return 0
