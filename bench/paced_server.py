#!/usr/bin/env python3
"""A chat server whose speed is known: every reply's first token after 150 ms, then one every 12 ms, 96 in all. For comparing load generators; prints its port.

    python3 bench/paced_server.py &
    nibble bench serving --base-url http://127.0.0.1:PORT --model default --prompts PROMPTS --concurrency 4 --num-prompts 40 --warmup 4 --max-tokens 96
    aiperf profile -m default --url http://127.0.0.1:PORT --endpoint-type chat --streaming --input-file TEXTS --custom-dataset-type single_turn \\
        --request-count 40 --concurrency 4 --warmup-request-count 4 --tokenizer models/demo --use-server-token-count
"""
import asyncio
import json

FIRST_S, EACH_S, TOKENS = 0.150, 0.012, 96
CHUNK = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 1, "model": "default"}


async def reply(writer):
    def event(data):
        line = f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()
        writer.write(b"%x\r\n%s\r\n" % (len(line), line))

    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    loop = asyncio.get_running_loop()
    due = loop.time() + FIRST_S
    for _ in range(TOKENS):
        await asyncio.sleep(max(0, due - loop.time()))
        due += EACH_S
        event({**CHUNK, "choices": [{"index": 0, "delta": {"content": " token"}, "finish_reason": None}]})
    event({**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
    event({**CHUNK, "choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": TOKENS, "total_tokens": 20 + TOKENS}})
    event("[DONE]")
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def connection(reader, writer):
    try:
        while True:
            lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            await reader.readexactly(sum(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")))
            if b"/chat/completions" in lines[0]:
                await reply(writer)
                continue
            found = b"/models" in lines[0]
            body = json.dumps({"object": "list", "data": [{"id": "default", "object": "model"}]} if found else {}).encode()
            writer.write(b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (b"200 OK" if found else b"404 Not Found", len(body), body))
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
