"""Tests, in folders that mirror the house."""
