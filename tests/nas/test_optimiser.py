"""The optimiser of R runs against one of torch's per run."""

import torch
from torch import nn

from nas import SearchConfig
from nas.memory import _LiveTensors
from nas.optimiser import FEW, Adam, WeightOptimiser

R = 3
SHAPES = [(4, 3), (5,), (1, 2, 2)]


def parameters():
    source = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(R, *shape, generator=source)) for shape in SHAPES]


def gradient(parameter, step):
    """Return the gradient of a quadratic that changes with every step."""
    return 2 * parameter + torch.sin(torch.arange(parameter.numel()).view(parameter.shape) + step)


def test_every_run_is_optimised_as_by_an_adam_of_its_own():
    lr, betas, decay = [1e-2, 1e-3, 0.1], [(0.9, 0.999), (0.5, 0.999), (0.9, 0.9)], [0.0, 3e-4, 0.1]
    held = parameters()
    alone = [[nn.Parameter(p[r].detach().clone()) for p in held] for r in range(R)]
    ours = Adam(held, lr=lr, betas=betas, weight_decay=decay)
    theirs = [torch.optim.Adam(alone[r], lr=lr[r], betas=betas[r], weight_decay=decay[r]) for r in range(R)]
    for step in range(20):
        # Transposed in memory, as the gradient of a matrix product may be.
        gradients = [gradient(p.detach(), step) for p in held]
        gradients[0] = gradients[0].mT.contiguous().mT
        for r, optimiser in enumerate(theirs):
            for parameter, of_all in zip(alone[r], gradients, strict=True):
                parameter.grad = of_all[r].contiguous()
            optimiser.step()
        ours.step(gradients)
        for r in range(R):
            for mine, reference in zip(held, alone[r], strict=True):
                torch.testing.assert_close(mine[r], reference, rtol=1e-6, atol=1e-6)


def test_one_setting_serves_all_runs():
    held = parameters()
    before = [p.detach().clone() for p in held]
    Adam(held, lr=[1e-2], betas=[(0.9, 0.999)], weight_decay=[0.0]).step([torch.ones_like(p) for p in held])
    for now, then in zip(held, before, strict=True):
        torch.testing.assert_close(now.detach(), then - 1e-2)


def test_the_schedule_is_torchs_cosine_with_warm_restarts_per_run():
    configs = [
        SearchConfig(weight_lr=1e-2, weight_lr_min=1e-4, restart_epochs=2),
        SearchConfig(weight_lr=1e-3, weight_lr_min=0.0, restart_epochs=3, weight_decay=0.1),
        SearchConfig(),
    ]
    held = parameters()
    alone = [[nn.Parameter(p[r].detach().clone()) for p in held] for r in range(R)]
    ours = WeightOptimiser(held, configs, steps=4)
    theirs = []
    for r, config in enumerate(configs):
        adam = torch.optim.Adam(alone[r], lr=config.weight_lr, weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
            adam, T_0=4 * config.restart_epochs, eta_min=config.weight_lr_min
        )
        theirs.append((adam, schedule))

    def loss(given, step):
        return sum((p * gradient(p.detach(), step)).sum() for p in given)

    for step in range(25):
        for r, (adam, schedule) in enumerate(theirs):
            adam.zero_grad()
            for parameter, of_all in zip(alone[r], held, strict=True):
                parameter.grad = gradient(of_all.detach(), step)[r]
            adam.step()
            schedule.step()
        ours.next()
        ours.descend(loss(held, step))
        for r in range(R):
            for mine, reference in zip(held, alone[r], strict=True):
                torch.testing.assert_close(mine[r], reference, rtol=1e-5, atol=1e-6)


def test_a_descent_never_holds_all_gradients():
    count, size = 16, FEW // 4
    held = [nn.Parameter(torch.full((1, size), float(i))) for i in range(count)]
    before = [p.detach().clone() for p in held]
    adam = Adam(held, lr=[1e-2], betas=[(0.9, 0.999)], weight_decay=[0.0])
    with _LiveTensors() as tensors:
        adam.descend(sum((p * p).sum() for p in held))
    assert tensors.peak < 4 * size * count / 2
    for now, then in zip(held[1:], before[1:], strict=True):
        torch.testing.assert_close(now.detach(), then - 1e-2)
    assert all(p.grad is None for p in held)
