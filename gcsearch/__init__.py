"""gcsearch: find and prove the best recipe for consistency models with generator-augmented coupling."""

__version__ = "0.1.0"
