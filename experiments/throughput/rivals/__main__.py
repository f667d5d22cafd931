"""What pgkit is compared with: `python rivals NAME STEPS` measures one of them and prints its rates as JSON."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module

RIVALS = {
    "raw": ("raw_lanes", "raw_gymnasium", "raw_cheetah"),
    "with_sb3": ("sb3_ppo", "sb3_a2c", "sb3_cheetah", "sbx_ppo"),
    "with_tianshou": ("tianshou_ppo", "tianshou_reinforce"),
    "with_torchrl": ("torchrl_ppo",),
}

if __name__ == "__main__":
    # One thread each, as a run of pgkit takes; read when the libraries are loaded.
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    name, steps = sys.argv[1:]
    (module,) = (module for module, names in RIVALS.items() if name in names)
    print(json.dumps(getattr(import_module(module), name)(int(steps))))
