"""What a model hears: prompts with weights, their encodings, and how one becomes another over frames."""
