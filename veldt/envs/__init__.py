"""Vector environments, one adapter per family, all in the time convention of `veldt.data`.

    spec = make_env_spec("CartPole-v1")
    environments = spec.make(8, np.random.SeedSequence(1))
    row = environments.reset()

| file | environments |
| --- | --- |
| `loop.py` | any Gymnasium environment, stepped in Python; MinAtar, MiniGrid, MuJoCo, yours |
| `classic.py` | those that Gymnasium itself vectorises in numpy |
| `ale.py` | Atari, in ALE's C++ vector environment |
| `envpool.py` | Atari, in envpool, if installed |
"""

from veldt.envs.check import CheckReport, Finding, check_env
from veldt.envs.make import make_env_spec
from veldt.envs.options import EnvOptions

__all__ = ["CheckReport", "EnvOptions", "Finding", "check_env", "make_env_spec"]
