"""Pipelines over HTTP and as parts of other frameworks. Reserved; nothing is here yet."""
