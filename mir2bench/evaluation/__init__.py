"""Evaluation: protocol -> jobs -> store -> scores -> statistics -> report.

`mir2bench.evaluation.study.Study` is the whole of it in one object; `python -m mir2bench.evaluate` is its command line.
"""
