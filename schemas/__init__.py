"""The wire contract between devices, verifiers and apps, and what both sides must compute alike.

Everything here is pure: bytes and numbers in, structs and numbers out. It imports no other room of the house.
"""
