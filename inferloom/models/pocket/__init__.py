"""The pocket models: tiny language models that come along, their tasks, their training and their measurement."""
