"""Cheatsheets: what a pipeline learns from its past runs. Reserved; nothing is here yet."""
