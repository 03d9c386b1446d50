"""Every estimator: the forward value, the gradient's size, mean and variance."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nas.choices import ESTIMATORS, conditional_perturbed, draws, one_hot_of_largest

K = 4
LOGITS = torch.tensor([0.6, -0.4, 0.1, 0.0], dtype=torch.float64)
COSTS = torch.tensor([1.0, 3.0, 0.0, 2.0], dtype=torch.float64)


def exponential(draw_count: int, batch: int, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.empty(draw_count, batch, K, dtype=torch.float64).exponential_(generator=source)


def gradients(name: str, temperature: float, samples: int, batch: int, seed: int = 0) -> Tensor:
    """Return `batch` independent gradients (batch, K) of the nonlinear loss sum(costs * weights)^2."""
    logits = LOGITS.expand(batch, K).clone().requires_grad_()
    weights = ESTIMATORS[name](logits, exponential(draws(name, samples), batch, seed), temperature)
    return torch.autograd.grad(((weights * COSTS).sum(-1) ** 2).sum(), logits)[0]


class TestEveryEstimator:
    @pytest.mark.parametrize("name", list(ESTIMATORS))
    def test_weights_are_a_distribution_with_the_shape_of_the_logits(self, name):
        logits = torch.randn(3, 2, K, requires_grad=True)
        noise = torch.empty(draws(name, 5), 3, 2, K).exponential_()
        weights = ESTIMATORS[name](logits, noise, 2.0)
        assert weights.shape == logits.shape
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2))
        assert (weights >= 0).all()
        weights[..., 0].sum().backward()
        assert torch.isfinite(logits.grad).all()
        assert (logits.grad[..., 0] > 0).all()

    @pytest.mark.parametrize("name", ["st_gumbel", "gumbel_rao"])
    @pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
    def test_one_hard_sample_is_one_hot_to_the_last_bit(self, name, temperature):
        weights = ESTIMATORS[name](torch.randn(2000, K), exponential(draws(name, 1), 2000).float(), temperature)
        assert ((weights == 0.0) | (weights == 1.0)).all()
        assert (weights.sum(-1) == 1.0).all()

    def test_hard_samples_follow_the_softmax(self):
        noise = exponential(1, 200_000)
        mean = ESTIMATORS["st_gumbel"](LOGITS.expand(200_000, K), noise, 10.0).mean(0)
        torch.testing.assert_close(mean, LOGITS.softmax(0), atol=5e-3, rtol=0)

    def test_samples_of_st_gumbel_are_averaged(self):
        noise = exponential(5, 7)
        logits = LOGITS.expand(7, K)
        single = [ESTIMATORS["st_gumbel"](logits, noise[m : m + 1], 2.0) for m in range(5)]
        torch.testing.assert_close(ESTIMATORS["st_gumbel"](logits, noise, 2.0), torch.stack(single).mean(0))

    def test_softmax_gradient_equals_finite_differences(self):
        logits = LOGITS.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda x: ESTIMATORS["softmax"](x, exponential(0, 1), 1.0), logits)

    def test_gumbel_gradient_equals_finite_differences(self):
        noise = exponential(3, 1)[:, 0]
        logits = LOGITS.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda x: ESTIMATORS["gumbel"](x, noise, 2.0), logits)


class TestStraightThroughGradient:
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0, 100.0])
    def test_is_the_gradient_of_the_softened_sample(self, temperature):
        """Reference: loss'(D) times the Jacobian of softmax((theta + g) / lambda), written out."""
        batch = 50
        noise = exponential(1, batch)
        perturbed = LOGITS - noise[0].log()
        soft = (perturbed / temperature).softmax(-1)
        hard = torch.nn.functional.one_hot(perturbed.argmax(-1), K).double()
        slope = 2 * (hard * COSTS).sum(-1, keepdim=True) * COSTS
        expected = soft * (slope - (soft * slope).sum(-1, keepdim=True)) / temperature
        torch.testing.assert_close(gradients("st_gumbel", temperature, 1, batch), expected)

    @pytest.mark.parametrize("samples", [1, 15])
    def test_shrinks_as_one_over_the_temperature_whatever_the_number_of_samples(self, samples):
        """The reference code divided by the temperature M times over: its gradient fell as lambda^-M."""
        at_10 = gradients("st_gumbel", 10.0, samples, 4000).mean(0).norm()
        at_100 = gradients("st_gumbel", 100.0, samples, 4000).mean(0).norm()
        assert at_10 / at_100 == pytest.approx(10.0, rel=0.15)
        assert at_10 > 1e-2

    def test_a_loss_that_prefers_one_option_moves_the_choice(self):
        """2,000 Adam steps at lambda = 10, M = 15: the reference code stays at 0.50000."""
        torch.manual_seed(0)
        logits = torch.zeros(2, requires_grad=True)
        adam = torch.optim.Adam([logits], lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
        for _ in range(2000):
            adam.zero_grad()
            (-ESTIMATORS["st_gumbel"](logits, torch.empty(15, 2).exponential_(), 10.0)[0]).backward()
            adam.step()
        assert logits.softmax(0)[0] > 0.72


class TestGumbelRao:
    @pytest.mark.parametrize("temperature", [0.5, 1.0])
    def test_has_the_expected_gradient_of_st_gumbel(self, temperature):
        batch = 200_000
        st_gumbel = gradients("st_gumbel", temperature, 1, batch)
        gumbel_rao = gradients("gumbel_rao", temperature, 4, batch, seed=1)
        error = ((st_gumbel.var(0) + gumbel_rao.var(0)) / batch).sqrt()
        assert ((st_gumbel.mean(0) - gumbel_rao.mean(0)).abs() < 4 * error).all()

    def test_has_a_variance_that_falls_with_the_number_of_samples(self):
        batch = 40_000
        reference = gradients("st_gumbel", 0.5, 1, batch).var(0).sum()
        variances = [gradients("gumbel_rao", 0.5, m, batch).var(0).sum() / reference for m in (1, 4, 64)]
        assert variances[0] == pytest.approx(1.0, abs=0.05)
        assert variances[1] < 0.95
        assert variances[2] < variances[1]

    def test_conditional_draws_have_the_distribution_of_draws_with_that_argmax(self):
        """Moments of theta + g' given D against rejection: unconditional draws sorted by their argmax."""
        perturbed = LOGITS - exponential(1, 400_000)[0].log()
        chosen = one_hot_of_largest(perturbed)
        for option in range(K):
            rejected = perturbed[chosen[:, option] > 0]
            fixed = torch.nn.functional.one_hot(torch.tensor(option), K).double().expand(100_000, K)
            conditional = conditional_perturbed(LOGITS, fixed, exponential(1, 100_000, seed=2))[0]
            torch.testing.assert_close(conditional.mean(0), rejected.mean(0), atol=0.03, rtol=0)
            torch.testing.assert_close(conditional.std(0), rejected.std(0), atol=0.03, rtol=0)

    @given(
        logits=st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=9),
        option=st.integers(0, 8),
        seed=st.integers(0, 2**32),
    )
    def test_conditional_draws_keep_the_choice(self, logits, option, seed):
        theta = torch.tensor(logits)
        chosen = torch.nn.functional.one_hot(torch.tensor(option % len(logits)), len(logits)).float()
        source = torch.Generator().manual_seed(seed)
        noise = torch.empty(16, len(logits)).exponential_(generator=source)
        perturbed = conditional_perturbed(theta, chosen, noise)
        assert (perturbed[:, option % len(logits)] == perturbed.max(-1).values).all()

    def test_survives_an_option_without_probability(self):
        logits = torch.tensor([200.0, 0.0, -200.0], requires_grad=True)
        weights = ESTIMATORS["gumbel_rao"](logits, torch.empty(5, 3).exponential_(), 1.0)
        weights[0].backward()
        assert torch.isfinite(logits.grad).all()


def test_exact_gradient_by_enumeration_has_the_sign_of_every_estimator():
    """For K options the exact gradient of E[loss] is sum_k loss_k dp_k; each estimator agrees in direction."""
    p = LOGITS.softmax(0)
    loss = COSTS**2
    exact = p * (loss - (p * loss).sum())
    for name in ("gumbel", "st_gumbel", "gumbel_rao"):
        mean = gradients(name, 1.0, 4, 20_000).mean(0)
        cosine = torch.nn.functional.cosine_similarity(mean, exact, dim=0)
        assert cosine > math.cos(math.radians(40)), name
