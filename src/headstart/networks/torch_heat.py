"""Find what a PyTorch network's answer hangs on: the gradient at a map, and the head where it is linear on the mean."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from headstart.networks.torch_modules import ChannelsLastFlatten, GlobalMean, SeededDropout, TransferModel

_SILENT = (nn.Identity, nn.Dropout, SeededDropout, ChannelsLastFlatten)  # on vectors and out of training mode: nothing


def crossing_and_gradient(model: TransferModel, pixels: Tensor, classes: Tensor, at: int) -> tuple[Tensor, Tensor]:
    """What crosses the cut at position `at`, and the gradient there of the logit of each picture's class.

    Nothing but the crossing is asked for its gradient, so no parameter gets one, whether or not it is live.
    """
    with torch.no_grad():  # not inference mode, whose tensors take no part in gradients
        crossing = model.between(pixels, 0, at)
    with torch.enable_grad():
        entering = crossing.detach().requires_grad_()
        # A copy: a layer that works in place may not change a tensor that wants a gradient.
        logits = model.head(model.between(entering.clone(), at, model.head_input)).float()
        chosen = logits.gather(1, classes.view(-1, 1)).sum()  # a row's logit hangs on its own picture alone
        (gradient,) = torch.autograd.grad(chosen, entering)
    return crossing, gradient


def means(model: TransferModel, shape: tuple[int, ...]) -> bool:
    """Whether the pooling is the mean over the places of a map of this shape, `h w c`, whatever it is called."""
    if len(shape) != 3:
        return False
    if isinstance(model.pool, GlobalMean):
        return True
    with torch.inference_mode():
        drawn = torch.from_numpy(np.random.default_rng(0).normal(size=(2, shape[2], *shape[:2])).astype(np.float32))
        maps = torch.cat([drawn, 100 * drawn]).to(model.normalise.mean.device)  # a norm would take away the scale
        try:
            pooled = model.pool(maps)
        except RuntimeError:  # it wants another shape, as one that is the mean does not
            return False
        wanted = maps.mean(dim=(2, 3))
        return pooled.shape == wanted.shape and bool(torch.allclose(pooled, wanted, rtol=1e-4, atol=1e-5))


def linear(head: nn.Sequential) -> tuple[Float[np.ndarray, "d k"], Float[np.ndarray, "k"]] | None:
    """Weights and bias of the one linear layer that these layers come to; None where they do more."""
    weights: Float[np.ndarray, "d k"] | None = None
    bias = np.zeros(())
    for layer in head:
        if isinstance(layer, _SILENT):
            continue
        if not isinstance(layer, nn.Linear):
            return None
        matrix = _array(layer.weight).T
        weights = matrix if weights is None else weights @ matrix
        bias = (bias @ matrix if bias.ndim else bias) + (0 if layer.bias is None else _array(layer.bias))
    if weights is None:
        return None
    return weights.astype(np.float32), np.broadcast_to(bias, weights.shape[1:]).astype(np.float32)


def _array(tensor: Tensor) -> Float[np.ndarray, "..."]:
    return tensor.detach().cpu().double().numpy()
