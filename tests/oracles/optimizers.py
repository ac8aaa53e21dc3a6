"""RMSProp and AdaGrad written out for one number at a time. Never used outside tests."""

from __future__ import annotations

from math import sqrt


def rmsprop(weight, gradients, lr, decay, epsilon, inside, initial_square, centered):
    """The weight after one step for each gradient."""
    square, mean = initial_square, 0.0
    for gradient in gradients:
        square = decay * square + (1 - decay) * gradient * gradient
        mean = decay * mean + (1 - decay) * gradient
        spread = max(square - mean * mean, 0.0) if centered else square
        root = sqrt(spread + epsilon) if inside else sqrt(spread) + epsilon
        weight -= lr * gradient / root
    return weight


def adagrad(weight, gradients, lr, epsilon):
    """The weight after one step for each gradient."""
    total = 0.0
    for gradient in gradients:
        total += gradient * gradient
        weight -= lr * gradient / (sqrt(total) + epsilon)
    return weight
