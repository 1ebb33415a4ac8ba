#!/usr/bin/env python3
"""A TCP proxy before one Consul agent that spoils connections and answers on demand.

    proxy.py AGENT_PORT        prints its own port; then takes commands on stdin, one a line:
        arm KIND [SEED [SHARE]]    from now on SHARE (0 to 1, 1) of what fits is spoiled so
        clear                      from now on everything passes; prints how often it struck

faults.py uses the class. Fault kinds, and what they do to an exchange or to a connection:

    latency      the answer comes late, and in two pieces
    drip         one byte at a time
    cut_head     FIN before the head is whole
    cut_body     FIN in a body by length
    cut_chunk    FIN inside a chunk
    cut_last     FIN inside the last chunk, the one of length 0
    rst          RST, anywhere from the request on
    half_open    silence without FIN for ever, from the request on or inside the answer
    status_5xx   500, 502, 503 or 504
    limit        429, without Retry-After
    limit_after  429 with Retry-After
    garbage      no HTTP, or no JSON
    refused      nobody listens, live connections are reset
    closed       FIN at once, without a word
    false_empty  200 [] with index 1 to a blocking query
    index_back   a lower index

The agent's answer is read whole before it is spoiled: bodies here are small, and each named place
can be hit. Where a fault spoils an answer by one of its own, a coin says whether the agent gets the
request all the same: a registration may be made though its answer says 500."""

import asyncio
import collections
import email.utils
import random
import re
import socket
import struct
import sys
import time

CONNECTION_FAULTS = ("refused", "closed")
HALF_OPEN_MOST = 2          # each costs its victim the whole deadline of a request


class Answer:
    """Head, pieces as they were framed, and what ends a chunked body."""

    def __init__(self, head):
        self.head = head
        self.pieces = []
        self.last = b""

    @property
    def is_chunked(self):
        return self.last != b""

    @property
    def bytes(self):
        return self.head + b"".join(self.pieces) + self.last


def field(head, name):
    """The value of a header field, or None."""
    found = re.search(rb"\r\n" + name + rb":[ \t]*([^\r]*)", head, re.IGNORECASE)
    return found.group(1).decode("latin-1").strip() if found else None


async def read_request(reader):
    """Head and body of one request; None at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        return head + await reader.readexactly(int(field(head, b"Content-Length") or 0))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def read_answer(reader):
    answer = Answer(await reader.readuntil(b"\r\n\r\n"))
    if (field(answer.head, b"Transfer-Encoding") or "").lower() != "chunked":
        length = int(field(answer.head, b"Content-Length") or 0)
        if length > 0:
            answer.pieces.append(await reader.readexactly(length))
        return answer
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        if size == 0:
            answer.last = line + await reader.readuntil(b"\r\n")
            return answer
        answer.pieces.append(line + await reader.readexactly(size + 2))


def is_blocking(request):
    target = request.split(b" ", 2)[1]
    index = re.search(rb"[?&]index=(\d+)", target)
    return target.startswith(b"/v1/health/") and index is not None and index.group(1) != b"0"


def made_answer(status, body, fields=b"", kind=b"text/plain; charset=utf-8"):
    return (b"HTTP/1.1 %s\r\nContent-Type: %s\r\n%sContent-Length: %d\r\n\r\n%s"
            % (status, kind, fields, len(body), body))


class Fault:
    """What is armed: which exchanges it strikes, and what becomes of them."""

    def __init__(self, kind, seed, share):
        self.kind = kind
        self.random = random.Random(seed)
        self.share = share
        self.num_hits = 0

    def strikes(self):
        most = HALF_OPEN_MOST if self.kind == "half_open" else sys.maxsize
        if self.num_hits >= most or self.random.random() >= self.share:
            return False
        self.num_hits += 1
        return True

    def fits_request(self, request):
        """Whether it stands in for the agent's answer."""
        if self.kind == "false_empty":
            return is_blocking(request)
        return self.kind in ("status_5xx", "limit", "limit_after", "garbage")

    def fits_answer(self, request, answer):
        has_chunks = answer.is_chunked and bool(answer.pieces)
        if self.kind in ("cut_chunk", "cut_last"):
            return has_chunks
        if self.kind == "cut_body":
            return not answer.is_chunked and bool(answer.pieces)
        if self.kind == "index_back":
            return is_blocking(request) and (field(answer.head, b"X-Consul-Index") or "0") > "1"
        return self.kind in ("latency", "drip", "cut_head", "rst", "half_open")

    def stand_in(self, is_read):
        """An answer of its own: its bytes, and whether the connection ends behind them."""
        return {"status_5xx": self.bad_status, "limit": self.limit, "limit_after": self.limit,
                "garbage": lambda: self.garbage(is_read),
                "false_empty": self.false_empty}[self.kind]()

    def bad_status(self):
        texts = [(b"500 Internal Server Error", b"No cluster leader"),
                 (b"500 Internal Server Error", b"rpc error making call: EOF"),
                 (b"500 Internal Server Error", b""),
                 (b"502 Bad Gateway", b"<html>Bad Gateway</html>"),
                 (b"503 Service Unavailable", b"error reading from server: EOF"),
                 (b"504 Gateway Timeout", b"")]
        status, body = self.random.choice(texts)
        fields = self.random.choice([b"", b"X-Consul-Index: 1\r\nX-Consul-Knownleader: false\r\n"])
        return made_answer(status, body, fields), False

    def limit(self):
        fields = b""
        if self.kind == "limit_after":
            soon = email.utils.formatdate(time.time() + 2, usegmt=True).encode()
            fields = b"Retry-After: " + self.random.choice([b"1", b"2", soon]) + b"\r\n"
        if self.random.random() < 0.5:
            return made_answer(b"429 Too Many Requests", b"rate limit exceeded, try again later or"
                               b" against a different server", fields), False
        return made_answer(b"429 Too Many Requests", b"Your IP is issuing too many concurrent"
                           b" connections, please rate limit your calls\n",
                           fields + b"Connection: close\r\n"), True

    def garbage(self, is_read):
        """A whole answer with status 200 is what a write waits for: only a read gets one."""
        noise = self.random.randbytes(self.random.randrange(1, 3000))
        json_head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Consul-Index: 9\r\n"
        no_http = [
            noise,
            b"\0" * 64,
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"HTTP/1.1 2OO OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n[]",
            json_head + b"Transfer-Encoding: chunked\r\n\r\nXYZ\r\n[]\r\n0\r\n\r\n",
        ]
        no_json = [
            json_head + b"Content-Length: %d\r\n\r\n%s" % (len(noise), noise),
            json_head + b"Content-Length: 12\r\n\r\n[{\"Node\": {}",
            json_head + b"Content-Length: 8\r\n\r\n{\"a\": 1}",
        ]
        return self.random.choice(no_http + no_json if is_read else no_http), True

    @staticmethod
    def false_empty():
        return made_answer(b"200 OK", b"[]", b"X-Consul-Index: 1\r\n"
                           b"X-Consul-Query-Backend: streaming\r\n", b"application/json"), False

    def spoil(self, answer):
        """(bytes to send, how it goes on: keep, fin, rst or silence)."""
        pick = self.random.randrange
        if self.kind == "cut_head":
            return answer.head[:pick(len(answer.head))], "fin"
        if self.kind == "cut_body":
            return answer.head + answer.pieces[0][:pick(len(answer.pieces[0]))], "fin"
        if self.kind == "cut_chunk":
            nth = pick(len(answer.pieces))
            piece = answer.pieces[nth]
            begin = piece.index(b"\n") + 1
            cut = piece[:pick(begin, len(piece) - 2)]
            return answer.head + b"".join(answer.pieces[:nth]) + cut, "fin"
        if self.kind == "cut_last":
            whole = answer.head + b"".join(answer.pieces)
            return whole + answer.last[:pick(len(answer.last))], "fin"
        if self.kind == "index_back":
            return re.sub(rb"(?i)(x-consul-index: )\d+", rb"\g<1>1", answer.bytes), "keep"
        if self.kind in ("rst", "half_open"):
            how = "rst" if self.kind == "rst" else "silence"
            return answer.bytes[:pick(len(answer.bytes)) if pick(2) else 0], how
        return answer.bytes, "keep"


def reset(writer):
    """RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass                                    # closed already
    writer.transport.abort()


class Proxy:
    def __init__(self, agent_port):
        self.agent_port = agent_port
        self.port = 0
        self.fault = None
        self.server = None
        self.holder = None
        self.writers = set()
        self.num_silent = 0             # half-open connections that their clients have not left
        self.num_requests = 0
        self.recent = collections.deque(maxlen=80)

    def note(self, *words):
        """For whoever asks what came before a failure."""
        self.recent.append(" ".join([f"{time.monotonic():.3f}", *map(str, words)]))

    async def start(self):
        """A second socket is bound to the port and never listens: while nobody listens the port
        stays ours, and no client can connect to itself there."""
        self.holder = socket.socket()
        self.holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.holder.bind(("127.0.0.1", 0))
        self.port = self.holder.getsockname()[1]
        await self.listen()

    async def listen(self):
        if self.server is None:
            self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port,
                                                     reuse_port=True)

    def refuse(self):
        """As if no process were there; live connections are the caller's business."""
        if self.server is not None:
            self.server.close()
            self.server = None

    def close(self):
        self.refuse()
        for writer in list(self.writers):
            writer.transport.abort()
        self.holder.close()

    async def follow(self):
        """While the agent is down nobody listens here either; returns when it listens again."""
        self.refuse()
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.agent_port)
                writer.close()
                break
            except ConnectionError:
                await asyncio.sleep(0.02)
        await self.listen()

    async def arm(self, kind, seed=0, share=1.0):
        self.fault = Fault(kind, seed, share)
        if kind not in CONNECTION_FAULTS:
            return
        if kind == "refused":
            self.refuse()
        for writer in list(self.writers):
            if kind == "refused":
                reset(writer)
            else:
                writer.close()
            self.fault.num_hits += 1

    async def clear(self):
        """Answers how often the fault struck."""
        num_hits = self.fault.num_hits if self.fault is not None else 0
        self.fault = None
        await self.listen()
        return num_hits

    async def serve(self, reader, writer):
        if self.fault is not None and self.fault.kind == "closed":
            self.fault.num_hits += 1
            writer.close()
            return
        self.writers.add(writer)
        connection = Connection(self, reader, writer)
        try:
            await connection.run()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.writers.discard(writer)
            connection.close()


class Connection:
    """One of a client, and the one to the agent that belongs to it."""

    def __init__(self, proxy, reader, writer):
        self.proxy = proxy
        self.reader, self.writer = reader, writer
        self.agent_reader = self.agent_writer = None
        self.port = writer.get_extra_info("peername")[1]
        proxy.note(self.port, "is new")

    def close(self):
        self.proxy.note(self.port, "ends")
        self.writer.close()
        self.close_agent()

    def close_agent(self):
        if self.agent_writer is not None:
            self.agent_writer.close()
            self.agent_reader = self.agent_writer = None

    async def run(self):
        request = await read_request(self.reader)
        while request is not None:
            self.proxy.num_requests += 1
            self.proxy.note(self.port, request.split(b"\r\n")[0].decode("latin-1"))
            # what the client says next, or its end, which ends the agent's part too
            following = asyncio.ensure_future(read_request(self.reader))
            exchange = asyncio.ensure_future(self.exchange(request))
            try:
                await asyncio.wait({following, exchange}, return_when=asyncio.FIRST_COMPLETED)
                has_left = following.done() and following.result() is None
                how = "" if has_left else await exchange
                if how == "silence":
                    await self.ignore(following)
                request = await following if how == "keep" else None
            finally:
                for task in (following, exchange):
                    if task.done() and not task.cancelled():
                        task.exception()
                    task.cancel()

    async def ignore(self, following):
        """Until the client gives up and closes."""
        self.proxy.num_silent += 1
        try:
            while await following is not None:
                following = read_request(self.reader)
        finally:
            self.proxy.num_silent -= 1

    async def exchange(self, request):
        """How the connection goes on: keep, fin, rst or silence."""
        fault = self.proxy.fault
        if fault is not None and fault.fits_request(request) and fault.strikes():
            return await self.stand_in(fault, request)
        answer = await self.ask(request)
        # the one that is armed when the answer comes, not when a held query began
        fault = self.proxy.fault
        if fault is None or not fault.fits_answer(request, answer) or not fault.strikes():
            return await self.send(answer.bytes, "keep")
        data, how = fault.spoil(answer)
        if fault.kind == "drip":
            return await self.drip(data, fault)
        if fault.kind == "latency":
            await asyncio.sleep(fault.random.uniform(0.05, 0.4))
            await self.send(data[:len(data) // 2], "keep")
            await asyncio.sleep(fault.random.uniform(0.05, 0.4))
            data = data[len(data) // 2:]
        return await self.send(data, how)

    async def ask(self, request):
        if self.agent_writer is None:
            self.agent_reader, self.agent_writer = await asyncio.open_connection(
                "127.0.0.1", self.proxy.agent_port)
        self.agent_writer.write(request)
        return await read_answer(self.agent_reader)

    async def stand_in(self, fault, request):
        """The agent hears of a change all the same, or not."""
        if not is_blocking(request) and fault.random.random() < 0.5:
            await self.ask(request)
        data, is_end = fault.stand_in(request.startswith(b"GET "))
        return await self.send(data, "fin" if is_end else "keep")

    async def send(self, data, how):
        self.proxy.note(self.port, data.split(b"\r\n")[0][:40], len(data), "bytes, then", how)
        self.writer.write(data)
        await self.writer.drain()
        if how == "silence":
            self.close_agent()
        if how == "rst":
            reset(self.writer)
        return how

    async def drip(self, data, fault):
        """What is left when the fault is over comes at once."""
        at = 0
        while at < len(data) and self.proxy.fault is fault:
            self.writer.write(data[at:at + 1])
            await self.writer.drain()
            await asyncio.sleep(0.001 if at % 16 == 0 else 0)
            at += 1
        return await self.send(data[at:], "keep")


async def main():
    proxy = Proxy(int(sys.argv[1]))
    await proxy.start()
    print(proxy.port, flush=True)
    loop = asyncio.get_running_loop()
    while True:
        words = (await loop.run_in_executor(None, sys.stdin.readline)).split()
        if not words:
            break
        if words[0] == "arm":
            seed = words[2] if len(words) > 2 else 0
            await proxy.arm(words[1], seed, float(words[3]) if len(words) > 3 else 1.0)
        elif words[0] == "clear":
            print(await proxy.clear(), flush=True)
    proxy.close()


if __name__ == "__main__":
    asyncio.run(main())
