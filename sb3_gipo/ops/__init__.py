"""Formulas: pure functions of tensors, each with its paper. Imports torch only."""
