"""Helpers for the images' tests: engines, network namespaces, base images, containers."""
