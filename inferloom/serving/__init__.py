"""Pipelines over HTTP and as parts of other frameworks."""
