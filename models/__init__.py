"""Getting and making models: pull a target, export an ONNX drafter.

It may import the roles (`verifier` for its engine) and what lies below them; the roles never import it.
"""
