"""The curation service: the data lead's page and its API, and the loop that fetches annotations."""
