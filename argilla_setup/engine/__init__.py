"""A search engine for Argilla on one machine: SQLite's full-text index, JSON and numpy instead of Elasticsearch.

It runs inside the server's own environment and plugs into argilla-server's registry. `tokens`, `query`, `where`, `vectors` and
`index` need nothing but the standard library and numpy; `adapter` and `app` are the only modules that import argilla_server.
"""
