"""The optimiser with settings per run against torch's own, run by run."""

import pytest
import torch

from nas.optimiser import Adam, CosineRestarts

R = 3
LR, LR_MIN, DECAY = [1e-2, 3e-3, 1e-1], [1e-4, 0.0, 1e-3], [0.0, 1e-2, 3e-4]


def start():
    source = torch.Generator().manual_seed(0)
    return [torch.randn(R, *shape, generator=source) for shape in ((4, 3), (), (2,))]


def test_every_run_moves_as_with_torchs_adam_and_cosine_schedule():
    ours = [torch.nn.Parameter(value.clone()) for value in start()]
    optimiser = Adam(ours, weight_decay=torch.tensor(DECAY), betas=(0.5, 0.99))
    schedule = CosineRestarts(torch.tensor(LR), torch.tensor(LR_MIN), period=5)
    theirs = [[torch.nn.Parameter(value[r].clone()) for value in start()] for r in range(R)]
    references = [torch.optim.Adam(theirs[r], lr=LR[r], betas=(0.5, 0.99), weight_decay=DECAY[r]) for r in range(R)]
    schedules = [
        torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(references[r], T_0=5, eta_min=LR_MIN[r]) for r in range(R)
    ]
    for _ in range(12):
        optimiser.step(sum(p.cos().sum() + p.square().sum() for p in ours), schedule.next())
        for r in range(R):
            references[r].zero_grad()
            sum(p.cos().sum() + p.square().sum() for p in theirs[r]).backward()
            references[r].step()
            schedules[r].step()
    for r in range(R):
        for mine, reference in zip(ours, theirs[r], strict=True):
            torch.testing.assert_close(mine[r], reference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("run", range(R))
def test_the_gradients_are_returned(run):
    parameter = torch.nn.Parameter(torch.ones(R, 2))
    gradients = Adam([parameter], weight_decay=torch.zeros(R)).step(3.0 * parameter.sum(), torch.zeros(R))
    assert gradients[0][run].tolist() == [3.0, 3.0]
