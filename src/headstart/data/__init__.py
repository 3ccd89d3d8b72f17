"""From a folder of photos to a manifest: what each is, which class it has, whether it trains or judges."""
