"""Hosts, switches and shaped links on one Linux machine, made of network namespaces."""
