"""An architecture as a torch network: model, loss, caches, weights."""
