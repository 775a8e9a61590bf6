"""Networks that other people wrote, pruned on the channel graph and by torch-pruning alone."""
