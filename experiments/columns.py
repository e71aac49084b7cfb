"""The columns of the result tables: one place that the writer, the docs and their test read."""

PROGRAMS = {
    "program": "string",
    "app": "string",
    "arrival_s": "double",
    "finish_s": "double",
    "latency_s": "double",
    "calls": "int64",
    "tool_calls": "int64",
    "output_tokens": "int64",
    "prefill_computed_tokens": "int64",
    "gpu_hit_tokens": "int64",
    "cpu_hit_tokens": "int64",
    "preemptions": "int64",
    "refused": "bool",
    "llm_s": "double",
    "tool_s": "double",
    "queue_s": "double",
}

CALLS = {
    "program": "string",
    "call": "string",
    "agent": "string",
    "agent_type": "string",
    "arrival_s": "double",
    "admitted_s": "double",
    "first_token_s": "double",
    "finish_s": "double",
    "latency_s": "double",
    "ttft_s": "double",
    "queue_s": "double",
    "prefill_s": "double",
    "prefill_preempted_s": "double",
    "decode_s": "double",
    "decode_preempted_s": "double",
    "prompt_tokens": "int64",
    "output_tokens": "int64",
    "computed_tokens": "int64",
    "gpu_hit_tokens": "int64",
    "cpu_hit_tokens": "int64",
    "recomputed_tokens": "int64",
    "preemptions": "int64",
    "status": "string",
    "critical": "bool",
}

TRANSFERS = {
    "start_s": "double",
    "finish_s": "double",
    "direction": "string",
    "program": "string",
    "call": "string",
    "blocks": "int64",
    "bytes": "int64",
    "cause": "string",
    "status": "string",
}

KV = {
    "time_s": "double",
    "running_blocks": "int64",
    "stalled_blocks": "int64",
    "cached_blocks": "int64",
    "free_blocks": "int64",
    "cpu_blocks": "int64",
}

TABLES = {"programs": PROGRAMS, "calls": CALLS, "transfers": TRANSFERS, "kv": KV}

STEPS = {
    "start_s": "double",
    "duration_s": "double",
    "prefill_tokens": "int64",
    "prefill_pairs": "int64",
    "prefill_calls": "int64",
    "decodes": "int64",
    "decode_context": "int64",
    "wall_s": "double",
    "cpu_s": "double",
    "expected_s": "double",
}
"""The steps of a run whose steps were measured (`host=live`)."""

COPIES = {"direction": "string", "bytes": "int64", "runs": "int64", "took_s": "double"}
"""The copies of a run whose copies were measured (`host=live live.copies=measured`)."""

MEASURED = {"steps": STEPS, "copies": COPIES}
