"""The programs that people deploy networks with: what each can hold, the files that it reads, and
how it is run."""
