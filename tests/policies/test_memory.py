"""A policy remembers what is under way, not what has ended: long traces must not make it grow."""

from collections import deque

import pytest

from tokencake.policies import registry

LEARNING = {"continuum": {"window": 4, "samples": 2}, "lightllm": {"window": 4, "estimate": "history"}}
"""Parameters that bound what these learn."""

NOT_ASKED = {
    "random": "remembers what was refused, for tests",
    "vllm-priority": "observes nothing, so that a host skips it: keeps an order for every call",
    "tokencake-upstream": "forgets prefills when it next looks at them, which memory must first make it do",
}


def entries(value, seen):
    """Number of entries of all containers that a policy's objects reach."""
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, dict):
        return len(value) + sum(entries(v, seen) for v in value.values())
    if isinstance(value, list | tuple | deque | set):
        return len(value) + sum(entries(v, seen) for v in value)
    if type(value).__module__.startswith("tokencake.policies"):
        names = [n for kind in type(value).__mro__ for n in getattr(kind, "__slots__", ())]
        held = {n: getattr(value, n) for n in names if hasattr(value, n)} | getattr(value, "__dict__", {})
        return sum(entries(v, seen) for v in held.values())
    return 0


@pytest.mark.parametrize("name", [name for name in registry.names() if name not in NOT_ASKED])
def test_what_has_ended_is_forgotten(session, play, name):
    """Twice as many programs, one after another, leave as much behind."""

    def left(count):
        policy = registry.create(name, LEARNING.get(name))
        programs = [session(f"p{i}", turns=4, tool_s=0.05, at_s=0.3 * i) for i in range(count)]
        play(programs, policy, gpu_blocks=120, cpu_blocks=150, max_num_batched_tokens=512)
        return entries(policy, set())

    assert left(20) == left(10)
