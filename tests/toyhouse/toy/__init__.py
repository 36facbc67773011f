"""The smallest app: it shows what an app hands to the workshop."""
