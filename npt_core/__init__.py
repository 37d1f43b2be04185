"""The science: frozen CLIP, prompt learners, collapse terms, data sets, trainer. A library; it knows no service."""
