"""Networks written as other tools read them: one package per target."""
