"""llama.cpp and the programs built on it: GGUF files, and the program itself in a process of its
own.
"""
