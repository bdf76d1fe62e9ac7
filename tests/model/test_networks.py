import pytest
import torch

from glacier.config import ModelConfig
from glacier.errors import UsageError
from glacier.model.networks import network


@pytest.mark.parametrize(
    ("arch", "encoder", "options"),
    [
        ("unet", "resnet18", {}),
        ("unet", "tu-tf_mobilenetv3_small_minimal_100", {"decoder_channels": (64, 48, 32, 24, 16)}),
        ("fpn", "resnet18", {}),
    ],
)
def test_networks_keep_the_windows_shape_and_every_trained_parameter_gets_a_gradient(
    arch, encoder, options
):
    settings = ModelConfig(arch=arch, encoder=encoder, **options)
    net = network(settings, roles=["optical"] * 5, classes=3, window=96)
    out = net(torch.randn(2, 5, 96, 64))
    assert out.shape == (2, 3, 96, 64)
    out.square().sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in net.parameters())


def test_the_default_network_has_the_size_it_is_said_to_have():
    net = network(ModelConfig(), roles=["optical"] * 7, classes=4, window=512)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(24.6e6, rel=0.01)


@pytest.mark.parametrize(("arch", "encoder"), [("unett", "resnet18"), ("unet", "resnet1800")])
def test_unknown_names_are_refused(arch, encoder):
    words = f"arch '{arch}' with encoder '{encoder}'.* cannot be made .*; expected glavitu, or names of seg"
    with pytest.raises(UsageError, match=words):
        network(ModelConfig(arch=arch, encoder=encoder), roles=["optical"] * 3, classes=2, window=64)
