"""What every room may use: errors, hints, files, YAML with line numbers, shipped data,
processes.
"""
