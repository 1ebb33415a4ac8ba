#!/usr/bin/env python3
"""Each fault of the proxy does what its name says, seen from a plain socket: without this the
rounds of faults.py could pass because nothing was ever spoiled."""

import asyncio
import re
import socket
import sys
import unittest

from proxy import CONNECTION_FAULTS, Proxy

CHUNKS = [b"a" * 2048, b"b" * 700]
CHUNKED = (b"HTTP/1.1 200 OK\r\nX-Consul-Index: 77\r\nTransfer-Encoding: chunked\r\n\r\n"
           + b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in CHUNKS) + b"0\r\n\r\n")
BY_LENGTH = b"HTTP/1.1 200 OK\r\nX-Consul-Index: 77\r\nContent-Length: 9\r\n\r\n[1, 2, 3]"
READ = b"GET /v1/health/service/web HTTP/1.1\r\nHost: a\r\n\r\n"
HELD = READ.replace(b"web ", b"web?index=70&wait=2s ")
WRITE = b"PUT /v1/agent/service/register HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"


class Case(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.answer = CHUNKED
        self.num_asked = 0
        self.served = set()
        self.agent = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.proxy = Proxy(self.agent.sockets[0].getsockname()[1])
        await self.proxy.start()
        self.writers = []

    async def asyncTearDown(self):
        for writer in self.writers:
            writer.close()
        self.proxy.close()
        self.kill_agent()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait_for(asyncio.gather(*left, return_exceptions=True), 5)

    async def serve(self, reader, writer):
        """An agent that answers everything with one answer."""
        self.served.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(2 if b"PUT" in head else 0)
                self.num_asked += 1
                writer.write(self.answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.served.discard(writer)
            writer.close()

    def kill_agent(self):
        self.agent.close()
        for writer in list(self.served):
            writer.transport.abort()

    async def connect(self):
        self.reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy.port)
        self.writers.append(writer)
        return writer

    async def hear(self, seconds=5):
        """(what comes, how it ends: open, fin or rst)."""
        data = b""
        while True:
            try:
                piece = await asyncio.wait_for(self.reader.read(65536), seconds)
            except asyncio.TimeoutError:
                return data, "open"
            except ConnectionResetError:
                return data, "rst"
            if not piece:
                return data, "fin"
            data += piece

    async def hear_all(self, answer=CHUNKED):
        """Exactly this comes, and the connection stays open."""
        self.assertEqual(await asyncio.wait_for(self.reader.readexactly(len(answer)), 5), answer)
        self.assertEqual(await self.hear(0.02), (b"", "open"))

    async def hear_head(self):
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)

    async def spoiled(self, kind, seed=1, request=READ, answer=CHUNKED, seconds=5):
        self.answer = answer
        await self.proxy.arm(kind, seed)
        (await self.connect()).write(request)
        heard = await self.hear(seconds)
        self.assertGreaterEqual(await self.proxy.clear(), 1)
        return heard

    async def assert_cut(self, kind, answer, low, high):
        """FIN after at least `low` and fewer than `high` bytes, and not always at one place."""
        lengths = set()
        for seed in range(12):
            data, end = await self.spoiled(kind, seed, answer=answer)
            self.assertEqual(end, "fin")
            self.assertEqual(data, answer[:len(data)])
            self.assertTrue(low <= len(data) < high, f"{low} <= {len(data)} < {high}")
            lengths.add(len(data))
        self.assertGreater(len(lengths), 2)

    async def test_nothing_is_armed(self):
        writer = await self.connect()
        for request in (READ, WRITE, HELD):
            writer.write(request)
            await self.hear_all()
        self.assertEqual(self.num_asked, 3)

    async def test_latency(self):
        writer = await self.connect()
        await self.proxy.arm("latency", 1)
        begin = asyncio.get_running_loop().time()
        writer.write(READ)
        await self.reader.readexactly(len(CHUNKED))
        self.assertGreater(asyncio.get_running_loop().time() - begin, 0.1)

    async def test_drip(self):
        writer = await self.connect()
        sock = writer.get_extra_info("socket")
        self.assertIsNotNone(sock)
        await self.proxy.arm("drip", 1)
        writer.write(READ)
        sizes, data = [], b""
        while len(data) < len(CHUNKED):
            piece = await asyncio.wait_for(self.reader.read(65536), 1)
            sizes.append(len(piece))
            data += piece
        self.assertEqual(data, CHUNKED)
        self.assertGreater(len(sizes), len(CHUNKED) // 40)

    async def test_cut_head(self):
        await self.assert_cut("cut_head", CHUNKED, 0, CHUNKED.index(b"\r\n\r\n") + 4)

    async def test_cut_body(self):
        await self.assert_cut("cut_body", BY_LENGTH, BY_LENGTH.index(b"["), len(BY_LENGTH))

    async def test_cut_chunk(self):
        begin = CHUNKED.index(b"a" * 9)
        await self.assert_cut("cut_chunk", CHUNKED, begin, len(CHUNKED) - 7)
        for seed in range(12):
            data, _ = await self.spoiled("cut_chunk", seed)
            self.assertIsNone(re.search(rb"[ab]\r\n$|b\r\n0", data))

    async def test_cut_last(self):
        await self.assert_cut("cut_last", CHUNKED, len(CHUNKED) - 5, len(CHUNKED))

    async def test_chunk_faults_leave_others_alone(self):
        self.answer = BY_LENGTH
        for kind in ("cut_chunk", "cut_last"):
            await self.proxy.arm(kind, 1)
            (await self.connect()).write(READ)
            await self.hear_all(BY_LENGTH)
            self.assertEqual(await self.proxy.clear(), 0)

    async def test_rst(self):
        ends = [(await self.spoiled("rst", seed))[1] for seed in range(6)]
        self.assertEqual(ends, ["rst"] * 6)

    async def test_half_open(self):
        data, end = await self.spoiled("half_open", 1, seconds=0.5)
        self.assertEqual(end, "open")
        self.assertLess(len(data), len(CHUNKED))
        self.assertEqual(self.served, set())    # the agent is not kept waiting
        self.assertEqual(self.proxy.num_silent, 1)
        self.writers[-1].write(READ)
        self.assertEqual(await self.hear(0.1), (b"", "open"))
        self.writers.pop().close()
        while self.proxy.num_silent > 0:
            await asyncio.sleep(0.001)

    async def test_status(self):
        for kind, pattern in (("status_5xx", rb"HTTP/1.1 50[0234] "), ("limit", rb"HTTP/1.1 429 "),
                              ("limit_after", rb"(?s)HTTP/1.1 429 .*Retry-After: ")):
            for seed in range(8):
                await self.proxy.arm(kind, seed)
                (await self.connect()).write(READ)
                data = await self.hear_head()
                self.assertRegex(data, pattern)
                self.assertEqual(b"Retry-After" in data, kind == "limit_after")

    async def test_some_stand_ins_hide_a_request_that_was_obeyed(self):
        for seed in range(16):
            await self.proxy.arm("status_5xx", seed)
            (await self.connect()).write(WRITE)
            await self.hear_head()
        self.assertTrue(0 < self.num_asked < 16)

    async def test_garbage(self):
        heard = [await self.spoiled("garbage", seed) for seed in range(40)]
        self.assertEqual({end for _, end in heard}, {"fin"})
        self.assertTrue(any(not data.startswith(b"HTTP/1.1 200") for data, _ in heard))
        self.assertTrue(any(data.startswith(b"HTTP/1.1 200") for data, _ in heard))

    async def test_refused(self):
        await self.connect()
        (await self.connect()).write(READ)
        await self.hear_all()
        await self.proxy.arm("refused")
        self.assertEqual((await self.hear())[1], "rst")
        for _ in range(50):
            with self.assertRaises(ConnectionRefusedError):
                await self.connect()
        with self.assertRaises(OSError), socket.socket() as other:
            other.bind(("127.0.0.1", self.proxy.port))      # the port stays the proxy's
        self.assertEqual(await self.proxy.clear(), 2)
        (await self.connect()).write(READ)
        await self.hear_all()

    async def test_closed(self):
        await self.connect()
        await self.proxy.arm("closed")
        self.assertEqual(await self.hear(), (b"", "fin"))
        await self.connect()
        self.assertEqual(await self.hear(), (b"", "fin"))
        self.assertEqual(self.num_asked, 0)

    async def test_false_empty(self):
        data, end = await self.spoiled("false_empty", request=HELD, seconds=0.3)
        self.assertRegex(data, rb"(?s)200 OK.*X-Consul-Index: 1\r\n.*\r\n\r\n\[\]$")
        self.assertEqual(end, "open")
        await self.proxy.arm("false_empty")
        (await self.connect()).write(READ)      # only a blocking query is answered so
        await self.hear_all()

    async def test_index_back(self):
        await self.proxy.arm("index_back")
        (await self.connect()).write(HELD)
        await self.hear_all(CHUNKED.replace(b"Index: 77", b"Index: 1"))

    async def test_share(self):
        await self.proxy.arm("status_5xx", 3, 0.5)
        writer = await self.connect()
        for _ in range(40):
            writer.write(READ)
            head = await self.hear_head()
            whole = CHUNKED if b"200 OK" in head else head
            length = re.search(rb"Content-Length: (\d+)", head)
            await self.reader.readexactly(int(length[1]) if length else len(whole) - len(head))
        self.assertTrue(8 < await self.proxy.clear() < 32)

    async def test_an_agent_that_dies_is_seen(self):
        writer = await self.connect()
        writer.write(READ)
        await self.hear_all()
        self.answer = b""                       # a query that is held
        writer.write(HELD)
        await asyncio.sleep(0.05)
        self.kill_agent()
        self.assertEqual(await self.hear(), (b"", "fin"))
        self.proxy.refuse()
        follower = asyncio.ensure_future(self.proxy.follow())
        await asyncio.sleep(0.1)
        self.assertFalse(follower.done())
        with self.assertRaises(ConnectionRefusedError):
            await self.connect()
        self.agent = await asyncio.start_server(self.serve, "127.0.0.1", self.proxy.agent_port)
        await asyncio.wait_for(follower, 2)
        self.answer = CHUNKED
        (await self.connect()).write(READ)
        await self.hear_all()


def main():
    """Ends with the line that every test program of this project ends with."""
    result = unittest.TextTestRunner(sys.stdout, verbosity=1).run(
        unittest.defaultTestLoader.loadTestsFromTestCase(Case))
    num_failed = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - num_failed} passed, {num_failed} failed, 0 skipped")
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
