"""A relay between a device and its server: a slow link that a test can cut."""

import asyncio
import threading

_CHUNK = 2048


class Relay:
    """Forwards TCP connections to a port on this host until it is closed.

    Parameters
    ----------
    target : int
        The server's port.
    rate : float
        Bytes per second from the device to the server, of all connections together.

    Attributes
    ----------
    port : int
        Where the device connects to.
    up : int
        Bytes that went from the device to the server so far.
    """

    def __init__(self, target: int, rate: float) -> None:
        self.port = 0
        self.up = 0
        self._target = target
        self._rate = rate
        self._loop = asyncio.new_event_loop()
        self._whole = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Relay":
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *failure: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def cut(self) -> None:
        """Let nothing through; connections stay open and hang, as on a dead link."""
        self._loop.call_soon_threadsafe(self._whole.clear)

    def restore(self) -> None:
        """Let everything through again, from where it was."""
        self._loop.call_soon_threadsafe(self._whole.set)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._loop.run_forever()

    async def _listen(self) -> None:
        self._whole.set()
        self._slow = asyncio.Lock()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()

    async def _connected(
        self, device: asyncio.StreamReader, back: asyncio.StreamWriter
    ) -> None:
        server, forth = await asyncio.open_connection("127.0.0.1", self._target)
        ways = (self._pump(device, forth, up=True), self._pump(server, back, up=False))
        await asyncio.gather(*ways, return_exceptions=True)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, up: bool
    ) -> None:
        try:
            while data := await source.read(_CHUNK if up else 1 << 16):
                await self._whole.wait()
                sink.write(data)
                await sink.drain()
                if up:
                    self.up += len(data)
                    async with self._slow:  # all connections share the link
                        await asyncio.sleep(len(data) / self._rate)
        finally:
            sink.close()
