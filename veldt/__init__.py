"""Veldt: distributed deep reinforcement learning in PyTorch."""
