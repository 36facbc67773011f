"""A network on an accelerator for callers that keep their tensors on the host.

Samplers draw, count and look up in laws on the host; what is worth an accelerator is the network. `hosted` is the
border between the two: inputs go to the network's device, what it answers comes back, and gradients flow both ways.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["Hosted", "hosted"]


class Hosted(nn.Module):
    """A network whose inputs are brought to its device, and whose output is brought to that of the first input.

    Args:
        net: the network.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, *more: Tensor | None) -> Tensor:
        """Return the network's output for (x, ...), on the device of x."""
        device = next(self.net.parameters()).device
        return self.net(x.to(device), *(None if v is None else v.to(device) for v in more)).to(x.device)


def hosted(net: nn.Module) -> nn.Module:
    """Return a network for callers on the host: itself if it is there too."""
    weight = next(net.parameters(), None)
    return net if weight is None or weight.device.type == "cpu" else Hosted(net)
