"""Real vLLM under a policy: its scheduler alone (`host=virtual`), or all of it with a model (`host=live`)."""
