"""A search engine for Argilla on one machine: SQLite's full-text index, JSON and numpy instead of Elasticsearch.

It runs inside the server's own environment and plugs into argilla-server's registry. `search` asks and `index` writes; they and what they
are made of need nothing but the standard library, numpy and, for words beyond ASCII, regex. Only `adapter`, `app`, `writing`,
`commands` and `credentials` import argilla_server.
"""
