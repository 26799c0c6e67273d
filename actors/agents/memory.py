"""Memory: an agent's checkpoint read back into a struct."""

from typing import TypeVar

import msgspec

from actors.agents.protocol import JsonValue

MemoryT = TypeVar("MemoryT", bound=msgspec.Struct)


def recall(checkpoint: JsonValue, memory_type: type[MemoryT]) -> MemoryT:
    """Read a checkpoint; one that is absent or not this agent's own counts as an empty memory.

    The agents file may give an agent's name to another kind at any time, and the session's next turn then starts
    from what the old kind left.

    Args:
        checkpoint: As it came with the turn.
        memory_type: A struct with a default for every field.
    """
    try:
        return msgspec.convert(checkpoint, memory_type)
    except msgspec.ValidationError:
        return memory_type()
