"""Acting: from observations to law parameters without a tensor library in the step loop, where that can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pgkit.core.encoder import CLIP, Encoder
from pgkit.core.perceptron import Perceptron
from pgkit.core.placed import carried
from pgkit.policies.law import MASKED
from pgkit.types import map_observations

Array = np.ndarray[Any, Any]
Actor = Callable[[Any], Array]


def numpy_actor(encoder: Encoder, network: nn.Sequential, log_std: Tensor | None) -> Actor:
    """Returns an actor over numpy views of the parameters: every in-place update of the network is seen at once.

    The array it returns, `[N, K]`, is overwritten by the next call with the same N.
    """
    perceptron = Perceptron(network)
    mean, scale = _view(encoder.mean), _view(encoder.scale)
    dtype = scale.dtype
    tail = None if log_std is None else _view(log_std)
    name = next(iter(encoder.leaves))
    buffers: dict[int, tuple[Array, list[Array], Array]] = {}

    def allocate(rows: int) -> tuple[Array, list[Array], Array]:
        sizes = perceptron.sizes
        result = np.empty((rows, sizes[-1] + (0 if tail is None else len(tail))), dtype)
        return np.empty((rows, encoder.features), dtype), [np.empty((rows, size), dtype) for size in sizes], result

    def act(obs: Array) -> Array:
        rows = obs.shape[0]
        if rows not in buffers:
            buffers[rows] = allocate(rows)
        features, outputs, result = buffers[rows]
        if not encoder.normalise:
            features[...] = obs.reshape(rows, -1)
        else:
            # Subtracted in double precision, as in the encoder, and only then rounded.
            np.subtract(obs.reshape(rows, -1), mean, out=features, casting="same_kind")
            np.multiply(features, scale, out=features)
            np.clip(features, -CLIP, CLIP, out=features)
        hidden = perceptron.run(features, outputs)
        if tail is None:
            return hidden
        result[:, : -len(tail)] = hidden
        result[:, -len(tail) :] = tail
        return result

    return (lambda obs: act(obs[name])) if name else act


def masked_actor(act: Actor, key: str) -> Actor:
    """Returns an actor whose logits are MASKED where the entry `key` of the observations is 0."""

    def masked(obs: Any) -> Array:
        logits = act(obs)
        logits[obs[key].reshape(logits.shape) == 0] = MASKED
        return logits

    return masked


def torch_actor(policy: nn.Module) -> Actor:
    """Returns an actor that runs the policy's own forward pass where it lives, without gradients: the general path."""

    def act(obs: Any) -> Array:
        like = next(policy.parameters())
        with torch.inference_mode():
            result: Tensor = policy(map_observations(lambda each: carried(torch.as_tensor(each), like), obs))
            return result.cpu().numpy()

    return act


def _view(tensor: Tensor) -> Array:
    return tensor.detach().numpy()
