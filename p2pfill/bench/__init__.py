"""Benchmarks of the product as it is shipped: real processes, real sockets, real disks, and no path of their own."""
