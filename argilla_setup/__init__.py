"""Argilla for human review: the form of a record, accounts, and a server on one machine."""
