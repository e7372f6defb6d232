"""Argilla on one machine: its own environment, Valkey, the web server, a worker, and a supervisor that restarts them."""
