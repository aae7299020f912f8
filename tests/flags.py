"""Settings as words of a command line."""


def as_flags(settings):
    """{"max_steps": 3} -> ["--max_steps", "3"]."""
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]
