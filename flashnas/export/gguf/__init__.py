"""Networks as GGUF files, the format of llama.cpp and of the programs built on it."""
