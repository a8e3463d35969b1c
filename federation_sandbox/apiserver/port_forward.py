"""``pods/portforward`` over a WebSocket, with the API server and the kubelet in one: to ports on this machine.

The protocol is ``v4.channel.k8s.io`` as kubelets speak it: the first byte of a message is the channel, two for each
port, data and errors, and each begins with the port's number in two bytes. Both ``get`` and ``create`` are asked of the
caller, as an API server of 1.35 or later does (``AuthorizePodWebsocketUpgradeCreatePermission``).
"""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import WSMsgType, web

from federation_sandbox.apiserver.status import bad_request

PROTOCOL = "v4.channel.k8s.io"
DATA, FAILURE = 0, 1
PIECE = 32 * 1024


def wanted_port(request: web.BaseRequest) -> int:
    """The one port that is asked for. Raises ApiError where it is no such request."""
    if request.headers.get("Upgrade", "").lower() != "websocket":
        raise bad_request("Upgrade request required")
    text = request.query.get("ports", "")
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise bad_request('query parameter "ports" is required')
    return int(text)


async def forward(request: web.BaseRequest, port: int, local: int | None) -> web.WebSocketResponse:
    """Carry bytes between the caller and that port of this machine; None is one where nothing listens."""
    channel = web.WebSocketResponse(protocols=(PROTOCOL,))
    await channel.prepare(request)
    begin = port.to_bytes(2, "little")
    await channel.send_bytes(bytes([DATA]) + begin)
    await channel.send_bytes(bytes([FAILURE]) + begin)
    try:
        if local is None:
            raise ConnectionRefusedError(f"port {port}: connection refused")
        reader, writer = await asyncio.open_connection("127.0.0.1", local)
    except OSError as error:
        text = f"error forwarding port {port} to pod: {error}"
        await channel.send_bytes(bytes([FAILURE]) + text.encode())
        await channel.close()
        return channel
    down = asyncio.create_task(_down(reader, channel))
    try:
        async for message in channel:
            if message.type is WSMsgType.BINARY and message.data[:1] == bytes([DATA]):
                writer.write(message.data[1:])
                await writer.drain()
    finally:
        down.cancel()
        writer.transport.abort()  # what is not sent yet has no reader left
        await asyncio.gather(down, writer.wait_closed(), return_exceptions=True)
    return channel


async def _down(reader: asyncio.StreamReader, channel: web.WebSocketResponse) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(PIECE):
            await channel.send_bytes(bytes([DATA]) + piece)
    await channel.close()
