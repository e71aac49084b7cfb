"""KV comes back from the CPU tier bit for bit, after everything on the GPU was overwritten."""

import pytest
from live_replay import config, play

from tokencake.policies.api import EventKind, Offload, Policy, Prefetch, Timer, Trigger
from tokencake.sim.summary import totals
from tokencake.traces.schema import LLMNode, OutputOf, Piece, Program, PromptOf, ResultOf, ToolNode

BLOCKS = 24
CHAIN = "agent/first"


def call(name, after, prompt, tokens):
    return LLMNode(name, after, "agent", "agent", prompt, tokens, tokens)


AGENT = Program(
    "agent", "app", 0.0,
    (
        call("first", (), (Piece("task", 400),), 20),
        ToolNode("tool", ("first",), "search", 8.0, 8.0, 30),
        call("second", ("tool",), (PromptOf("first"), OutputOf("first"), ResultOf("tool")), 10),
    ),
)  # fmt: skip
OTHERS = [
    Program(f"other{i}", "app", 2.0 + i, (call("only", (), (Piece(f"other{i}", 700),), 5),)) for i in range(3)
]  # together they need every block of the pool


class RoundTrip(Policy):
    """Offloads the agent's chain when it stalls, and brings it back before its tool returns."""

    def __init__(self, runtime):
        self._layers = runtime.kv_tensors
        self.host = None
        self.before = self.after = self.between = None

    def read(self, numbers):
        return [layer[numbers].clone() for layer in self._layers]

    def place(self, view, trigger, subject):
        if trigger is Trigger.STALL and subject.call.id == CHAIN:
            self.numbers = list(self.host.live[CHAIN].holding.spans)[: subject.blocks]
            self.before = self.read(self.numbers)
            return (Offload(), Timer(view.now + 6.0))
        if trigger is Trigger.TIMER:
            self.between = self.read(self.numbers)
            (chain,) = view.stalled
            assert (chain.gpu_blocks, chain.cpu_blocks) == (0, len(self.numbers)), "nothing of it is left on the GPU"
            return (Prefetch(call=CHAIN),)
        return ()

    def observe(self, event, view):
        if event.kind is EventKind.TRANSFER_DONE and event.reason == "h2d":
            self.after = self.read(list(self.host.placement.stalls[CHAIN].pin.spans))


@pytest.mark.parametrize("copies", ["measured", "link"])
def test_a_chain_comes_back_bit_for_bit(runtime, copies, monkeypatch):
    import torch

    from tokencake.engine import live

    policy = RoundTrip(runtime)
    made = live.LiveHost.__init__

    def remember(host, *arguments, **more):
        made(host, *arguments, **more)
        policy.host = host

    monkeypatch.setattr(live.LiveHost, "__init__", remember)
    host = play(runtime, [AGENT, *OTHERS], policy, config(BLOCKS, cpu_blocks=40), copies=copies)
    for before, between, after in zip(policy.before, policy.between, policy.after, strict=True):
        assert len(before) == 419 // 32
        assert not any(torch.equal(old, new) for old, new in zip(before, between, strict=True)), "overwritten"
        assert torch.equal(before, after)
    calls = host.metrics.calls.columns
    assert calls["gpu_hit_tokens"][calls["call"].index("second")] == 419 // 32 * 32
    assert totals(host)["h2d_bytes"] == totals(host)["d2h_bytes"] == 13 * 32 * 1024
