"""Benchmarks of sepprune_tp: ``python -m benchmarks`` runs them and writes RESULTS.md."""
