"""A task: returns its input in capitals, and logs how long it is. Needs the grant `log`, and `random` for Python itself."""

from wit_world import exports
from wit_world.imports import log


class Task(exports.Task):
    def run(self, input: bytes) -> bytes:
        log.write(log.Level.INFO, f"{len(input)} bytes")
        return input.decode().upper().encode()
