"""What the tests of every folder may ask for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

# The tensors of tests are tiny, and several workers share the machine.
torch.set_num_threads(1)


@pytest.fixture
def float64() -> Iterator[None]:
    """Double precision inside a test: closed forms are met to 1e-10."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
