"""A learned choice among pipelines and models for each question.

`outcomes` holds what is learned from, `train` makes a `router`, `policy` turns its predictions into choices, and
`protocol` says what it is worth beside baselines. numpy alone decides; torch is for training.
"""
