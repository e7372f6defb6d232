"""The offline stand-in: a small server on this machine that speaks Anthropic's Messages, Models and Message Batches, so that the demo
and the tests run the product's own code without a key. Its text is made up from tables and word lists and its flaws are planted: it is
no model, nothing it writes is data, and every message says so.

The gates never import anything from here.
"""
