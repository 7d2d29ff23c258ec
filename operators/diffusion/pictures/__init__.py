"""Pictures on their way to the device and back."""
