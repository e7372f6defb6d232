"""A search engine for Argilla on one machine: SQLite's full-text index, JSON and numpy instead of Elasticsearch.

It runs inside the server's own environment and registers with argilla-server. `index` writes and `search` reads; they and the modules
below them need only the standard library, numpy and, for words beyond ASCII, regex. Only `adapter`, `app` and `commands` import
argilla_server.
"""
