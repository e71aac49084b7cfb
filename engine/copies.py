"""Moves KV blocks between the engine's tensors and host memory: the data behind the CPU tier.

Whoever calls says which block goes to which slot; nothing here knows what a block holds. Host memory
is taken in slabs as slots come into use, because a CPU tier may be declared larger than it ever fills.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

_SLAB: Final = 256
"""Slots in a slab."""

Staged = list[list["torch.Tensor"]]
"""Copies of slots, slab by slab and layer by layer."""


class KvCopies:
    """Copies of KV blocks in host memory, by slot.

    Args:
        layers: KV of each layer, its blocks along the first axis.
    """

    def __init__(self, layers: Sequence[torch.Tensor]):
        self._layers = list(layers)
        self._slabs: dict[int, list[torch.Tensor]] = {}

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers."""
        return sum(layer[0].numel() * layer.element_size() for layer in self._layers)

    def store(self, blocks: Sequence[int], slots: Sequence[int]) -> None:
        """Copy blocks of the engine to slots; done when it returns."""
        for slab, chosen, offsets in self._by_slab(blocks, slots):
            for layer, host in zip(self._layers, slab, strict=True):
                host.index_copy_(0, offsets, layer.index_select(0, chosen.to(layer.device)).to(host.device))

    def stage(self, slots: Sequence[int]) -> Staged:
        """Copy slots aside, to the engine's device; done when it returns.

        It takes what :meth:`load` takes: what is scattered in host memory is put together, and goes over once more.
        """
        return [
            [
                host.index_select(0, offsets).to(layer.device, copy=True)
                for layer, host in zip(self._layers, slab, strict=True)
            ]
            for slab, _, offsets in self._by_slab(range(len(slots)), slots)
        ]

    def load(self, slots: Sequence[int], blocks: Sequence[int], staged: Staged | None = None) -> None:
        """Copy slots, or what was staged of them, to blocks of the engine; done when it returns."""
        for number, (slab, chosen, offsets) in enumerate(self._by_slab(blocks, slots)):
            for i, (layer, host) in enumerate(zip(self._layers, slab, strict=True)):
                data = host.index_select(0, offsets).to(layer.device) if staged is None else staged[number][i]
                layer.index_copy_(0, chosen.to(layer.device), data)

    def _by_slab(
        self, blocks: Sequence[int], slots: Sequence[int]
    ) -> Iterator[tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]]:
        import torch

        grouped: dict[int, tuple[list[int], list[int]]] = {}
        for block, slot in zip(blocks, slots, strict=True):
            chosen, offsets = grouped.setdefault(slot // _SLAB, ([], []))
            chosen.append(block)
            offsets.append(slot % _SLAB)
        for number, (chosen, offsets) in grouped.items():
            yield self._slab(number), torch.tensor(chosen), torch.tensor(offsets)

    def _slab(self, number: int) -> list[torch.Tensor]:
        import torch

        slab = self._slabs.get(number)
        if slab is None:
            slab = [
                torch.empty((_SLAB, *layer.shape[1:]), dtype=layer.dtype, pin_memory=layer.is_cuda)
                for layer in self._layers
            ]
            self._slabs[number] = slab
        return slab
