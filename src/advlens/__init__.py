"""Audit, train and compare image classifiers on real and adversarial images."""

__version__ = "0.1.0"
