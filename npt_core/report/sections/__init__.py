"""The parts of a report's page, one module each: a `Measured` in, sections of blocks out."""
