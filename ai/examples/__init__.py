"""Programs for authors, each in one file: `quorix ai new` copies them."""
