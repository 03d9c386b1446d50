"""Folding: what is folded, what is left alone, and that nobody can tell from the outputs."""

import pytest
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.backbones.fusing import fuse_conv_bn, largest_error, relative_error

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def lived(net: nn.Module) -> nn.Module:
    """The network with statistics, weights and biases as if it had been trained."""
    g = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            for tensor, spread in ((module.running_mean, 0.3), (module.bias, 0.2)):
                if tensor is not None:
                    tensor.data.normal_(0, spread, generator=g)
            for tensor in (module.running_var, module.weight):
                if tensor is not None:
                    tensor.data.uniform_(0.5, 1.5, generator=g)
    return net.eval()


class Listed(nn.Module):
    """A network that gives a list of one map."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.Sequential(*parts)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.parts(x)]


def norms(net: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in net.modules())


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet34", "regnety_002", "mobilenetv3_small_050"])
def test_timms_networks_keep_their_outputs(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = lived(timm.create_model(name, features_only=True))
    before = {key: x.clone() for key, x in plain.state_dict().items()}
    with torch.inference_mode():
        fused = fuse_conv_bn(plain, X[:1])
        assert norms(fused) == 0 < norms(plain)
        assert largest_error(fused(X), plain(X)) < 1e-4
    assert all(torch.equal(x, before[key]) for key, x in plain.state_dict().items())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_biases_and_norms_without_weights(bias: bool, affine: bool) -> None:
    plain = lived(Listed(nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4, affine=affine)))
    fused = fuse_conv_bn(plain, X[:1])
    assert norms(fused) == 0
    with torch.inference_mode():
        assert largest_error(fused(X), plain(X)) < 1e-6


def test_grouped_and_three_dimensional_convolutions() -> None:
    plain = lived(Listed(nn.Conv3d(4, 8, 3, groups=2), nn.BatchNorm3d(8), nn.ReLU(inplace=True)))
    x = torch.randn(1, 4, 5, 6, 6)
    fused = fuse_conv_bn(plain, x)
    assert norms(fused) == 0
    with torch.inference_mode():
        assert largest_error(fused(x), plain(x)) < 1e-6


def test_a_norm_that_does_not_read_a_convolution_stays() -> None:
    plain = lived(Listed(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)))
    assert norms(fuse_conv_bn(plain, X)) == 1


def test_a_convolution_that_runs_twice_stays() -> None:
    conv = nn.Conv2d(3, 3, 3)
    plain = lived(Listed(conv, nn.BatchNorm2d(3), conv, nn.BatchNorm2d(3)))
    assert norms(fuse_conv_bn(plain, X)) == 2


def test_batch_statistics_stay() -> None:
    plain = lived(Listed(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)))
    assert norms(fuse_conv_bn(plain, X)) == 1


class Peeks(nn.Module):
    """Reads the convolution's output a second time, in front of the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        y = self.conv(x)
        return [self.norm(y), y]


def test_a_network_that_folding_would_change_is_left_as_it_is() -> None:
    plain = lived(Peeks())
    assert fuse_conv_bn(plain, X) is plain


def test_relative_error_is_of_the_largest_value() -> None:
    assert relative_error(torch.tensor([1.0, 3.9]), torch.tensor([1.1, 4.0])) == pytest.approx(0.1 / 4)
