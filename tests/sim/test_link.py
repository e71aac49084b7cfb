"""When transfers end, on a link whose times can be worked out by hand."""

from tokencake.sim.clock import Clock
from tokencake.sim.config import PS, LinkConfig
from tokencake.sim.link import Link
from tokencake.sim.transfer import Transfer


def test_an_urgent_transfer_behind_a_promised_one_ends_without_anybody_looking():
    clock = Clock()
    link = Link(clock, LinkConfig(1.0, 1.0))
    ended = []
    store = Transfer("d2h", 10**8, 1, "store", "store", ended.append, urgent=False)
    offload = Transfer("d2h", 10**8, 1, "offload", "offload", ended.append)
    link.start(store)
    assert link.promise_ps(store) == PS // 10
    link.start(offload)
    assert offload.state == "queued"
    while clock.coming_ps < PS:
        clock.step()
    assert [(transfer.subject, transfer.finish_ps) for transfer in ended] == [
        ("store", PS // 10),
        ("offload", PS // 5),
    ]
    assert link.idle
