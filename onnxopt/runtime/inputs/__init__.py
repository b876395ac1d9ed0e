"""What models are run on: planned by what each input means, or the user's own."""
