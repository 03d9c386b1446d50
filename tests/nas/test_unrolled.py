"""The second-order gradient against the exact one of a small bilevel problem, by autograd and by differences."""

import torch

from nas.unrolled import unrolled_gradient

R, W, A = 3, 4, 2


def problem():
    source = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(R, W, generator=source, dtype=torch.float64))]
    choices = [torch.nn.Parameter(torch.randn(R, A, generator=source, dtype=torch.float64))]
    mix = torch.randn(A, W, generator=source, dtype=torch.float64)

    def losses(w, a, target):
        return ((w * (a @ mix).sigmoid() - target).square() * w.cos().exp()).sum(1) + 0.1 * a.square().sum(1)

    return weights, choices, losses


LR = torch.tensor([0.3, 0.05, 0.0], dtype=torch.float64)
TRAIN, VAL = 0.7, -0.4


def unrolled_loss(w, a, losses):
    (step,) = torch.autograd.grad(losses(w, a, TRAIN).sum(), w, create_graph=True)
    return losses(w - LR[:, None] * step, a, VAL)


def compute():
    weights, choices, losses = problem()
    before = weights[0].detach().clone()
    values, gradient = unrolled_gradient(
        weights,
        choices,
        lambda: losses(weights[0], choices[0], TRAIN),
        lambda: losses(weights[0], choices[0], VAL),
        LR,
    )
    assert torch.equal(weights[0], before), "the weights are put back"
    return weights[0], choices[0], losses, values, gradient[0]


def test_it_is_the_derivative_through_the_weight_step():
    w, a, losses, values, gradient = compute()
    exact = unrolled_loss(w, a, losses)
    torch.testing.assert_close(values, exact.detach())
    (expected,) = torch.autograd.grad(exact.sum(), a)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)
    (first_order,) = torch.autograd.grad(losses(w, a, VAL).sum(), a)
    assert (gradient[0] - first_order[0]).norm() > 0.1 * first_order[0].norm(), "the order makes a difference here"


def test_it_agrees_with_finite_differences_of_the_unrolled_loss():
    """Five lines that catch a slip of precedence: an architecture parameter up, down, the slope between."""
    w, a, losses, _, gradient = compute()
    for k in range(A):
        shift = torch.zeros(R, A, dtype=torch.float64)
        shift[:, k] = 1e-5
        slope = (unrolled_loss(w, a + shift, losses) - unrolled_loss(w, a - shift, losses)) / 2e-5
        torch.testing.assert_close(gradient[:, k], slope.detach(), rtol=1e-3, atol=1e-5)


def test_without_a_step_it_is_the_first_order_gradient():
    w, a, losses, _, gradient = compute()
    (first_order,) = torch.autograd.grad(losses(w, a, VAL).sum(), a)
    torch.testing.assert_close(gradient[2], first_order[2])
