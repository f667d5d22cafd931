#!/usr/bin/env bash
# Runs what README.md compares, 8 and 5 seeds with and without a memory in the critic, into runs/critic_memory.
set -euo pipefail
hidden='env.wrappers=[{filter_observation:{keys:[0,2]}}]'
for critic in value recurrent_value; do
    common=("agent=ppo" "policy=gru" "critic=$critic" "evaluation.episodes=0" "logger=csv" "diagnostics=none")
    python -m pgkit.train -m env=CartPole "$hidden" "${common[@]}" total_steps=100000 'seed=range(8)' \
        "hydra.sweep.dir=runs/critic_memory/hidden_velocities/$critic"
    python -m pgkit.train -m env=RecallCue "${common[@]}" total_steps=30000 stop_when_solved=true 'seed=range(5)' \
        "hydra.sweep.dir=runs/critic_memory/recall_cue/$critic"
done
