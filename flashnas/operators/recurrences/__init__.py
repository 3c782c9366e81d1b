"""The recurrences that several operators share: references, chunked forms and single steps."""
