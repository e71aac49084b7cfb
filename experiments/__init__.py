"""Experiments: the command line, Hydra configurations, result files, tables and figures."""
