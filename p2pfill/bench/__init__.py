"""Benchmarks that run the product: real nodes, real sockets, real disks."""
