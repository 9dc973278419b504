"""The words of the pages, a file for each language. `components.i18n` chooses between them."""
