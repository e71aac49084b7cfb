"""Scheduling policies: pure Python, standard library only, the same object in every host."""
