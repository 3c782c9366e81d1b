"""A run of the search: what was asked (`config`), what is kept on disk (`record`), who trains (`pool`)."""
