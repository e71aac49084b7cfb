"""vLLM as it is: first come, first served, with prefix caching."""

from tokencake.policies.api import Info, Policy


class Vllm(Policy):
    """Stock vLLM: first come, first served, with prefix caching."""

    info = Info.NONE
