"""Types, errors, the registry, answers and the protocols that every room speaks. It imports nothing of ours."""
