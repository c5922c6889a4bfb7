"""The one name of transformers that docs/how-to/checkpoints.md uses: for where transformers is not installed."""


class TrainerCallback:
    """Has a method for each event; this one does nothing, as the real one's do."""

    def on_save(self, args, state, control, **kwargs):
        pass
