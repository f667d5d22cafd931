"""The objective of one batch, as a function of the policy's parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from operator import itemgetter
from typing import Any, Literal, final

import torch
from torch import Tensor

from pgkit.core import fisher, score
from pgkit.core.action_terms import Terms, taken
from pgkit.core.expectation import flat_gradient
from pgkit.core.unrolling import blocks_of_columns, is_recurrent, law_parameters
from pgkit.objectives import Ascent, ObjectiveValue, RowTerms, ScoredRows
from pgkit.protocols import Estimator
from pgkit.types import Factors, Rows, Trajectories, map_observations

BLOCK = 1024
"""Rows differentiated at once: their activations stay in a processor's cache."""
COLUMNS_OF = 2**15
"""Rows of the columns differentiated at once where a policy has a memory: each step costs calls of its own."""


def correction_of(estimator: Estimator, factors: Factors, coefficients: Tensor) -> Tensor | None:
    """Returns what the estimator's control variate on score sums adds to the mean gradient, `[P]`; None without one."""
    if not estimator.controlled:
        return None
    assert factors.scores is not None and factors.scale is not None
    gradients, scores = factors.scores.stacked(torch.stack([coefficients, factors.scale]))
    return (estimator.control(gradients, scores, factors.scores.layout) - gradients).mean(dim=0)


@final
class PolicyObjective:
    """Σ c log π(a|s) + β H, summed over steps and averaged over columns, or averaged over valid steps.

    The score-function surrogate with its entropy bonus: it evaluates the policy on all valid rows or on those asked
    for; a random subset of rows gives an unbiased estimate of the whole. Coefficients are `[T, N]`, or `[T, N, C]` for
    an estimator with C `terms` a row in place of the score of the action that was taken. A `correction` `[P]` to the
    mean gradient of a column enters as a term that is linear in the parameters, each row with its share.
    """

    def __init__(
        self,
        *,
        policy: Any,
        trajectories: Trajectories,
        factors: Factors,
        coefficients: Tensor,
        average: Literal["columns", "steps"],
        entropy_coefficient: float,
        correction: Tensor | None = None,
        terms: Terms = taken,
    ) -> None:
        self.policy, self.trajectories, self.factors, self._terms = policy, trajectories, factors, terms
        self.coefficients, mask = coefficients.flatten(0, 1), factors.mask
        whole = mask is trajectories.mask
        self.valid = trajectories.valid if whole else mask.reshape(-1).nonzero().squeeze(-1)
        self.everything = None if whole else self.valid
        columns = average == "columns"
        self.num_samples = trajectories.num_columns if columns else max(len(self.valid), 1)
        self.entropy_coefficient = entropy_coefficient
        self.reads_columns = is_recurrent(policy)
        self.correction = None if correction is None else correction * (trajectories.num_columns / self.num_samples)

    def __call__(self, rows: Tensor | None = None) -> ObjectiveValue:
        """Returns the objective on flat `rows`, all valid ones by default."""
        taken = self.trajectories.rows(self.everything if rows is None else rows)
        return self._value(taken, self.num_samples * len(taken.index) / max(len(self.valid), 1))

    def parts(self, rows: Tensor | None = None) -> Iterator[ObjectiveValue]:
        """Yields the objective in pieces that add up to the whole, or to the share that flat `rows` have in it.

        They are small enough for the processor's cache, which makes differentiating up to twice as fast as at once.
        Their entropies add up to the mean entropy.
        """
        for part in self._blocks(self.trajectories.rows(self.everything if rows is None else rows)):
            value = self._value(part, self.num_samples)
            yield ObjectiveValue(value=value.value, entropy=value.entropy * (len(part.index) / len(self.valid)))

    def ascent(self, rows: Tensor | None = None) -> Ascent:
        """Returns the gradient of the whole, or the share that flat `rows` have in it.

        It comes of hand-written derivatives where policy and estimator are plain.
        """
        # One term a row is the score of the action that was taken.
        plain = self.coefficients.dim() == 1 and self.correction is None
        # A batch in which no row counts has a gradient too.
        gradient = self.coefficients.new_zeros(sum(each.numel() for each in self._trained.values()))
        value: float | Tensor = 0.0
        entropy: float | Tensor = 0.0
        policy = self._by_hand
        if policy is None or not plain or len(self.valid) == 0:
            for part in self.parts(rows):
                gradient = gradient + flat_gradient(part.value, self._trained)
                value, entropy = value + part.value.detach().double(), entropy + part.entropy.detach().double()
            return Ascent(gradient=gradient, value=value, entropy=entropy)
        bonus = self.entropy_coefficient / self.num_samples
        taken = self.trajectories.rows(self.everything if rows is None else rows)
        seen = policy.rows(taken.obs, taken.actions)
        coefficients = self.coefficients.index_select(0, taken.index) / self.num_samples
        for start in range(0, len(coefficients), BLOCK):
            block = slice(start, start + BLOCK)
            read, weight = policy.read(seen, block), coefficients[block]
            gradient += read.gradient(weight, bonus)
            spread = float(read.entropy.sum())
            value += float(weight @ read.log_prob) + bonus * spread
            entropy += spread / len(self.valid)
        return Ascent(gradient=gradient, value=value, entropy=entropy)

    def _blocks(self, taken: Rows) -> Iterator[Rows]:
        """Yields the rows in pieces, of whole columns where that is how the policy reads."""
        if self.reads_columns:
            column = taken.index % self.trajectories.num_columns
            for columns in blocks_of_columns(self.trajectories, COLUMNS_OF):
                inside = taken.index[(column >= columns.start) & (column < columns.stop)]
                if len(inside):
                    yield self.trajectories.rows(inside)
            return
        for start in range(0, len(taken.index), BLOCK):
            block = slice(start, start + BLOCK)
            obs = map_observations(itemgetter(block), taken.obs)
            yield Rows(obs=obs, actions=taken.actions[block], index=taken.index[block])

    def terms(self, rows: Tensor | None = None) -> RowTerms:
        """Returns the rows of the objective one by one, the valid ones by default.

        Raises: ValueError for several terms a row or a control variate, which are no matter of single rows.
        """
        if self.coefficients.dim() > 1 or self.correction is not None:
            raise ValueError("terms: several a row, or a control variate on their sums, expected one a row")
        taken = self.trajectories.rows(self.everything if rows is None else rows)
        parameters = law_parameters(self.policy, self.trajectories, taken)
        return RowTerms(
            log_prob=self.policy.law.log_prob(parameters, taken.actions),
            behavior_log_prob=self.trajectories.behavior_log_prob.reshape(-1)[taken.index],
            coefficients=self.coefficients[taken.index],
            entropy=self.policy.law.entropy(parameters),
            index=taken.index,
            parameters=parameters,
            num_samples=self.num_samples * len(taken.index) / max(len(self.valid), 1),
        )

    def scored(self, rows: Tensor) -> ScoredRows:
        """Returns flat rows as the policy sees them now, by hand-written derivatives where the policy has some."""
        policy = self._by_hand
        if policy is None:
            terms = self.terms(rows)
            log_prob, entropy, gradient = terms.log_prob.detach(), terms.entropy.detach(), self._gradient_of(terms)
        else:
            read = policy.read(self._everything, rows.numpy())
            log_prob, entropy, gradient = read.log_prob, read.entropy, read.gradient
        return ScoredRows(
            log_prob=log_prob,
            behavior_log_prob=self.trajectories.behavior_log_prob.reshape(-1).index_select(0, rows),
            entropy=entropy,
            index=rows,
            num_samples=self.num_samples * len(rows) / max(len(self.valid), 1),
            gradient=gradient,
        )

    @cached_property
    def _by_hand(self) -> Any | None:
        """The policy in numpy; None where autograd is the way."""
        return self.policy.by_hand() if hasattr(self.policy, "by_hand") else None

    @cached_property
    def _everything(self) -> Any:
        """All rows of the batch, padding too, as the policy in numpy reads them."""
        assert self._by_hand is not None
        obs = map_observations(lambda x: x[:-1].flatten(0, 1), self.trajectories.obs)
        return self._by_hand.rows(obs, self.trajectories.actions.flatten(0, 1))

    def _gradient_of(self, terms: RowTerms) -> Callable[[Tensor, float], Tensor]:
        def gradient(coefficients: Tensor, entropy: float) -> Tensor:
            value = coefficients @ terms.log_prob
            if entropy:
                value = value + entropy * terms.entropy.sum()
            return flat_gradient(value, self._trained)

        return gradient

    @property
    def _trained(self) -> dict[str, Tensor]:
        return {name: each for name, each in self.policy.named_parameters() if each.requires_grad}

    def laws(self) -> Tensor:
        """Returns the parameters of the action law `[M, K]` at every valid row, detached."""
        with torch.no_grad():
            return law_parameters(self.policy, self.trajectories, self.trajectories.rows(self.everything))

    def divergence(self, before: Tensor) -> Tensor:
        """Returns Σ_t KL(π_before ‖ π) `[N]` over the valid rows of each column."""
        divergence = self.policy.law.kl(before, self.laws())
        columns = self.valid % self.trajectories.num_columns
        return divergence.new_zeros(self.trajectories.num_columns).index_add(0, columns, divergence)

    def divergences(self, before: Tensor, parameters: Tensor) -> Tensor:
        """Returns KL(π_before ‖ π) `[M]` of single rows, differentiable, both given by the parameters of their laws."""
        result: Tensor = self.policy.law.kl(before, parameters)
        return result

    def curvature(self, rows: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """Returns v → F v `[P]`, F the Fisher matrix of the policy as it is, a mean over rows, exact in the actions."""
        taken = self.trajectories.rows(self.everything if rows is None else rows)
        parameters = law_parameters(self.policy, self.trajectories, taken)
        divergence = self.policy.law.kl(parameters.detach(), parameters).mean()
        return fisher.curvature(divergence, [each for each in self.policy.parameters() if each.requires_grad])

    def _value(self, rows: Rows, num_samples: float) -> ObjectiveValue:
        parameters = law_parameters(self.policy, self.trajectories, rows)
        coefficients = self.coefficients.index_select(0, rows.index)
        terms = self._terms(self.policy.law, parameters, rows.actions)
        surrogate = score.surrogate(terms, coefficients, num_samples=num_samples)
        if self.correction is not None:
            flat = torch.cat([each.reshape(-1) for each in self.policy.parameters() if each.requires_grad])
            share = len(rows.index) / max(len(self.valid), 1) * self.num_samples / num_samples
            surrogate = surrogate + share * (self.correction @ flat)
        if self.entropy_coefficient == 0:
            return ObjectiveValue(value=surrogate, entropy=self.policy.law.entropy(parameters.detach()).mean())
        entropy = self.policy.law.entropy(parameters)
        bonus = self.entropy_coefficient * entropy.sum() / num_samples
        return ObjectiveValue(value=surrogate + bonus, entropy=entropy.mean())
