"""Networks written for other tools: one package per format, each in the registry EXPORTS of
exporter.py.
"""
