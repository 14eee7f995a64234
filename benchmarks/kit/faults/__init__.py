"""Breaking a running system on purpose, writing down all that happens, and counting what came of it."""
