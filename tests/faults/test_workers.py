"""Workers that die, hang or outlive their parent: named, ended, never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pgkit.errors import EnvironmentFault
from pgkit.rl.lanes import Lanes
from tests.faults.test_environments import fault
from tests.rl.envs import toy

ROOT = Path(__file__).resolve().parents[2]


def test_what_a_worker_imports_leaves_torch_out() -> None:
    program = "import pgkit.rl.pausable, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_a_worker_that_dies_by_itself_is_named() -> None:
    kwargs = {"fault": "die", "only": 11}
    began = time.monotonic()
    message = fault(Lanes(id=toy("Faulty"), num_envs=2, vectorization="async", kwargs=kwargs), np.array([0, 0]))
    assert "lane 1, seed 11, step 20" in message and "its worker ended with exit code 3" in message
    assert time.monotonic() - began < 5


def test_a_worker_that_is_killed_is_named_and_the_others_are_reaped() -> None:
    lanes = Lanes(id=toy("Counting"), num_envs=3, vectorization="async")
    lanes.reset([1, 2, 3])
    processes = list(lanes._vector.processes)  # type: ignore[union-attr]
    os.kill(processes[2].pid, signal.SIGKILL)
    with pytest.raises(EnvironmentFault, match=r"lane 2, seed 3, step 1.*exit code -9"):
        lanes.step(np.zeros(3, dtype=np.int64))
    lanes.close()
    assert not any(process.is_alive() for process in processes)


@pytest.mark.parametrize("call", ["pause", "reset", "close"])
def test_a_killed_worker_is_met_in_every_call(call: str) -> None:
    lanes = Lanes(id=toy("Counting"), num_envs=2, vectorization="async")
    lanes.reset([1, 2])
    processes = list(lanes._vector.processes)  # type: ignore[union-attr]
    os.kill(processes[0].pid, signal.SIGKILL)
    processes[0].join()
    if call == "pause":
        with pytest.raises(EnvironmentFault, match="lane 0, seed 1"):
            lanes.pause(np.array([True, True]))
    if call == "reset":
        with pytest.raises(EnvironmentFault, match="lane 0, seed 1"):
            lanes.reset(None)
    lanes.close()
    assert not any(process.is_alive() for process in processes)


def test_a_worker_that_hangs_is_named_and_ended() -> None:
    kwargs = {"fault": "hang", "only": 11}
    lanes = Lanes(id=toy("Faulty"), num_envs=2, vectorization="async", kwargs=kwargs, timeout=1.0)
    lanes.reset([10, 11])
    processes = list(lanes._vector.processes)  # type: ignore[union-attr]
    message = fault(lanes, np.array([0, 0]))
    assert "lane 1, seed 11, step 20" in message and "no answer within 1 s (env.timeout)" in message
    assert not any(process.is_alive() for process in processes)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("fault_kind", ["hang", ""])
def test_workers_follow_a_parent_that_is_killed(fault_kind: str) -> None:
    program = f"""
import numpy as np
from pgkit.rl.lanes import Lanes
if __name__ == "__main__":
    lanes = Lanes(id={toy("Faulty")!r}, num_envs=2, vectorization="async", kwargs={{"fault": {fault_kind!r}, "at": 1}})
    lanes.reset([1, 2])
    print(*(process.pid for process in lanes._vector.processes), flush=True)
    while True:
        lanes.step(np.array([0, 0]))
"""
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(alive(pid) for pid in pids)
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def test_an_interrupt_reaches_the_parent_alone() -> None:
    lanes = Lanes(id=toy("Counting"), num_envs=2, vectorization="async")
    lanes.reset([1, 2])
    for process in lanes._vector.processes:  # type: ignore[union-attr]
        os.kill(process.pid, signal.SIGINT)
    time.sleep(0.1)
    assert lanes.step(np.array([0, 0]))[0].shape == (2, 4)
    lanes.close()
