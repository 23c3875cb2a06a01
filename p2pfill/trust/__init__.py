"""Certificates and signatures: who somebody is, and what a publisher has signed."""
