"""GlaViTU by itself: shapes, gradients, what each part sees, and its parts against textbook forms."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from glacier.model.glavitu import Fusion, GlaViTU, Location, Overview, resized

ROLES = ["optical", "thermal", "optical", "texture", "optical"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def made(roles=ROLES, classes=4, window=64, **options) -> GlaViTU:
    return GlaViTU(roles, classes, window, **options)


@pytest.mark.parametrize(
    ("roles", "classes", "window", "shape"),
    [
        (["optical"], 2, 32, (32, 32)),
        (["optical"] * 3 + ["other"], 3, 64, (64, 64)),
        (ROLES, 4, 64, (32, 96)),
        (["texture", "terrain", "thermal", "optical", "other"], 5, 32, (64, 32)),
        (["optical"] * 9 + ["thermal"] * 2 + ["terrain"] * 2 + ["texture"] * 2, 10, 96, (32, 64)),
    ],
)
def test_any_window_of_32_px_any_bands_any_classes(roles, classes, window, shape):
    """Whatever the side it was made for; in training mode a pair."""
    net = made(roles, classes, window)
    image = torch.randn(2, len(roles), *shape)
    with torch.no_grad():
        pair = net(image)
        alone = net.eval()(image)
    assert isinstance(pair, tuple)
    assert [head.shape for head in (*pair, alone)] == [(2, classes, *shape)] * 3
    assert all(head.isfinite().all() for head in (*pair, alone))


@pytest.mark.parametrize("located", [False, True])
def test_a_gradient_other_than_0_reaches_every_parameter(located):
    """Ranks would wait for one that gets none."""
    net = made(window=32, located=located)
    told = (torch.tensor([[86.9, 28.0], [-70.0, -33.0]]),) if located else ()
    scores, auxiliary = net(torch.randn(2, len(ROLES), 32, 32), *told)
    (scores.square().sum() + auxiliary.square().sum()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_the_auxiliary_head_sees_the_first_stage_alone():
    net = made(window=32)
    _, auxiliary = net(torch.randn(2, len(ROLES), 32, 32))
    auxiliary.sum().backward()
    reached = {name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None}
    assert reached == {"fusion", "overview", "auxiliary_head"}


def far_change(overview: Overview) -> float:
    """How much stage 1's last corner changes with the first corner's pixels, 7 tokens away."""
    fused = torch.randn(1, 64, 128, 128)
    other = fused.clone()
    other[:, :, :16, :16] += 1
    with torch.no_grad():
        return float((overview(other) - overview(fused))[:, :, -16:, -16:].abs().max())


def test_attention_looks_over_the_whole_window():
    """Without its blocks, what is left of the stage does not see that far."""
    overview = Overview(8).eval()
    assert far_change(overview) > 1e-4
    overview.blocks = nn.Identity()
    assert far_change(overview) == 0


def tokens(overview: Overview, fused: Tensor) -> Tensor:
    """What the blocks make of the tokens (N, token, 64)."""
    found = []
    hook = overview.norm.register_forward_hook(lambda module, given, out: found.append(out))
    with torch.no_grad():
        overview(fused)
    hook.remove()
    return found[0]


def test_tokens_know_where_they_are():
    """Turned upside down, tokens are the same in another order only once positions are gone."""
    overview = Overview(2).eval()
    fused = torch.randn(1, 64, 2, 2).repeat_interleave(16, 2).repeat_interleave(16, 3)
    one, two = tokens(overview, fused), tokens(overview, fused.flip(2, 3)).flip(1)
    assert (one - two).abs().max() > 1e-3
    nn.init.zeros_(overview.positions)
    one, two = tokens(overview, fused), tokens(overview, fused.flip(2, 3)).flip(1)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def keys(values, size):
    """Rows of values (h, …) by Keys's kernel (1981) with a = -0.75, sides and not centres aligned."""
    a, h = -0.75, len(values)
    found = np.zeros((size, *values.shape[1:]))
    for i in range(size):
        at = (i + 0.5) * h / size - 0.5
        for place in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            x = abs(at - place)
            near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
            found[i] += (near if x <= 1 else far) * values[min(max(place, 0), h - 1)]
    return found


@pytest.mark.parametrize("shape", [(8, 8), (2, 2), (6, 3)])
def test_positions_for_another_window_are_interpolated(shape):
    positions = torch.randn(1, 64, 4, 4, dtype=torch.float64)
    down = keys(positions[0].permute(1, 2, 0).numpy(), shape[0])
    across = keys(down.swapaxes(0, 1), shape[1])
    found = resized(positions, shape)[0].permute(2, 1, 0)
    np.testing.assert_allclose(found.numpy(), across, atol=1e-12)


def test_positions_at_the_windows_own_size_are_added_as_they_are():
    overview, fused, given = Overview(2).eval(), torch.randn(1, 64, 32, 32), []
    assert resized(overview.positions, (2, 2)) is overview.positions
    overview.blocks.register_forward_hook(lambda module, inputs, out: given.append(inputs[0]))
    with torch.no_grad():
        overview(fused)
        expected = overview.embedding(fused) + overview.positions
    assert torch.equal(given[0], expected.flatten(2).transpose(1, 2))


def test_branches_are_squeeze_and_excitation_over_their_concatenation():
    """One squeeze, one excitation and one convolution, as Hu, Shen and Sun draw them."""
    fusion = Fusion(ROLES).eval()
    image = torch.randn(2, len(ROLES), 32, 32)
    roles = [*dict.fromkeys(ROLES)]
    branches = [fusion.branches[role] for role in roles]
    with torch.no_grad():
        seen = [image[:, [r == role for r in ROLES]] for role in roles]
        whole = torch.cat([b.convolutions(s) for b, s in zip(branches, seen, strict=True)], dim=1)
        squeeze = torch.cat([b.squeeze.weight for b in branches], dim=1)
        bias = torch.stack([b.squeeze.bias for b in branches]).sum(dim=0)
        squeezed = functional.linear(whole.mean(dim=(2, 3)), squeeze, bias).relu()
        excite = torch.cat([b.excite.weight for b in branches])
        gate = functional.linear(squeezed, excite, torch.cat([b.excite.bias for b in branches])).sigmoid()
        fuse = torch.cat([b.fuse.weight for b in branches], dim=1)
        expected = fusion.norm(functional.conv2d(whole * gate[:, :, None, None], fuse))
        torch.testing.assert_close(fusion(image), functional.leaky_relu(expected))


def test_a_place_is_the_same_whichever_way_around_the_earth_it_is_counted():
    location = Location()
    with torch.no_grad():
        east, west, there = location(torch.tensor([[180.0, 51.0], [-180.0, 51.0], [0.0, 51.0]]))
    torch.testing.assert_close(east, west)
    assert (east - there).abs().max() > 0.01


@pytest.mark.parametrize("located", [False, True])
def test_the_place_counts_where_the_network_is_told(located):
    net = made(window=32, located=located).eval()
    image = torch.randn(1, len(ROLES), 32, 32)
    with torch.no_grad():
        one, two = (net(image, torch.tensor([[86.9, latitude]])) for latitude in (28.0, -28.0))
    assert torch.equal(one, two) != located
