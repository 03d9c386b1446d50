"""Costs of operations against the parameters and the counted products of real networks."""

import pytest

from nas import Cell, Genotype, Step
from nas.cost import Cost, operation_cost
from nas.primitives import OPERATIONS

from .costs import compact_cost

WIDTHS = {"visual/a": 6, "visual/b": 5, "audio/a": 7, "audio/b": 4}
C, L = 8, 4


def cost_with(name):
    """Return what the compact network of an architecture costs, one step of which is the named operation."""
    steps = (Step(x="x", y="y", operation="ConcatFC"), Step(x="step1", y="y", operation=name))
    return compact_cost(Genotype(cells=(Cell(x="visual/a", y="audio/b", steps=steps),)), WIDTHS, channels=C, length=L)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_costs_what_a_network_has_and_computes_for_it(name):
    beside, without = cost_with(name), cost_with("Sum")
    parameters, macs = beside.parameters - without.parameters, beside.macs - without.macs
    assert operation_cost(name, C, L) == Cost(parameters, macs)


def test_operations_cost_what_their_formulas_say():
    assert operation_cost("Sum", 128, 8) == Cost(0, 0)
    assert operation_cost("ScaledDotAttn", 128, 8) == Cost(2 * 128 * 8, 2 * 8 * 8 * 128)
    assert operation_cost("LinearGLU", 128, 8) == Cost(256 * 256 + 512, 256 * 256 * 8)
    assert operation_cost("ConcatFC", 128, 8) == Cost(256 * 128 + 256, 256 * 128 * 8)
