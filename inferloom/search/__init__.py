"""Spaces of pipelines, studies that search them, baselines and results."""
