"""Which environments there is a simulator of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pgkit.rl.lanes import Lanes
from pgkit.simulators.base import Simulator
from pgkit.simulators.cart_pole import CartPole
from pgkit.simulators.pendulum import Pendulum

GYMNASIUMS: Mapping[str, Callable[[Mapping[str, Any]], Simulator]] = {
    "CartPole-v0": lambda kwargs: CartPole(sutton_barto_reward=bool(kwargs.get("sutton_barto_reward", False))),
    "CartPole-v1": lambda kwargs: CartPole(sutton_barto_reward=bool(kwargs.get("sutton_barto_reward", False))),
    "Pendulum-v1": lambda kwargs: Pendulum(g=float(kwargs.get("g", 10.0))),
}
"""Simulators of Gymnasium's own environments, made of the keywords of these."""

SERVED = "env=LQR, env=Pendulum, or one of yours with an attribute `simulator`"


def simulator_of(lanes: Lanes) -> Simulator | None:
    """Returns a simulator of what the lanes do, None where there is none or where wrappers change what they do.

    An environment's own attribute `simulator` comes first.
    """
    if lanes.altered or not lanes.has_single:
        return None
    environment = lanes.single()
    own = getattr(environment.unwrapped, "simulator", None)
    environment.close()
    if isinstance(own, Simulator):
        return own
    return GYMNASIUMS[lanes.id](lanes.kwargs) if lanes.id in GYMNASIUMS else None
