"""What others have trained in full: published mixes, shapes, shares of feed-forward layers and
recall; and models of them. A search begins with this evidence, and trains where it is missing. No
torch.

    import flashnas as fn
    fn.evidence.load().trainings            # a DataFrame of published trainings with their sources
    model = fn.evidence.full_loss()         # differences to expect after a full training
"""

from flashnas.evidence.load import Evidence, full_loss, load

__all__ = ["Evidence", "full_loss", "load"]
