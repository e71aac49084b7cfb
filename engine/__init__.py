"""The vLLM hosts. This version has none yet: `host=virtual` and `host=live` are refused with a clear line."""
