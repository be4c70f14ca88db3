"""What the machine has, and what its faults look like."""

import os


def machine_memory() -> int | None:
    """Bytes of memory that the machine has; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None


def is_machine_fault(error: BaseException) -> bool:
    """Whether an error, or one it came from, says that memory ran out."""
    seen: BaseException | None = error
    while seen is not None:
        text = f"{type(seen).__name__} {seen}"
        if isinstance(seen, MemoryError) or any(
            sign in text for sign in ("RESOURCE_EXHAUSTED", "ResourceExhausted", "OutOfMemory")
        ):
            return True
        if "out of memory" in text.lower() or "can't allocate memory" in text:
            return True
        seen = seen.__cause__
    return False
