"""Run a model faster without changing what it computes; see :func:`optimize_for_inference`."""

from .optimise import OptimisationReport, Rewrite, optimize_for_inference

__all__ = ["OptimisationReport", "Rewrite", "optimize_for_inference"]
