"""A device that is none: tensors that say they live elsewhere, refuse to meet those of the host, and count waits.

It goes by the name of `meta`, for which torch looks for no driver. What it holds lies in host memory, so that a walk on
it gives the numbers of the host bit for bit; a tensor that was left on the host, a conversion to numpy and a wait for a
value are found out without a GPU.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
PRODUCTS = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)
INDEXING = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)
WAITS = (
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "unique_consecutive",
    "unique_dim_consecutive", "bincount", "_linalg_check_errors",
)  # fmt: skip
"""Operations whose result, or its size, the host waits for."""


class Elsewhere(torch.Tensor):
    """A tensor of the device that is none; `here` is what it holds."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> Any:
        made = torch.Tensor._make_wrapper_subclass(
            cls, here.size(), strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
            device=DEVICE,
        )  # fmt: skip
        assert type(here) is torch.Tensor, type(here)
        made.here = here
        return made

    def __repr__(self, **kwargs: Any) -> str:
        return f"Elsewhere({self.here!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func}: outside of the pretence")


class Drawing(torch.Generator):
    """A generator of the host, or of the device that is none: then it is `away`."""

    drawn = False  # one that is away is at work; torch does not hand this class on

    def __new__(cls, device: Any = "cpu") -> Any:
        made = super().__new__(cls)
        made.away = _is_away(device)
        return made


class Pretence(TorchDispatchMode):
    """Runs every operation where its tensors live, or where it was asked to; `waits` counts those for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, torch.Tensor)]
        ours = [each for each in tensors if isinstance(each, Elsewhere)]
        asked = kwargs.get("device")
        away = bool(ours) if asked is None else _is_away(asked)
        if func is torch.ops.aten.copy_.default:
            away = isinstance(args[0], Elsewhere)
        if ours and func not in COPIES:
            # As torch has it, a single number of the host may join tensors of the device, and numbers there pick rows.
            joining = [args[0], *args[2:]] if func in INDEXING else tensors
            strangers = [
                list(each.shape)
                for each in joining
                if isinstance(each, torch.Tensor) and not isinstance(each, Elsewhere) and each.dim()
            ]
            assert not strangers, f"{func}: tensors {strangers} of the host among those of the device"
        if away and kwargs.get("generator") is not None and not Drawing.drawn:
            raise AssertionError(f"{func}: a generator of the host draws on the device")
        if _waits(func, args, kwargs, away):
            self.waits[_place()] += 1
        held_args, held = tree_map(lambda each: each.here if isinstance(each, Elsewhere) else each, (args, kwargs))
        if asked is not None:
            held = {**held, "device": torch.device("cpu")}
        result = func(*held_args, **held)
        if func is torch.ops.aten.copy_.default:
            return args[0]
        if not away:
            return result
        known = {id(each.here): each for each in ours}
        return tree_map(
            lambda each: (
                known.get(id(each), each) if id(each) in known or type(each) is not torch.Tensor else Elsewhere(each)
            ),
            result,
        )


class Made(TorchFunctionMode):
    """Makes tensors of numbers on the host and takes them there: the makers themselves ask for memory of the device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        Drawing.drawn = getattr(kwargs.get("generator"), "away", False)
        if func is torch.Tensor.tolist:
            return func(args[0].cpu())
        if func in PRODUCTS and isinstance(args[0], Elsewhere) and args[0].dim() == 1 and args[1].dim() == 2:
            return torch.mv(args[1].t(), args[0])  # torch drops a dimension in place, which a wrapper cannot
        if func is torch.Tensor.new_tensor and isinstance(args[0], Elsewhere):
            return torch.tensor(args[1], **{"dtype": args[0].dtype, **kwargs}).to(DEVICE)
        if func in (torch.tensor, torch.as_tensor) and _is_away(kwargs.get("device")):
            return func(*args, **{**kwargs, "device": None}).to(DEVICE)
        return func(*args, **kwargs)


def _is_away(device: Any) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type


def _waits(func: Any, args: Any, kwargs: Any, away: bool) -> bool:
    """Returns whether CUDA would let the host wait here until all that was asked of the device before is done."""
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, torch.Tensor)]
    ours = [each for each in tensors if isinstance(each, Elsewhere)]
    if not away:
        return bool(ours)  # what comes to the host
    strangers = [each for each in tensors if not isinstance(each, Elsewhere)]
    if func in COPIES:
        return bool(strangers) and not kwargs.get("non_blocking", len(args) > 2 and args[2])
    if func in INDEXING:
        by_mask = any(each is not None and each.dtype == torch.bool for each in args[1])
        # Torch takes a single number to the places of a mask without looking where they are.
        filling = len(args) > 2 and args[2].numel() == 1 and sum(each is not None for each in args[1]) == 1
        return (by_mask and not filling) or any(not isinstance(each, Elsewhere) for each in args[1] if each is not None)
    return func.overloadpacket.__name__ in WAITS or (func is torch.ops.aten.where.self and bool(strangers))


def _place() -> str:
    """Returns the function of pgkit that is at work."""
    frame: Any = sys._getframe()
    while frame is not None:
        code, frame = frame.f_code, frame.f_back
        if "/pgkit/" in code.co_filename and not code.co_filename.endswith("/core/placed.py"):  # but who asked it
            return f"{code.co_filename.rpartition('/pgkit/')[2]}:{code.co_name}"
    return "elsewhere"


@contextlib.contextmanager
def pretence() -> Iterator[Counter[str]]:
    """Yields the count of waits by the line of pgkit, while `DEVICE` is a device of its own."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # parameters of a module become another class in place
    optimizers = importlib.import_module("torch.optim.optimizer")
    fused = optimizers._get_fused_kernels_supported_devices
    try:
        with (
            patch.object(optimizers, "_get_fused_kernels_supported_devices", lambda: [*fused(), DEVICE.type]),
            # A view of a parameter cannot be wrapped as what inference mode makes.
            patch.object(
                torch, "inference_mode", lambda mode=True: torch.no_grad() if mode else contextlib.nullcontext()
            ),
            patch.object(torch, "Generator", Drawing),
            Made(),
            Pretence() as mode,
        ):
            yield mode.waits
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
