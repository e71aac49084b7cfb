"""The simulator: a discrete-event model of the vLLM V1 engine, driven by SimPy."""
