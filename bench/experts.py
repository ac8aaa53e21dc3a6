"""Scripted experts for `veldt demos record --expert bench.experts:door_key`: they read the grid, which the agent only sees in part."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE = range(6)
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Where each direction leads."""


class Situation(NamedTuple):
    """All that changes in a DoorKey level: where the agent is and looks, whether it has the key, whether the door is open."""

    cell: tuple[int, int]
    direction: int
    has_key: bool
    door_open: bool


def door_key(obs: dict[str, Any], env: Any) -> int:
    """The first action of a shortest way to the goal of a MiniGrid-DoorKey level: key, door, goal."""
    things = {env.grid.get(x, y).type: (x, y) for x in range(env.width) for y in range(env.height) if env.grid.get(x, y)}
    door = env.grid.get(*things["door"])
    start = Situation(tuple(map(int, env.agent_pos)), int(env.agent_dir), env.carrying is not None, door.is_open)
    seen, queue = {start}, deque([(start, -1)])
    while queue:
        situation, first = queue.popleft()
        if situation.cell == things["goal"]:
            return first
        for action in (LEFT, RIGHT, FORWARD, PICKUP, TOGGLE):
            after = _after(situation, action, env, things)
            if after not in seen:
                seen.add(after)
                queue.append((after, action if first < 0 else first))
    raise ValueError("this level has no way to its goal")


def _after(now: Situation, action: int, env: Any, things: dict[str, tuple[int, int]]) -> Situation:
    """What an action leads to; the same situation where it does nothing."""
    if action in (LEFT, RIGHT):
        return now._replace(direction=(now.direction + (1 if action == RIGHT else -1)) % 4)
    ahead = now.cell[0] + STEPS[now.direction][0], now.cell[1] + STEPS[now.direction][1]
    at_key = ahead == things.get("key") and not now.has_key
    if action == PICKUP:
        return now._replace(has_key=now.has_key or at_key)
    if action == TOGGLE:
        return now._replace(door_open=now.door_open or (ahead == things["door"] and now.has_key))
    thing = env.grid.get(*ahead)
    blocked = at_key or (thing is not None and thing.type == "wall") or (ahead == things["door"] and not now.door_open)
    return now if blocked else now._replace(cell=ahead)
