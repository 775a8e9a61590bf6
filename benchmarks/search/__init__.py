"""The search: ways to learn gates, and what a step costs."""
