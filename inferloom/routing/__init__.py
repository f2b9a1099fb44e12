"""A learned choice among pipelines and models for each question. Reserved; nothing is here yet."""
