"""`flashnas COMMAND`: flags to options, a call of flashnas.api, and what it returns on the
screen.
"""
