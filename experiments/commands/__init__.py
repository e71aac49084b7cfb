"""The commands beside `tokencake run`; each module has `run(words)`."""
