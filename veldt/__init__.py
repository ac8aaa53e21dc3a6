"""Veldt: distributed deep reinforcement learning in PyTorch.

import veldt
result = veldt.train("dqn", "CartPole-v1", steps=50_000)
policy = veldt.load(result.folder)
print(veldt.evaluate(policy, episodes=20).return_mean)
"""

from veldt.envs.check import check_env
from veldt.envs.options import EnvOptions
from veldt.errors import UserError, VeldtError
from veldt.policy import EvaluationResult, Policy, evaluate, load
from veldt.runs.options import RunOptions
from veldt.stretch import Result
from veldt.systems.a3c import A3CConfig
from veldt.systems.apex import ApexConfig
from veldt.systems.apex_dpg import ApexDPGConfig
from veldt.systems.dqn import DQNConfig
from veldt.systems.gorila import GorilaConfig
from veldt.systems.impala import ImpalaConfig
from veldt.systems.r2d2 import R2D2Config
from veldt.systems.r2d3 import R2D3Config
from veldt.training import resume, train

__all__ = [
    "A3CConfig",
    "ApexConfig",
    "ApexDPGConfig",
    "DQNConfig",
    "EnvOptions",
    "EvaluationResult",
    "GorilaConfig",
    "ImpalaConfig",
    "Policy",
    "R2D2Config",
    "R2D3Config",
    "Result",
    "RunOptions",
    "UserError",
    "VeldtError",
    "check_env",
    "evaluate",
    "load",
    "resume",
    "train",
]
