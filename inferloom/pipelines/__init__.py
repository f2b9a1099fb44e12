"""Pipelines: the YAML that says them, the graph they compile to, running them, presets."""
