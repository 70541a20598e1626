"""Floating-point operations of a call, counted exactly."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from advlens.models import Classifier
from advlens.models.resnet import CifarResNet
from advlens.prepared import Prepared, prepare


class _Flops(TorchDispatchMode):
    """torch's own counts; its FlopCounterMode also tracks modules and refuses autograd.grad."""

    total = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        count = flop_registry.get(operator._overloadpacket)
        self.total += count(*args, **(kwargs or {}), out_val=result) if count else 0
        return result


def flops(call: Callable[[], object]) -> int:
    """Multiplications and additions in convolutions and matrix products, backward ones as well."""
    with _Flops() as counter:
        call()
    return counter.total


def counted_resnet(count: int) -> tuple[Prepared, Tensor, int]:
    """A prepared ResNet with projection shortcuts, images, and the operations of one's pass."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = CifarResNet((1, 1), (4, 8), "projection")
    images = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = prepare(Classifier(network, name="tiny", image_size=16), images)
    with torch.no_grad():
        return model, images, flops(lambda: model(images[:1]))
