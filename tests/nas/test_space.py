"""One description of a space: size, neighbours, samples; canonical forms are equal exactly where functions are."""

import itertools
import random
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas import Cell, CompactNetwork, Genotype, Step
from nas.primitives import OPERATIONS
from nas.space import Space, canonical

LAYERS = tuple(f"{modality}/l{i}" for modality in ("visual", "audio") for i in range(4))
WIDTHS = dict.fromkeys(LAYERS, 5)
C, L, B = 4, 3, 6


@pytest.mark.parametrize(
    ("kind", "steps", "derivable", "functions"),
    [("bmnas", 1, 112, 112), ("bmnas", 2, 1344, 1176), ("slots", 1, 448, 280), ("slots", 2, 10_752, 3640)],
)
def test_counts_of_eight_layers_and_one_cell(kind, steps, derivable, functions):
    space = Space(LAYERS, steps=steps, kind=kind)
    assert sum(1 for _ in space.genotypes()) == derivable
    assert len(space.distinct()) == functions


def test_two_cells_never_read_the_same_pair_and_are_counted_once_in_either_order():
    space = Space(LAYERS[:3], cells=2, kind="bmnas", operations=("Sum",))
    pairs = [[(cell.x, cell.y) for cell in genotype.cells] for genotype in space.genotypes()]
    # The second cell reads another of the 3 pairs, or the first cell and one of 3 layers.
    assert len(pairs) == 3 * (2 + 3)
    assert len(space.distinct()) == 3 + 3 * 3


def scrambled(genotype, source):
    """The same function written down otherwise, and where the steps and swaps of every cell went."""
    cells, moves = [], []
    for cell in genotype.cells:
        order = topological(cell.steps, source)
        new = {f"step{old + 1}": f"step{position + 1}" for position, old in enumerate(order)}
        steps, swaps = [], []
        for old in order:
            step = cell.steps[old]
            x, y = new.get(step.x, step.x), new.get(step.y, step.y)
            swaps.append(OPERATIONS[step.operation].symmetric and source.random() < 0.5)
            steps.append(Step(x=y if swaps[-1] else x, y=x if swaps[-1] else y, operation=step.operation))
        cells.append(Cell(x=cell.x, y=cell.y, steps=tuple(steps)))
        moves.append((order, swaps))
    return Genotype(cells=tuple(cells)), moves


def topological(steps, source):
    left, order = list(range(len(steps))), []
    while left:
        ready = [t for t in left if all(int(n[4:]) - 1 in order for n in (steps[t].x, steps[t].y) if n[:4] == "step")]
        order.append(source.choice(ready))
        left.remove(order[-1])
    return order


def mapped(network, scrambled_network, moves):
    """Give the scrambled network the weights of the first, permuted as its nodes were."""
    state = network.state_dict()
    renamed = {}
    for name in scrambled_network.state_dict():
        parts = name.split(".")
        if "steps" not in parts and not name.endswith("step_weights"):
            renamed[name] = state[name]
            continue
        order, swaps = moves[int(parts[parts.index("cells") + 1])]
        if name.endswith("step_weights"):
            renamed[name] = state[name][:, :, order]
            continue
        position = parts.index("steps") + 1
        t = int(parts[position])
        parts[position] = str(order[t])
        exchanged = {"gate_x": "gate_y", "gate_y": "gate_x", "left": "right", "right": "left"} if swaps[t] else {}
        value = state[".".join(exchanged.get(part, part) for part in parts)]
        if swaps[t] and parts[position + 2] in ("LinearGLU", "ConcatFC") and parts[-2] == "convolution":
            half = value.shape[2] // 2
            value = torch.cat([value[:, :, half:], value[:, :, :half]], dim=2)
        renamed[name] = value
    scrambled_network.load_state_dict(renamed)


def compact(genotype, seed=0):
    network = CompactNetwork(genotype, WIDTHS, channels=C, length=L)
    source = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=source)
    return network


def windows():
    source = torch.Generator().manual_seed(1)
    return {name: torch.randn(B, L, 5, generator=source) for name in LAYERS}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 100_000), cells=st.integers(1, 2), steps=st.integers(1, 4))
def test_equal_canonical_forms_are_the_same_function_under_mapped_weights(seed, cells, steps):
    genotype = Space(LAYERS[:3], cells=cells, steps=steps, operations=tuple(OPERATIONS)).sample(1, seed)[0]
    other, moves = scrambled(genotype, random.Random(seed))  # noqa: S311
    assert canonical(other) == canonical(genotype) == canonical(canonical(genotype))
    one, two = compact(genotype), compact(other)
    mapped(one, two, moves)
    torch.testing.assert_close(two(windows()), one(windows()), rtol=1e-4, atol=1e-4)


def test_different_canonical_forms_are_different_functions():
    """Brute force for T = 2: no order of the steps and no exchange of inputs makes two of them equal."""
    forms = Space(LAYERS[:2], steps=2).distinct()
    x = windows()
    outputs = {genotype: compact_of_shared(genotype)(x) for genotype in forms}
    written = {genotype: every_writing(genotype) for genotype in forms}
    for one, two in itertools.combinations(forms, 2):
        assert not written[one] & written[two]
        assert not torch.allclose(outputs[one], outputs[two], atol=1e-4)


def compact_of_shared(genotype):
    """All genotypes get the weights of one supernet, and the steps of one kind equal ones: only structure differs."""
    source = {}
    network = CompactNetwork(genotype, WIDTHS, channels=C, length=L)
    for name, parameter in network.named_parameters():
        key = name.replace("steps.1", "steps.0")
        if key not in source:
            seed = sum(key.encode())
            source[key] = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        parameter.data = source[key].clone()
    return network


def every_writing(genotype):
    found = set()
    (cell,) = genotype.cells
    for order in itertools.permutations(range(len(cell.steps))):
        new = {f"step{old + 1}": f"step{position + 1}" for position, old in enumerate(order)}
        written = []
        for old in order:
            step = cell.steps[old]
            pair = (new.get(step.x, step.x), new.get(step.y, step.y))
            both = OPERATIONS[step.operation].symmetric
            written.append([(*p, step.operation) for p in ((pair, pair[::-1]) if both else (pair,))])
        found |= {(cell.x, cell.y, steps) for steps in itertools.product(*written)}
    return found


def test_tied_steps_that_are_read_in_different_ways_are_told_apart():
    def cell(*steps):
        return Genotype(
            cells=(Cell(x=LAYERS[0], y=LAYERS[4], steps=tuple(Step(x=a, y=b, operation=o) for a, b, o in steps)),)
        )

    twins = (("x", "y", "ConcatFC"), ("x", "y", "ConcatFC"))
    one_reader = cell(*twins, ("step1", "x", "Sum"), ("step1", "y", "Sum"))
    other_name = cell(*twins, ("step2", "y", "Sum"), ("x", "step2", "Sum"))
    two_readers = cell(*twins, ("step1", "x", "Sum"), ("step2", "y", "Sum"))
    assert canonical(one_reader) == canonical(other_name) != canonical(two_readers)
    assert canonical(cell(*[("x", "y", "Sum")] * 12)) == cell(*[("x", "y", "Sum")] * 12)


def test_a_sample_is_distinct_stratified_and_repeatable():
    space = Space(LAYERS, cells=2, steps=2)
    chosen = space.sample(512, seed=1)
    assert chosen == space.sample(512, seed=1) != space.sample(512, seed=2)
    assert len({canonical(genotype) for genotype in chosen}) == 512
    counts = [
        sum(step.operation == name for g in chosen for c in g.cells for step in c.steps) for name in space.operations
    ]
    assert max(counts) < 1.3 * min(counts)
    assert len(Space(LAYERS[:2]).sample(100, seed=0)) == len(Space(LAYERS[:2]).distinct()) == 10


@pytest.mark.parametrize("steps", [31, 32, 64])
def test_spaces_of_any_number_of_steps_are_sampled(steps):
    space = Space(LAYERS[:2], steps=steps)
    chosen = space.sample(4, seed=1)
    assert len({canonical(genotype) for genotype in chosen}) == 4
    assert chosen == space.sample(4, seed=1)
    assert all(len(genotype.cells[0].steps) == steps for genotype in chosen)


def one_cell(*steps):
    return Genotype(
        cells=(Cell(x=LAYERS[0], y=LAYERS[4], steps=tuple(Step(x=a, y=b, operation=o) for a, b, o in steps)),)
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_canonical_forms_are_equal_exactly_where_one_writing_is_the_others(data):
    """Brute force over all orders of four or five steps and all exchanges of inputs, where many are alike."""
    steps = data.draw(st.integers(3, 5))

    def draw():
        inputs = [["x", "y", *(f"step{i + 1}" for i in range(t))] for t in range(steps)]
        pairs = [data.draw(st.permutations(names))[:2] for names in inputs]
        return one_cell(*((x, y, data.draw(st.sampled_from(["Sum", "ScaledDotAttn"]))) for x, y in pairs))

    one, two = draw(), draw()
    (cell,) = canonical(two).cells
    writing = (cell.x, cell.y, tuple((step.x, step.y, step.operation) for step in cell.steps))
    assert writing in every_writing(two)
    assert (writing in every_writing(one)) == (canonical(one) == canonical(two))


def joined(edges, seed):
    """Return a cell of tied steps, as many as `edges` join, and one Sum per edge, numbered at random."""
    source = random.Random(seed)  # noqa: S311
    tied = sorted({end for edge in edges for end in edge})
    source.shuffle(tied)
    names = {end: f"step{place + 1}" for place, end in enumerate(tied)}
    sums = [(*source.sample([names[a], names[b]], 2), "Sum") for a, b in source.sample(edges, len(edges))]
    return one_cell(*[("x", "y", "ConcatFC")] * len(tied), *sums)


def ring(first, length):
    return [(first + i, first + (i + 1) % length) for i in range(length)]


def test_tied_steps_whose_readers_are_tied_themselves_are_told_apart():
    """Every step looks like every other to its readers, their readers and so on, though some are in smaller rings."""
    graphs = [ring(0, 7), ring(0, 3) + ring(3, 4), ring(0, 6) + ring(6, 3), ring(0, 5) + ring(5, 4), ring(0, 9)]
    forms = [{canonical(joined(edges, seed)) for seed in range(6)} for edges in graphs]
    assert [len(form) for form in forms] == [1] * 5
    assert len(set.union(*forms)) == 5


@pytest.mark.parametrize("shape", ["one of each pair is read", "pairs are read in turn", "rows of their own"])
def test_a_canonical_form_of_many_tied_steps_takes_no_time(shape):
    steps, n = [], 15
    for i in range(n):
        x = f"step{3 * i}" if i else "x"
        if shape == "one of each pair is read":
            steps += [(x, "y", "ConcatFC"), (x, "y", "ConcatFC"), (f"step{3 * i + 1}", "y", "LinearGLU")]
        elif shape == "pairs are read in turn":
            steps += [
                (x, "y", "ConcatFC"),
                (x, "y", "ConcatFC"),
                (f"step{3 * i + 1}", f"step{3 * i + 2}", "ScaledDotAttn"),
            ]
        else:
            steps += [("x", "y", "ConcatFC"), (f"step{2 * i + 1}", "x", "LinearGLU")]
    start = time.process_time()
    form = canonical(one_cell(*steps))
    assert canonical(form) == form
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize("kind", ["slots", "bmnas"])
@pytest.mark.parametrize(("cells", "steps", "operations"), [(1, 2, ("Sum", "ConcatFC")), (2, 1, ("ConcatFC",))])
def test_neighbours_are_of_the_space_differ_in_one_node_and_reach_every_genotype(kind, cells, steps, operations):
    space = Space(("visual/l0", "visual/l1", "audio/l0"), cells, steps, kind, operations)
    every = set(space.genotypes())
    start = next(space.genotypes())
    reached, pending = {start}, [start]
    while pending:
        genotype = pending.pop()
        beside = space.neighbours(genotype)
        assert len(set(beside)) == len(beside)
        assert set(beside) <= every - {genotype}
        assert all(changed_nodes(genotype, other) == 1 for other in beside)
        pending += set(beside) - reached
        reached |= set(beside)
    assert reached == every


def changed_nodes(one, other):
    """In how many of its pairs of inputs and operations a genotype differs from another."""
    changed = 0
    for a, b in zip(one.cells, other.cells, strict=True):
        changed += (a.x, a.y) != (b.x, b.y)
        for s, t in zip(a.steps, b.steps, strict=True):
            changed += ((s.x, s.y) != (t.x, t.y)) + (s.operation != t.operation)
    return changed
