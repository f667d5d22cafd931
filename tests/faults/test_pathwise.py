"""What has no pathwise gradient is refused by name before anything is started."""

from __future__ import annotations

import pytest

from pgkit.assemble import assemble
from pgkit.errors import UsageError
from tests.end_to_end.runs import configuration, gym

NO_MODEL = "^env.id: .* with estimator SVG, expected an environment with a differentiable simulator: env=LQR"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("env=CartPole", "agent=svg"), "^estimator: svg with actions Discrete, expected Box"),
        (("env=CartPole", "agent=svg0"), "^estimator: svg0 with actions Discrete, expected Box"),
        ((*gym("Shapes"), "env.kwargs={action:several}", "agent=svg0"), "^estimator: svg0 with actions MultiDiscrete"),
        (("env=MountainCarContinuous", "agent=svg"), NO_MODEL),
        ((*gym("Shapes"), "env.kwargs={action:infinite}", "agent=svg"), NO_MODEL),
        (("env=Pendulum", "agent=svg", "policy.law=beta"), "^policy.law: Beta with estimator SVG, expected gaussian"),
        (("env=Pendulum", "agent=svg0", "policy.law=mixture"), "^policy.law: GaussianMixture with estimator SVG0"),
        (("env=Pendulum", "agent=svg", "weights=balance"), "^weights: .* with estimator SVG, expected on_policy"),
        (
            ("env=Pendulum", "agent=svg", "returns.scale_rewards=true"),
            "^returns.scale_rewards: true with estimator SVG",
        ),
        (("env=Pendulum", "agent=svg", "env.reward_clip=[-1,1]"), "^env.wrappers: with estimator SVG, expected"),
        (("env=Pendulum", "agent=svg", "env.wrappers=[time_aware]"), "^env.wrappers: with estimator SVG, expected"),
        (("env=Pendulum", "agent=svg0", "critic=value"), "^critic: ValueCritic, expected critic=action_value"),
        (("env=Acrobot", "collect=torch_steps", "critic=value"), "^collect: torch_steps on Acrobot-v1, expected"),
        (("env=Pendulum", "collect=torch_steps", "critic=value", "policy.law=beta"), "^policy.law: Beta with collect="),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_it_is_refused(overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        assemble(configuration(*overrides))


@pytest.mark.parametrize("overrides", [("env=Pendulum", "agent=svg"), ("env=LQR", "agent=svg0", "collect=torch_steps")])
def test_what_has_one_is_not(overrides: tuple[str, ...]) -> None:
    assemble(configuration(*overrides))
