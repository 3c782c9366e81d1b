"""What others have trained and timed, and what the user has: numbers about networks, with their
noise, cost and source. No torch.
"""
