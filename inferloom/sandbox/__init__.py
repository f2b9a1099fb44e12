"""Running code that a model wrote. Reserved; nothing is here yet."""
