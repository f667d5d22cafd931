#!/bin/sh
# Every run of the benchmark, one after the other: sh experiments/benchmark/run.sh, from the root of the project.
set -e
export OMP_NUM_THREADS=1

sweep() { # folder, what to type
    name=$1
    shift
    python -m pgkit.train -m hydra/launcher=basic hydra.sweep.dir="runs/benchmark/$name" "$@"
}

for preset in cartpole_ppo mountaincarcontinuous_ppo mountaincarcontinuous_a2c pendulum_ppo lunarlander_a2c; do
    sweep $preset experiment=$preset 'seed=range(10)'
done
for preset in pendulum_a2c acrobot_ppo acrobot_a2c lunarlander_ppo; do
    sweep $preset experiment=$preset 'seed=range(5)'
done
sweep hopper_ppo experiment=hopper_ppo seed=0
for preset in mujoco_ppo mujoco_trpo; do
    for env in HalfCheetah Hopper Walker2d; do
        sweep ${preset}_$env experiment=$preset env=$env seed=0
    done
done
