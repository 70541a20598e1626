"""A convolution that others read too keeps its own output."""

import torch
from torch import Tensor, nn

from advlens.prepared.forms import FORMS, make_copy


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        return (self.norm(maps) + maps).mean(dim=(2, 3))


def test_what_two_read_is_not_folded() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, images = Shared().eval(), torch.rand(2, 3, 6, 6)
    nn.init.constant_(model.norm.running_var, 4.0)
    copy = make_copy(model, FORMS[0])
    assert FORMS[0].folded
    assert copy.pairs == []
    with torch.no_grad():
        torch.testing.assert_close(copy.network(images), model(images), rtol=0, atol=1e-6)
