"""Presets: named settings for kinds of environments that the papers did not have in mind.

`paper` is always there and changes nothing. `fits` is a pattern of environment names for which `auto` takes the preset.
A preset may set anything that a flag can: hyperparameters, run options, environment options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Settings by name, and the environments that they are for."""

    settings: Mapping[str, Any]
    fits: str = ""


PAPER = Preset({})

_SMALL_DQN: dict[str, Any] = {
    "double": True,
    "n_steps": 3,
    "reward_clip": None,
    "optimizer": "adam",
    "optimizer_epsilon": 1e-8,
    "sum_over_batch": False,
    "max_gradient_norm": 10.0,
}

_SMALL_GORILA: dict[str, Any] = {**_SMALL_DQN, "bundles": 2, "max_staleness_updates": 20}

_SMALL_APEX: dict[str, Any] = {
    "actors": 2,
    "environments": 4,
    "unroll_steps": 5,
    "pull_period_steps": 5,
    "replay_steps": 50_000,
    "start_steps": 1_000,
    "samples_per_insert": 32.0,
    "learning_rate": 1e-3,
}

_SMALL_R2D2: dict[str, Any] = {
    **_SMALL_APEX,
    "hidden": (64,),
    "lstm_units": 64,
    "head_units": 64,
    "sequence_steps": 20,
    "overlap_steps": 10,
    "burn_in_steps": 10,
    "unroll_steps": 10,
    "pull_period_steps": 10,
    "samples_per_insert": 8.0,
    "batch_size": 32,
    "optimizer_epsilon": 1e-5,
    "target_period_updates": 100,
    "epsilon_base": 0.1,
}

_SMALL_R2D3: dict[str, Any] = {**_SMALL_R2D2, "sequence_steps": 10, "overlap_steps": 0, "demo_ratio": 1 / 16}

_SMALL_ACTOR_CRITIC: dict[str, Any] = {
    "hidden": (64, 64),
    "separate_networks": True,
    "unroll_steps": 16,
    "discount": 0.98,
    "reward_clip": None,
    "optimizer_epsilon": 1e-5,
}

PRESETS: dict[str, dict[str, Preset]] = {
    "dqn": {
        "paper": PAPER,
        "atari": Preset({"life_loss": True, "eval_epsilon": 0.05, "eval_every_steps": 250_000}, fits="ALE/"),
        "cartpole": Preset(
            {
                **_SMALL_DQN,
                "hidden": (128, 128),
                "replay_steps": 50_000,
                "start_steps": 1_000,
                "batch_size": 64,
                "steps_per_update": 2,
                "learning_rate": 1e-3,
                "learning_rate_updates": 25_000,
                "target_period_updates": 100,
                "epsilon_end": 0.04,
                "epsilon_steps": 8_000,
                "environments": 8,
                "steps": 50_000,
            },
            fits="CartPole",
        ),
        "minatar": Preset(
            {
                **_SMALL_DQN,
                "dueling": True,
                "prioritized": True,
                "importance_anneal_updates": 250_000,
                "hidden": (128,),
                "replay_steps": 100_000,
                "start_steps": 5_000,
                "batch_size": 64,
                "steps_per_update": 4,
                "learning_rate": 4e-4,
                "learning_rate_updates": 250_000,
                "target_period_updates": 500,
                "epsilon_end": 0.01,
                "epsilon_steps": 100_000,
                "environments": 8,
                "steps": 1_000_000,
            },
            fits="MinAtar/",
        ),
    },
    "gorila": {
        "paper": PAPER,
        "atari": Preset({"life_loss": True, "eval_epsilon": 0.05, "eval_every_steps": 250_000}, fits="ALE/"),
        "cartpole": Preset(
            {
                **_SMALL_GORILA,
                "hidden": (128, 128),
                "replay_steps": 50_000,
                "start_steps": 500,
                "batch_size": 64,
                "steps_per_update": 2,
                "learning_rate": 1e-3,
                "learning_rate_updates": 40_000,
                "target_period_updates": 100,
                "epsilon_end": 0.04,
                "epsilon_steps": 8_000,
                "environments": 4,
                "steps": 80_000,
            },
            fits="CartPole",
        ),
        "minatar": Preset(
            {
                **_SMALL_GORILA,
                "n_steps": 5,
                "dueling": True,
                "hidden": (128,),
                "replay_steps": 50_000,
                "start_steps": 2_500,
                "batch_size": 32,
                "steps_per_update": 2,
                "learning_rate": 4e-4,
                "learning_rate_updates": 500_000,
                "target_period_updates": 1_000,
                "epsilon_end": 0.01,
                "epsilon_steps": 100_000,
                "environments": 4,
                "steps": 1_000_000,
            },
            fits="MinAtar/",
        ),
    },
    "a3c": {
        "paper": PAPER,
        "atari": Preset({"encoder": "nips", "life_loss": True, "eval_every_steps": 250_000}, fits="ALE/"),
        "cartpole": Preset(
            {
                **_SMALL_ACTOR_CRITIC,
                "workers": 2,
                "environments": 8,
                "entropy_factor": 0.0,
                "learning_rate": 2e-3,
                "learning_rate_updates": 1_500,
                "max_gradient_norm": 20.0,
                "steps": 200_000,
            },
            fits="CartPole",
        ),
    },
    "apex": {
        "paper": PAPER,
        "atari": Preset({"episode_cap_frames": 50_000, "eval_every_steps": 250_000}, fits="ALE/"),
        "cartpole": Preset(
            {
                **_SMALL_APEX,
                "hidden": (128, 128),
                "dueling": False,
                "discount": 0.997,
                "reward_clip": None,
                "batch_size": 64,
                "optimizer": "adam",
                "optimizer_epsilon": 1e-8,
                "learning_rate_updates": 30_000,
                "max_gradient_norm": 10.0,
                "target_period_updates": 50,
                "epsilon_base": 0.04,
                "steps": 60_000,
            },
            fits="CartPole",
        ),
        "minatar": Preset(
            {
                **_SMALL_APEX,
                "hidden": (128,),
                "reward_clip": None,
                "replay_steps": 100_000,
                "start_steps": 5_000,
                "samples_per_insert": 8.0,
                "batch_size": 64,
                "optimizer": "adam",
                "optimizer_epsilon": 1e-8,
                "learning_rate": 4e-4,
                "learning_rate_updates": 125_000,
                "max_gradient_norm": 10.0,
                "target_period_updates": 500,
                "steps": 1_000_000,
            },
            fits="MinAtar/",
        ),
    },
    "apex-dpg": {
        "paper": PAPER,
        "mujoco": Preset(
            {
                **_SMALL_APEX,
                "replay_steps": 1_000_000,
                "start_steps": 10_000,
                "samples_per_insert": 64.0,
                "batch_size": 256,
                "learning_rate": 3e-4,
                "steps": 1_000_000,
            },
            fits=r"(Ant|HalfCheetah|Hopper|Humanoid|HumanoidStandup|InvertedDoublePendulum|InvertedPendulum|Pusher|Reacher"
            r"|Swimmer|Walker2d)-v",
        ),
        "pendulum": Preset(
            {
                **_SMALL_APEX,
                "policy_hidden": (64, 64),
                "critic_hidden": (64, 64),
                "n_steps": 2,
                "batch_size": 128,
                "samples_per_insert": 128.0,
                "steps": 20_000,
            },
            fits="Pendulum",
        ),
    },
    "impala": {
        "paper": PAPER,
        "atari": Preset({"encoder": "impala", "life_loss": True, "eval_every_steps": 250_000}, fits="ALE/"),
        "cartpole": Preset(
            {
                **_SMALL_ACTOR_CRITIC,
                "actors": 1,
                "environments": 16,
                "batch_size": 8,
                "queue_unrolls": 1,
                "entropy_factor": 0.1,
                "optimizer": "adam",
                "learning_rate": 1e-3,
                "learning_rate_updates": 2_340,
                "steps": 300_000,
            },
            fits="CartPole",
        ),
        "minatar": Preset(
            {
                "hidden": (128,),
                "actors": 2,
                "environments": 32,
                "reward_clip": None,
                "batch_size": 64,
                "optimizer": "adam",
                "optimizer_epsilon": 1e-5,
                "learning_rate": 1e-3,
                "learning_rate_updates": 3_900,
                "steps": 5_000_000,
            },
            fits="MinAtar/",
        ),
    },
    "r2d2": {
        "paper": PAPER,
        "atari": Preset({"full_action_set": True, "eval_every_steps": 250_000}, fits="ALE/"),
        "cartpole": Preset({**_SMALL_R2D2, "samples_per_insert": 24.0, "steps": 80_000}, fits="CartPole|(.*:)?masked_cartpole"),
        "memory": Preset(
            {
                **_SMALL_R2D2,
                "sequence_steps": 64,
                "overlap_steps": 32,
                "burn_in_steps": 16,
                "samples_per_insert": 32.0,
                "replay_steps": 200_000,
                "epsilon_base": 0.4,
                "steps": 300_000,
            },
            fits="MiniGrid-Memory|(.*:)?t_maze",
        ),
    },
    "r2d3": {
        "paper": PAPER,
        "cartpole": Preset({**_SMALL_R2D3, "steps": 60_000}, fits="CartPole|(.*:)?masked_cartpole"),
        "minigrid": Preset(
            {**_SMALL_R2D3, "replay_steps": 200_000, "epsilon_base": 0.4, "steps": 300_000}, fits="MiniGrid-|BabyAI-"
        ),
    },
}
