"""The paper's analyses, one module each: its options, what it computes, its tables and figures.

`python -m mir2bench.analyze` is their command line. A module `mir2bench.analysis.<name>` has a `DESCRIPTION` with
examples, a frozen dataclass `Options`, and `run(options)`, which may return an exit status.
"""
