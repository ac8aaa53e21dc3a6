"""A network of your own: a callable that gets the specs of what the agent sees and returns a module."""

import torch
from torch import nn

import veldt
from veldt.data import ArraySpec


class TwoTanhs(nn.Module):
    """Vector observations float32 [N, size] -> float32 [N, 64]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(size, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.layers(obs)


def tanhs(seen: ArraySpec) -> nn.Module:
    return TwoTanhs(seen.shape[0])


if __name__ == "__main__":
    veldt.train("dqn", "CartPole-v1", encoder="custom_network:tanhs", steps=2_000, out="runs/tanhs", overwrite=True, quiet=True)
    print("return", veldt.evaluate("runs/tanhs", episodes=5).return_mean)
