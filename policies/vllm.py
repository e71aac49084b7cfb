"""vLLM as it is: first come, first served, with prefix caching."""

from tokencake.policies.api import Info, Policy


class Vllm(Policy):
    """Stock vLLM: first come, first served, with prefix caching.

    With a CPU tier it runs beside an idle offloading connector, as any policy that copies nothing does; stock vLLM
    without one is ``engine.cpu_gib=0``. On Code-Writer mean latencies of the two differ by half a per cent.
    """

    info = Info.NONE
