"""The channel graph on every architecture, gated against pruned, beside torch-pruning's own."""
