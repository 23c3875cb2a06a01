"""The control plane: which titles exist, who shall hold them, who is alive, and where a chunk is best taken from."""
