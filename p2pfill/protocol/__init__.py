"""The wire without I/O: control messages, framing, one state table for the link, data headers, tokens."""
