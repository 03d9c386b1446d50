"""What every fusion operation must do, as a test class to subclass: `class TestMine(Conformance): operation = Mine`."""

import pytest
import torch
from torch import Tensor

from nas.layers import EVALUATION, Pass, initialise_blocks
from nas.primitives import Operation
from nas.random import Dropout

from .synthetic import HERE

R, B, L, C = 3, 6, 5, 8
BATCH = Pass("batch")


def build(kind: type[Operation], seeds: tuple[int, ...] = tuple(range(R)), channels: int = C) -> Operation:
    """Return an operation with one run per seed, no parameter of which is 0 or 1 by design."""
    module = kind(len(seeds), channels, L)
    initialise_blocks(module, lambda _: seeds)
    with torch.no_grad():
        for parameter in module.parameters():
            for row, seed in zip(parameter, seeds, strict=True):
                row.add_(torch.randn(row.shape, generator=torch.Generator().manual_seed(seed)), alpha=0.1)
    return module


def inputs(channels: int = C, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return x and y (R, B, L, C)."""
    source = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, R, B, L, channels, generator=source))  # type: ignore[return-value]


class Conformance:
    """Subclass it and set `operation`."""

    operation: type[Operation]

    @pytest.mark.parametrize("channels", [C, 1])
    def test_gives_the_shape_of_its_inputs(self, channels):
        out = build(self.operation, channels=channels)(*inputs(channels), BATCH, "site")
        assert out.shape == (R, B, L, channels)
        assert out.isfinite().all()

    def test_has_a_runs_axis_in_everything_it_keeps(self):
        module = build(self.operation)
        assert all(value.shape[0] == R for value in module.state_dict().values())

    @pytest.mark.parametrize("statistics", ["batch", "running"])
    def test_a_run_computes_what_it_computes_alone(self, statistics):
        x, y = inputs()
        together = build(self.operation, (5, 6, 7))(x, y, Pass(statistics), "site")
        alone = build(self.operation, (6,))(x[1:2], y[1:2], Pass(statistics), "site")
        torch.testing.assert_close(together[1:2], alone, rtol=1e-5, atol=1e-5)

    def test_a_run_drops_what_it_drops_alone(self):
        x, y = inputs()
        together = build(self.operation, (5, 6, 7))(x, y, Pass("batch", Dropout((5, 6, 7), 0.5, HERE)), "site")
        alone = build(self.operation, (6,))(x[1:2], y[1:2], Pass("batch", Dropout((6,), 0.5, HERE)), "site")
        torch.testing.assert_close(together[1:2], alone, rtol=1e-5, atol=1e-5)

    def test_a_window_is_scored_by_itself_in_evaluation(self):
        x, y = inputs()
        module = build(self.operation)
        whole = module(x, y, EVALUATION, "site")
        torch.testing.assert_close(module(x[:, 2:4], y[:, 2:4], EVALUATION, "site"), whole[:, 2:4])

    def test_evaluation_uses_the_statistics_that_training_moved(self):
        x, y = inputs()
        module = build(self.operation)
        for _ in range(200):
            expected = module(x, y, Pass("track"), "site")
        # The running variance is the unbiased one: N / (N - 1) of the batch's.
        torch.testing.assert_close(module(x, y, EVALUATION, "site"), expected, rtol=0.05, atol=0.05)

    def test_every_parameter_and_both_inputs_get_the_gradient_of_finite_differences(self):
        module = build(self.operation).double()
        x, y = (z.double().requires_grad_() for z in inputs())
        direction = torch.randn(R, B, L, C, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

        def loss() -> Tensor:
            return (module(x, y, BATCH, "site") * direction).sum()

        wanted = [x, y, *module.parameters()]
        gradients = torch.autograd.grad(loss(), wanted)
        for tensor, gradient in zip(wanted, gradients, strict=True):
            assert (gradient != 0).any()
            step = torch.randn(tensor.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
            with torch.no_grad():
                tensor.add_(step, alpha=1e-6)
                above = loss()
                tensor.sub_(step, alpha=2e-6)
                below = loss()
                tensor.add_(step, alpha=1e-6)
            torch.testing.assert_close((gradient * step).sum(), (above - below) / 2e-6, rtol=1e-4, atol=1e-6)
