"""The protocols at which the rooms of pgkit meet: what each expects of the others, with shapes.

Dimension names are those of `pgkit.types`: T time steps, N columns, F factors, M vectors or rows, P parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.types import (
    Coupling,
    Expectation,
    Factors,
    GradientEstimate,
    Measured,
    Metrics,
    Observations,
    Parameters,
    Rows,
    Trajectories,
    WeightKind,
)


@runtime_checkable
class Policy(Protocol):
    """A parameterised law of actions given observations.

    One with a memory says `recurrent = True`: it reads columns `[T, N, …]`, with `starts` `[T, N]` and the state
    `[N, S]` at row 0 behind the observations or actions, and has an actor that is `pgkit.experience.Remembering`.
    """

    def log_prob(self, obs: Observations, actions: Tensor) -> Tensor:
        """Returns log π(a|s) `[...]`, differentiable; summed over a trajectory it is log p(τ) without the dynamics."""

    def divergence(self, other: Policy, obs: Observations) -> Tensor:
        """Returns KL(self || other) `[...]` at every observation, in nats, without gradients."""

    def update(self, rows: Rows) -> None:
        """Advances the preprocessing moments, once the batch has been used."""

    def parameters(self, recurse: bool = True) -> Iterator[torch.nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...


@runtime_checkable
class Critic(Protocol):
    """Estimates the value of observations; knows nothing of the baseline that reads it.

    One with a memory says `recurrent = True`: it values columns `[T+1, N, …]`, with `starts` `[T, N]` behind them where
    they are a slab, which goes on where the one before that it learnt from has ended.
    """

    tags: Sequence[str]

    def values(self, obs: Observations) -> Tensor | None:
        """Returns V(s) `[T+1, N]`, detached, or None where there is no critic."""

    def update(
        self, trajectories: Trajectories, targets: Tensor, mask: Tensor, weight: Tensor | None = None
    ) -> Measured:
        """Fits the values of `obs[:-1]` to `targets` `[T, N]` where `mask`; called only after values were read.

        Each target counts `weight` times, `[T, N]`, once by default.
        """

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> Any: ...


@runtime_checkable
class FeatureCritic(Critic, Protocol):
    """A critic with features of the state, those that its last layer reads."""

    @property
    def num_features(self) -> int:
        """K."""

    def features(self, obs: Observations) -> Tensor:
        """Returns the features `[..., K]`, detached."""


@runtime_checkable
class Returns(Protocol):
    """Credits rewards to the actions that could have caused them."""

    needs_values: bool
    needs_whole_episodes: bool
    needs_action_values: bool
    weighs: WeightKind
    unbiased: bool

    def rewards(self, trajectories: Trajectories) -> Tensor:
        """Returns the rewards in the unit of the signal, `[T, N]`."""

    def signal(
        self, trajectories: Trajectories, values: Tensor | None, log_weight: Tensor, chosen: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns (signal, mask), both `[T, N]`; a return may only take rows out of the mask, never add any.

        `chosen` are a critic's values of the actions that were taken, `[T, N]`, where the return needs them.
        """

    def targets(
        self,
        trajectories: Trajectories,
        values: Tensor | None,
        log_weight: Tensor,
        signal: Tensor,
        chosen: Tensor | None = None,
    ) -> Tensor:
        """Returns what the critic is fitted to, `[T, N]`: the signal, unless the return corrects it in its own way."""

    def update(self, trajectories: Trajectories) -> None:
        """Advances the reward moments; called once, after the batch was used."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> Any: ...


@runtime_checkable
class Baseline(Protocol):
    """A reference that is subtracted from the signal; reading and updating are apart, and reading comes first."""

    unbiased: bool
    coupling: Coupling
    needs_values: bool
    least_columns: int

    def value(self, factors: Factors) -> Tensor:
        """Returns the baseline `[F, N]`, detached; changes nothing."""

    def update(self, factors: Factors) -> None:
        """Learns from the batch, once it has been read."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> Any: ...


@runtime_checkable
class ScoreBaseline(Baseline, Protocol):
    """A baseline fitted to the score sums of the batch's own samples, cross-fitted, so that no sample sees itself."""

    def fit(self, gradients: Tensor, scores: Tensor) -> Tensor:
        """Returns the baseline of every sample, `[N, 1]`, or of every sample and parameter, `[N, P]`.

        Both arguments are `[N, P]`: Σ_t w_t signal_t s_t and Σ_t w_t s_t, of which the estimate is the mean difference
        gradients − baseline · scores.
        """


@runtime_checkable
class Estimator(Protocol):
    """A rule for the detached coefficients whose product with the scores is the gradient.

    What is finer than coefficients acts on score sums: a `controlled` estimator has a control variate there. Instead
    of the score of the action that was taken a row may have several `terms`, with a coefficient each. What comes of a
    critic of actions (`needs_action_values`) is one with such terms; not every estimator `reads_baseline`.
    """

    unbiased: bool
    coupling: Coupling
    controlled: bool
    needs_action_values: bool
    reads_baseline: bool

    def accepts(self, action_space: spaces.Space[Any], columns: int) -> None:
        """Raises UsageError for actions, or a number of columns a batch, that this estimator cannot do with."""

    def terms(self, law: Any, parameters: Tensor, actions: Tensor) -> Tensor:
        """Returns what the coefficients multiply: log π(a|s) `[...]`, or terms `[..., C]`, differentiable."""

    def coefficients(self, factors: Factors, baseline: Tensor) -> Tensor:
        """Returns the coefficients `[F, N]`, or `[F, N, C]` of C terms, detached, 0 where the mask is False."""

    def scale(self, factors: Factors) -> Tensor:
        """Returns what multiplies (signal − baseline) at every factor, `[F, N]`; 0 outside the mask."""

    def control(self, gradients: Tensor, scores: Tensor, layout: Mapping[str, slice]) -> Tensor:
        """Returns per-sample gradients less their control variate, `[N, P]`; they themselves where there is none.

        Both arguments are `[N, P]`: Σ_t c_t s_t and Σ_t scale_t s_t; `layout` says where parameters lie in P.
        """


@runtime_checkable
class GradientEstimator(Protocol):
    """Estimates the gradient of any expectation; constructed with the baseline that it subtracts, if it can use one."""

    unbiased: bool

    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError, naming what to use instead, where this estimator would be wrong or impossible."""

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the estimate from N samples; torch's global generator is left as it was."""


@runtime_checkable
class Logger(Protocol):
    """Writes the metrics of one update somewhere a person looks."""

    def write(self, metrics: Metrics, *, step: int) -> None:
        """Records one update's metrics at `step` environment steps."""

    def close(self) -> None: ...
