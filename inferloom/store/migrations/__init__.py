"""The schema's revisions, run by `inferloom.store.engine`."""
