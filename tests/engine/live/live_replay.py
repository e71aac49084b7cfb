"""Small agent traces, stock vLLM's outputs for them, and runs of a live host. Imports vLLM when used."""

import functools

from tokencake.engine.config import LiveConfig
from tokencake.sim.config import EngineConfig, LinkConfig, SimConfig
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency
from tokencake.traces.generators.synthetic import Demo
from tokencake.traces.graph import topological_order
from tokencake.traces.resolve import resolve
from tokencake.traces.schema import LLMNode

XS = LinearCoefficients(800, 12, 0.008, 100, 60, 0.08)


@functools.cache
def demo(count=6, seed=1, **changes):
    """Programs whose calls are up to about 700 tokens long."""
    sizes = {"system_tokens": 70, "task_tokens": 140, "output_tokens": 24, "rounds": 2, "fanout": 2, "tool_scale": 0.02}
    return tuple(Demo(programs_count=count, seed=seed, qps=20.0, **sizes | changes).programs())


def calls_of(programs):
    return sum(isinstance(node, LLMNode) for program in programs for node in program.nodes)


def config(blocks=40, cpu_blocks=120, **engine):
    sizes = {"max_num_batched_tokens": 256, "max_num_seqs": 8, "max_model_len": 1024}
    link = LinkConfig(d2h_gb_s=0.5, h2d_gb_s=0.5, per_run_us=20)
    engine = EngineConfig(blocks, 32, cpu_blocks=cpu_blocks, **sizes | engine)
    return SimConfig(engine, LinearLatency(XS), 1024, link=link)


def said_greedily(runtime, programs):
    """What stock vLLM says, every call alone and without prefix cache, by content id: the trace's outputs."""
    from tokencake.engine.contents import Contents
    from tokencake.engine.requests import make_request
    from tokencake.engine.stock import make_scheduler

    scheduler = make_scheduler(config(150, prefix_caching=False).engine)
    contents, said = Contents(32, runtime.model.shape.vocab), {}
    for program in programs:
        content = resolve(program)
        for index in topological_order(program.nodes):
            node = program.nodes[index]
            if not isinstance(node, LLMNode):
                continue
            ((name, tokens),) = content[node.id].output
            prompt = contents.ids(content[node.id].prompt)
            request = make_request(f"{program.program}/{node.id}", prompt, tokens, None)
            scheduler.add_request(request)
            while scheduler.has_requests():
                planned = scheduler.schedule()
                scheduler.update_from_output(planned, runtime.execute(planned))
            said[name] = list(request.output_token_ids)
            contents.teach(name, said[name])
    runtime.execute(scheduler.schedule())
    return said


def play(runtime, programs, policy, settings, *, said=None, **live):
    """Run a live host to its end and return it."""
    from tokencake.engine import live as engine

    host = engine.live_host(settings, policy, programs, runtime, LiveConfig(**{"model": "xs"} | live), said=said)
    assert engine.play(host)
    return host
