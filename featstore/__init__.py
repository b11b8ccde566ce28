"""featstore: a feature store and embedding cache for backfill-free model upgrades.

The public library is reached through its packages: `featstore.store`, `featstore.extract`, `featstore.maps`,
`featstore.evaluate`, `featstore.report`, `featstore.convert`. Importing `featstore` alone loads none of them.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
