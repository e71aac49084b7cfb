"""Copies between the engine's tensors and host memory, on the real tensors."""

import random

import pytest


def test_blocks_come_back_bit_for_bit(runtime):
    import torch

    from tokencake.engine.copies import KvCopies

    layers = runtime.kv_tensors
    copies = KvCopies(layers)
    assert copies.block_bytes == runtime.model.shape.kv_bytes_per_token * runtime.limits.block_size
    for layer in layers:
        layer.copy_(torch.randn(layer.shape, generator=torch.Generator().manual_seed(1)))
    before = [layer.clone() for layer in layers]
    rng = random.Random(0)
    blocks = rng.sample(range(1, runtime.limits.blocks), 100)
    slots = rng.sample(range(2000), 100)  # over several slabs
    copies.store(blocks, slots)
    for layer in layers:
        layer.fill_(float("nan"))
    targets = rng.sample(range(1, runtime.limits.blocks), 100)
    copies.load(slots, targets)
    for layer, old in zip(layers, before, strict=True):
        assert torch.equal(layer[targets], old[blocks])
        assert torch.isnan(layer[0]).all(), "nothing else is written"
        layer.zero_()


def test_a_slot_that_was_written_again_holds_the_last_block(runtime):
    import torch

    from tokencake.engine.copies import KvCopies

    copies = KvCopies(runtime.kv_tensors)
    for number in (3, 4):
        for layer in runtime.kv_tensors:
            layer[number] = float(number)
    copies.store([3], [7])
    copies.store([4], [7])
    copies.load([7], [5])
    for layer in runtime.kv_tensors:
        assert torch.equal(layer[5], layer[4])
        layer.zero_()


def test_a_load_goes_over_its_data_as_often_as_what_a_run_has_on_its_clock(runtime):
    """A calibration times :meth:`load`, and a run times :meth:`stage`: what one costs must be what the other does."""
    from torch.utils._python_dispatch import TorchDispatchMode

    from tokencake.engine.copies import KvCopies

    class Counted(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket._qualified_op_name in ("aten::index_select", "aten::index_copy_", "aten::_to_copy"):
                self.elements += (args[3] if "index_copy" in str(func) else args[0]).numel()
            return func(*args, **(kwargs or {}))

    copies = KvCopies(runtime.kv_tensors)
    copies.store([1, 2, 3], [5, 6, 300])
    counts = []
    for work in (lambda: copies.load([5, 6, 300], [1, 2, 3]), lambda: copies.stage([5, 6, 300])):
        with Counted() as counted:
            work()
        counts.append(counted.elements)
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("blocks", [[], [1, 2]])
def test_every_block_needs_a_slot(runtime, blocks):
    from tokencake.engine.copies import KvCopies

    with pytest.raises(ValueError, match=r"shorter|longer"):
        KvCopies(runtime.kv_tensors).store(blocks, [0])
