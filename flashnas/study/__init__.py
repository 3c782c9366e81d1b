"""One search from its question to its run folder: config, loop, workers, trials, and the folder
read back.
"""
