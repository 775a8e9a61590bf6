"""What a model costs where it runs: time, streams, memory; and budgets of them."""
