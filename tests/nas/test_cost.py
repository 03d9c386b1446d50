"""Costs against the parameters and the counted products of real networks."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nas import Cell, CompactNetwork, Genotype, Step
from nas.cost import Cost, genotype_cost, operation_cost
from nas.primitives import OPERATIONS

WIDTHS = {"visual/a": 6, "visual/b": 5, "audio/a": 7, "audio/b": 4}
C, L = 8, 4


def genotype(first, second):
    return Genotype(
        cells=(
            Cell(
                x="visual/a",
                y="audio/b",
                steps=(Step(x="x", y="y", operation=first), Step(x="step1", y="y", operation=second)),
            ),
            Cell(
                x="cell1",
                y="audio/b",
                steps=(Step(x="y", y="x", operation=second), Step(x="x", y="y", operation="Sum")),
            ),
        )
    )


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_genotype_costs_what_its_compact_network_has_and_computes(name):
    chosen = genotype("ConcatFC", name)
    network = CompactNetwork(chosen, WIDTHS, channels=C, length=L)
    cost = genotype_cost(chosen, WIDTHS, channels=C, length=L)
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    features = {layer: torch.randn(1, L, WIDTHS[layer]) for layer in chosen.layers()}
    with FlopCounterMode(display=False) as counter:
        network(features)
    # What the compact network multiplies beyond it are the one-hot mixes, n inputs x slots x C L each.
    inputs = sum(2 * len({cell.x, cell.y}) for cell in chosen.cells)
    inputs += sum(2 * len({step.x, step.y}) for cell in chosen.cells for step in cell.steps)
    blends = (inputs + 4 + 4) * C * L
    assert counter.get_total_flops() // 2 - cost.macs <= blends


def test_operations_cost_what_their_formulas_say():
    assert operation_cost("Sum", 128, 8) == Cost(0, 0)
    assert operation_cost("ScaledDotAttn", 128, 8) == Cost(2 * 128 * 8, 2 * 8 * 8 * 128)
    assert operation_cost("LinearGLU", 128, 8) == Cost(256 * 256 + 512, 256 * 256 * 8)
    assert operation_cost("ConcatFC", 128, 8) == Cost(256 * 128 + 256, 256 * 128 * 8)


def test_a_missing_layer_is_named():
    with pytest.raises(ValueError, match="visual/a"):
        genotype_cost(genotype("Sum", "Sum"), {"audio/b": 4}, channels=C, length=L)
