"""The same model as C: its arithmetic, the file of C that is generated from a model, and what runs it here."""
