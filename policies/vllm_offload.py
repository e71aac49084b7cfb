"""vLLM with its own CPU offloading connector: prompts are stored as they are computed, hits loaded."""

from __future__ import annotations

from tokencake.policies.api import ChainView, Info, Policy, View


class VllmOffload(Policy):
    """vLLM with native CPU offloading: computed prompt blocks are copied, a CPU hit is loaded at admission.

    vLLM 0.32 ``OffloadingConnector`` with the ``lru`` CPU backend. Loading needs no decision here: a
    host loads what it finds in the CPU tier. What is stored, and when, is
    ``distributed/kv_transfer/kv_connector/v1/offloading/scheduler.py::_calc_num_offloadable_tokens``
    and ``_build_store_jobs``.

    Args:
        prompt_only: Copy prompt blocks only (vLLM's default): an answer is stored when it comes back
            as part of the next prompt. Otherwise generated blocks are copied as they fill.
    """

    info = Info.NONE

    def __init__(self, *, prompt_only: bool = True) -> None:
        self.prompt_only = prompt_only
        self.store_when = ("prompt",) if prompt_only else ("prompt", "output", "finished")

    def store(self, view: View, chain: ChainView, cause: str) -> int:
        """All full blocks, or those of the prompt."""
        if self.prompt_only:
            return min(chain.blocks, chain.call.prompt_tokens // view.block_size)
        return chain.blocks
