"""The loss and the recall to expect of a full training, from observed trainings. No torch."""
