"""The project's SQLite database, workbench.db: records, facts, annotations, runs and calls."""
