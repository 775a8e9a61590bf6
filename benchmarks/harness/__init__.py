"""What every experiment shares: configurations, data, dense models, runs and their records."""
