"""Peptides: masked diffusion over residues, properties that agree with RDKit, and exports chemists read."""
