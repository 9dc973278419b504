"""BlueLM Chat: the core under the pages (types, prompts, conversations, API, engine)."""

__version__ = "0.1.0"
