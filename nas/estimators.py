"""The estimators: logits of categorical choices -> mixing weights with the right gradient (DESIGN section 4).

Each is a pure function of (logits: (..., K), noise: (draws, ..., K), temperature) -> weights (..., K), where noise
holds draws of E ~ Exp(1); -log E is the standard Gumbel variable g. `draws(estimator, samples)` says how many.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nas.config import EstimatorName

Temperature = float | Tensor
"""lambda: one number, or a tensor that broadcasts against the logits."""


class _StraightThrough(torch.autograd.Function):
    """The hard value forwards, the gradient of the soft value backwards.

    `hard + soft - soft.detach()` is the usual form, but in floating point it is not exactly one-hot.
    """

    @staticmethod
    def forward(ctx: Any, hard: Tensor, soft: Tensor) -> Tensor:
        return hard.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


def _straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    result: Tensor = _StraightThrough.apply(hard, soft)
    return result


def one_hot_of_largest(scores: Tensor) -> Tensor:
    """Return one_hot(argmax(scores)) along the last axis, in the scores' dtype."""
    return torch.zeros_like(scores).scatter_(-1, scores.argmax(dim=-1, keepdim=True), 1.0)


def _perturbed(logits: Tensor, noise: Tensor) -> Tensor:
    """Return theta + g, (..., draws, K).

    The draws stand beside the options: what is added up over them, here and in the backward pass, is then added up for
    each choice by itself, in an order that does not depend on how many choices there are.
    """
    return (logits.unsqueeze(-2) - noise.log().movedim(0, -2)).contiguous()


def _soft(perturbed: Tensor, temperature: Temperature) -> Tensor:
    """Return softmax(perturbed / lambda) of (..., draws, K)."""
    of_draws = temperature.unsqueeze(-2) if isinstance(temperature, Tensor) else temperature
    return (perturbed / of_draws).softmax(dim=-1)


def softmax(logits: Tensor, noise: Tensor, temperature: Temperature) -> Tensor:
    """Return softmax(theta): the relaxation of DARTS and BM-NAS, without noise or temperature."""
    return logits.softmax(dim=-1)


def gumbel(logits: Tensor, noise: Tensor, temperature: Temperature) -> Tensor:
    """Return the mean over draws of softmax((theta + g) / lambda)."""
    return _soft(_perturbed(logits, noise), temperature).mean(dim=-2)


def st_gumbel(logits: Tensor, noise: Tensor, temperature: Temperature) -> Tensor:
    """Return the mean over draws of one_hot(argmax(theta + g)), differentiated as softmax((theta + g) / lambda)."""
    perturbed = _perturbed(logits, noise)
    return _straight_through(one_hot_of_largest(perturbed), _soft(perturbed, temperature)).mean(dim=-2)


def gumbel_rao(logits: Tensor, noise: Tensor, temperature: Temperature) -> Tensor:
    """Return D = one_hot(argmax(theta + g)), differentiated as the mean of softmax((theta + g') / lambda).

    The first draw decides D; each further one gives g' conditioned on D (Paulus et al., arXiv 2010.04838). g' is
    held constant in the backward pass, as g is in st_gumbel: the expected gradients are then the same.
    """
    chosen = one_hot_of_largest(logits.detach() - noise[0].log())
    fixed = conditional_perturbed(logits.detach(), chosen, noise[1:]) - logits.detach()
    soft = _soft((logits.unsqueeze(-2) + fixed.movedim(0, -2)).contiguous(), temperature).mean(dim=-2)
    return _straight_through(chosen, soft)


def conditional_perturbed(logits: Tensor, chosen: Tensor, noise: Tensor) -> Tensor:
    """Return theta + g' given that its argmax is the chosen option: (draws, ..., K), E from noise.

    theta_i + g_i = -log E_i + log Z; theta_j + g_j = -log(E_j / exp(theta_j) + E_i / Z). With theta replaced by
    log softmax(theta), Z = 1: nothing overflows, and the shift by log Z is added back.
    """
    log_z = logits.logsumexp(dim=-1, keepdim=True)
    probabilities = (logits - log_z).exp()
    of_chosen = (noise * chosen).sum(dim=-1, keepdim=True)
    others = torch.where(chosen > 0, 0.0, noise / probabilities)
    return log_z - (others + of_chosen).log()


def published(logits: Tensor, noise: Tensor, temperature: Temperature) -> Tensor:
    """Return what the method's released code makes of M draws: it divides by lambda once per draw, M times over.

    theta <- (theta + g) / lambda for each draw, then softmax. Nothing is straight-through, and the gradient falls as
    lambda^-M: the choices stay where they start (DESIGN section 5, point 1). For comparison only.
    """
    scaled = logits
    for drawn in noise:
        scaled = (scaled - drawn.log()) / temperature
    return scaled.softmax(dim=-1)


Estimator = Callable[[Tensor, Tensor, Temperature], Tensor]
ESTIMATORS: dict[EstimatorName, Estimator] = {
    "softmax": softmax,
    "gumbel": gumbel,
    "st_gumbel": st_gumbel,
    "gumbel_rao": gumbel_rao,
    "published": published,
}


def draws(estimator: EstimatorName, samples: int) -> int:
    """Return how many draws of noise the estimator takes for M samples."""
    return {"softmax": 0, "gumbel_rao": samples + 1}.get(estimator, samples)
