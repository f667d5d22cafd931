"""`pgkit.train`, which leaves behind what each process learnt.

`FINGERPRINTS/<rank>.json` holds a hash of all parameters, optimizer moments and generators, and the number of sums over
processes that it took part in.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from pgkit import train
from pgkit.run.world import World


def tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for each in state.values() if isinstance(state, dict) else state:
            yield from tensors(each)


def main() -> None:
    sums = 0
    plain_learn, plain_add = train.learn, World.add

    def add(self: World, tensor: Tensor) -> None:
        nonlocal sums
        sums += 1
        plain_add(self, tensor)

    def learn(parts: Any, *arguments: Any, **options: Any) -> None:
        plain_learn(parts, *arguments, **options)
        whole = hashlib.sha256()
        for part in (parts.policy, parts.critic, parts.update, parts.baseline, parts.returns):
            for tensor in tensors(part.state_dict()):
                whole.update(tensor.detach().contiguous().numpy().tobytes())
        said = json.dumps({"hash": whole.hexdigest(), "sums": sums})
        Path(os.environ["FINGERPRINTS"], f"{os.environ.get('RANK', '0')}.json").write_text(said)

    World.add, train.learn = add, learn  # type: ignore[method-assign]
    train.main()


if __name__ == "__main__":
    main()
