"""Seconds, memory and real-time factor of dense and pruned models, in turns in one run."""
