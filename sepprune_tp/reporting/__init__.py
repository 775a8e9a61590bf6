"""Reports of a pruning job: JSON, Markdown, terminal tables, plots, and one page of HTML."""
