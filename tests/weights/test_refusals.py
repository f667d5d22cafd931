"""What weights do not go with, said before anything is started."""

from __future__ import annotations

import pytest

from pgkit.agreement import check_agreement
from pgkit.assemble import assemble
from pgkit.errors import UsageError
from pgkit.weights.mixtures import Balance
from tests.end_to_end.runs import configuration

REFUSED = {
    "collect=steps critic=value weights=balance reuse=window": "collect: steps, expected collect=episodes for weights",
    "reuse=window weights=power_heuristic reuse.keep=log_probabilities": "reuse.keep: log_probabilities, expected para",
    "weights=one_step reuse=window": "weights: one_step, expected trajectory, per_decision or balance for returns=rew",
    "weights=balance reuse=window critic=value returns=v_trace baseline=value": "weights: balance, expected one_step",
    "weights=constant_mixture weights.per_decision=true weights.power_mean=0.1": "weights.power_mean: 0.1, expected nu",
    "weights=per_decision weights.truncate=2": "weights.truncate: unknown key, expected one of self_normalise",
    "weights=balance weights.defensive=1": "weights.defensive: 1, expected a number above 0 and below 1",
    "weights=trajectory weights.power_mean=0": "weights.power_mean: 0, expected a number above 0 and below 1",
    "weights=trajectory weights.truncate=-1": "weights.truncate: -1, expected a number above 0",
    "weights=power_heuristic weights.exponent=1e308": "weights.exponent: 1e+308, expected a number at most 100 and",
    "weights=balance reuse=window reuse.batches=100000": "reuse.batches: 100000, expected an integer at least 2 a",
    "weights=constant_mixture weights.decay=1.5": "weights.decay: 1.5, expected a number at most 1 and above 0",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_what_does_not_go_together_is_refused_by_name_without_building_anything(typed: str) -> None:
    with pytest.raises(UsageError) as refusal:
        configuration("env=CartPole", *typed.split())
    assert str(refusal.value).startswith(REFUSED[typed])


def test_a_control_variate_of_score_sums_knows_nothing_of_strata() -> None:
    typed = ("weights=balance", "reuse=window", "baseline=zero", "estimator.control_variate=optimal_parameter")
    with pytest.raises(UsageError, match=r"^estimator.control_variate: with Balance, expected none or weights=traj"):
        assemble(configuration("env=CartPole", *typed))
    assemble(configuration("env=CartPole", "weights=trajectory", *typed[1:]))


def test_a_trace_that_is_a_probability_is_read_out_of_whole_ratios() -> None:
    typed = ("env=CartPole", "agent=a2c", "critic=action_value", "weights=one_step")
    with pytest.raises(UsageError, match=r"^weights.truncate: 0.5 with TreeBackup, expected null"):
        assemble(configuration(*typed, "returns=tree_backup", "weights.truncate=0.5"))
    assemble(configuration(*typed, "returns=tree_backup"))
    assemble(configuration(*typed, "returns=retrace", "weights.truncate=0.5"))


def test_a_plug_in_that_the_schema_does_not_know_is_held_to_what_it_says() -> None:
    parts = assemble(configuration("env=CartPole", "weights=balance", "reuse=window"))
    assert isinstance(parts.weights, Balance)
    with pytest.raises(UsageError, match=r"^weights: Balance on slabs of steps, expected collect=episodes"):
        check_agreement(parts, columns=8, whole_episodes=False)


@pytest.mark.parametrize("weights", ["balance", "power_heuristic"])
def test_no_pair_variance_is_claimed_over_several_policies(weights: str) -> None:
    typed = ("env=CartPole", "behavior=epsilon", "behavior.lanes=4")
    assert assemble(configuration(*typed, "weights=trajectory")).coupling == "pairwise"
    assert assemble(configuration(*typed, f"weights={weights}")).coupling == "cross_fitted"


def test_reused_batches_are_never_called_independent() -> None:
    typed = ("env=CartPole", "reuse=window", "baseline=zero", "weights=balance")
    assert assemble(configuration(*typed)).coupling != "independent"
