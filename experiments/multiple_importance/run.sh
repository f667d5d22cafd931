#!/usr/bin/env bash
# Runs the grid of README.md, 10 seeds each, into runs/multiple_importance; names of methods may be given as arguments.
set -euo pipefail
declare -A methods=(
    [on_policy]=""
    [balance]="reuse=window weights=balance"
    [balance_limited]="reuse=window weights=balance update.max_trajectory_kl=0.35"
    [constant]="reuse=window weights=constant_mixture"
    [clipped]="update=ppo_clip update.epochs=4 update.minibatches=4"
    [v_trace]="reuse=window weights=one_step returns=v_trace critic=value baseline=value"
)
declare -A budgets=([25]=10000 [50]=20000 [100]=40000 [500]=150000)
chosen=("$@")
[ ${#chosen[@]} -gt 0 ] || chosen=("${!methods[@]}")
for horizon in 25 50 100 500; do
    for method in "${chosen[@]}"; do
        for momentum in 0.9 0.0; do
            # shellcheck disable=SC2086  # a method is several overrides
            python -m pgkit.train -m env=CartPole "env.kwargs={max_episode_steps:$horizon}" ${methods[$method]} \
                "optimizer.betas=[$momentum,0.999]" optimizer.lr=0.003,0.01 'seed=range(10)' \
                "total_steps=${budgets[$horizon]}" evaluation.episodes=0 diagnostics=none logger=csv \
                hydra/launcher=basic "hydra.sweep.dir=runs/multiple_importance/$horizon/$method/momentum-$momentum"
        done
    done
done
