"""Making a draft model that imitates a target: cut from it, taught on the target's own answers, exported to ONNX."""
