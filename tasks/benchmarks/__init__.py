"""How fast the codec and the language model are."""
