"""Describe a set of rows and compare it with real user data.

`describe` counts lengths, languages, topics, stock phrases and PII; `compare` measures the distance to a sample of real use. Each `find_`
function can be used alone on texts and returns an Arrow table with the position of every finding.
"""
