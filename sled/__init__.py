"""The front door: the `sled` command, the client for apps, and the demo that runs every role on one machine.

It may import everything, but imports a role only when a command asks for it: a device has no torch.
"""
