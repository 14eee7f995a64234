"""Measurements that print ratios from one run. Nothing here is asserted as a timed test."""
