"""Getting completions: backends, the client in front of them, budgets and nominal costs."""
