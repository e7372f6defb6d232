"""LLM-as-a-judge: scores on a rubric and pairwise choices, a panel of judges, and measures of a judge's quality.

`rubric.py` scores and combines judges; `diagnostics.py` measures a judge's consistency and its agreement with people.
"""
