#!/usr/bin/env python3
"""Rounds of one fault and one change each, on real Consul agents, through the fault proxy.

    faults.py PROGRAM [--rounds 500] [--seed N] [--worlds 18-dev,18-server,new-dev,new-server]
              [--only KIND] [--minutes N]

A world is an agent, a proxy before it, and PROGRAM (faults.c) behind the proxy with its watches and
registrars. This script is the truth-teller: it changes registrations at the agent itself, asks it
what is true, and holds each event against that. In each round a fault is armed, something changes,
the fault strikes and ends. Then, within a bound, each list equals the agent's own and each wanted
registration is there. Every 25th round the agent is killed by SIGKILL and started again: "server"
keeps its state, "dev" forgets. At any time, fault or not:

  - an event without error is a state that the service has had in this round or the one before;
  - an empty list is published only of a service that was empty; an error keeps the last list;
  - nothing is in a list that was never registered.

The rounds are shared by the worlds, which run side by side. --seed is printed and repeats the
faults and changes; which of several connections meets a fault is still a matter of timing.

--minutes N is the soak: rounds go on for so long. Once a minute everything is put back as it was at
the start, rests, and is measured; the end is compared with the first minute."""

import argparse
import asyncio
import collections
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time

from proxy import Proxy

HERE = os.path.dirname(os.path.abspath(__file__))
CACHE = os.environ.get("SDC_CONSUL_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "sdconsul")
BINARIES = {"18": "consul-1.8.7", "new": "consul-1.22.7"}

KINDS = ("latency", "drip", "cut_head", "cut_body", "cut_chunk", "cut_last", "rst", "half_open",
         "status_5xx", "limit", "limit_after", "garbage", "refused", "closed", "false_empty",
         "index_back")
KILL_EVERY = 25
# How long after a fault all must be well. Mostly that is a pause of at most 1 s and a wait of 2 s;
# but 1.8 wakes a query for a service without instances at every registration of any other, and the
# reads of such a watch slow down to one each 15 s. The deadline of a half-open connection is 12 s.
BOUND_S = 20.0

# The soak's margins, from the first minute to the end. Blocks and bytes asked for are exact: what
# differs is the room that lists and buffers have grown to. Anonymous memory is whole pages, and an
# allocator keeps holes. RSS has pages of the program itself too, which come when rare code is run.
BLOCK_MARGIN = 8
LIVE_MARGIN_BYTES = 16 << 10
ANON_MARGIN_KIB = 128
RSS_MARGIN_KIB = 512
NUDGE_S = 4.0                   # before an agent that lost an update is helped
SLOW_S = 6.0                    # a round that took longer is told
REST_S = 4.0                    # until each task has asked again
PAUSE_MAX_S = 40.0              # a registrar without TTL that was refused is in no hurry


class Failure(Exception):
    pass


class Agent:
    """One real agent, by agents.sh."""

    def __init__(self, folder, version, mode):
        self.folder, self.mode = folder, mode
        self.version = {"18": "1.8", "new": "new"}[version]
        self.port = 0

    async def control(self, *words):
        process = await asyncio.create_subprocess_exec(
            os.path.join(HERE, "agents.sh"), self.folder, *words, stdout=asyncio.subprocess.PIPE)
        out = await process.communicate()
        if process.returncode != 0:
            raise Failure(f"agents.sh {' '.join(words)} ended with {process.returncode}")
        return out[0].decode().strip()

    async def start(self):
        self.port = int((await self.control("start", self.version, self.mode)).rsplit(":", 1)[1])

    async def ask(self, method, path, body=None):
        """By HTTP/1.0: the answer ends with the connection. Answers the decoded JSON, or None."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = json.dumps(body).encode() if body is not None else b""
        writer.write(b"%s %s HTTP/1.0\r\nHost: agent\r\nContent-Length: %d\r\n\r\n%s"
                     % (method.encode(), path.encode(), len(data), data))
        answer = await asyncio.wait_for(reader.read(), 15)
        writer.close()
        head, _, text = answer.partition(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise Failure(f"the agent answers {method} {path} with {answer[:200]!r}")
        return json.loads(text) if text else None

    async def truth(self, service):
        entries = await self.ask("GET", f"/v1/health/service/{service}")
        return frozenset(entry_text(entry) for entry in entries)


def entry_text(entry):
    """An entry of a health answer as the program says an instance."""
    service = entry["Service"]
    checks = entry["Checks"]
    worst = max((["passing", "warning", "critical"].index(c["Status"]) for c in checks), default=0)
    status = ["passing", "warning", "critical"][worst]
    if any(c["CheckID"].startswith("_service_maintenance:") for c in checks):
        status = "maintenance"
    return (f"{service['ID']} {service['Address']}:{service.get('Port', 0)} {status} "
            + ",".join(sorted(service["Tags"] or [])))


def without_status(text):
    one, addr, _, tags = text.split(" ")
    return one, addr, tags


class Service:
    """What is registered under one name, as far as this script or the program decides it."""

    def __init__(self, name, is_ours=True):
        self.name = name
        self.is_ours = is_ours          # else it is the registrars'
        self.instances = {}             # id -> text
        self.ever = set()               # all that was ever there, without its status
        self.noted = {self.state}       # states of this round
        self.before = set()             # and of the one before: an answer may be late
        # more than 0: states and parts of any time may be true
        self.loose_rounds = 0 if is_ours else 2
        self.empty_rounds = 0 if is_ours else 2

    @property
    def state(self):
        return frozenset(self.instances.values())

    @property
    def allowed(self):
        return self.noted | self.before

    @property
    def is_loose(self):
        return self.loose_rounds > 0

    def put(self, one, port, status, tags):
        text = f"{one} {address_of(one)}:{port} {status} {','.join(sorted(tags))}"
        self.instances[one] = text
        self.ever.add(without_status(text))
        self.noted.add(self.state)

    def remove(self, one):
        del self.instances[one]
        self.noted.add(self.state)

    def settle(self):
        self.before, self.noted = self.noted, {self.state}
        self.loose_rounds = max(0, self.loose_rounds - 1)
        self.empty_rounds = max(0, self.empty_rounds - 1)

    def loosen(self, may_be_empty):
        self.loose_rounds = 2
        self.empty_rounds = 2 if may_be_empty else self.empty_rounds


def address_of(one):
    return "10.88.%d.%d" % divmod(sum(one.encode()) * 7 % 65000, 256)


class Watch:
    def __init__(self, service, passing=False):
        self.service, self.passing = service, passing
        self.is_known = False
        self.err = None
        self.texts = frozenset()

    def view(self, state):
        return frozenset(t for t in state if " passing " in t) if self.passing else state

    def may_be_empty(self):
        return (self.service.empty_rounds > 0 or self.passing
                or any(not self.view(a) for a in self.service.allowed))

    def judge(self, err, is_known, texts):
        """Raises Failure when this must not be published."""
        service, state = self.service, frozenset(texts)
        if len(state) != len(texts):
            raise Failure(f"{service.name}: one instance twice: {texts}")
        if err != 0:
            if state != self.texts:
                raise Failure(f"{service.name}: error {err} changed the list from "
                              f"{sorted(self.texts)} to {texts}")
        elif not service.is_loose:
            if state not in {self.view(a) for a in service.allowed}:
                raise Failure(f"{service.name}: published {texts}, which never was")
        else:
            if not {without_status(t) for t in texts} <= service.ever:
                raise Failure(f"{service.name}: published {texts}, some of it invented")
            if not texts and not self.may_be_empty():
                raise Failure(f"{service.name}: emptied")
        self.err, self.is_known, self.texts = err, is_known, state


class Program:
    """faults.c: what it is told, and what it says."""

    def __init__(self):
        self.process = None
        self.watches = {}
        self.answers = asyncio.Queue()
        self.left = set()
        self.failure = None
        self.news = asyncio.Event()
        self.stats = {}
        self.recent = collections.deque(maxlen=40)

    async def start(self, path, port):
        # glibc keeps freed blocks of each size for each thread, in memory that would look held
        environment = dict(os.environ, GLIBC_TUNABLES="glibc.malloc.tcache_count=0")
        self.process = await asyncio.create_subprocess_exec(
            path, f"127.0.0.1:{port}", env=environment, stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, limit=1 << 20)
        self.listener = asyncio.ensure_future(self.listen())

    async def listen(self):
        while True:
            line = (await self.process.stdout.readline()).decode().rstrip("\n")
            if not line:
                self.failure = self.failure or Failure("the program ended")
                await self.answers.put("done\tthe program ended")
                self.news.set()
                return
            try:
                await self.hear(line)
            except Failure as failure:
                self.failure = self.failure or failure
            except (KeyError, ValueError, IndexError) as error:
                self.failure = self.failure or Failure(f"not understood: {line}: {error!r}")
            self.news.set()

    def note(self, line):
        self.recent.append(f"{time.monotonic():.3f} {line[:150]}")

    async def hear(self, line):
        words = line.split("\t")
        if words[0] == "done":
            await self.answers.put(line)
        elif words[0] == "event":
            # an event that was under way when its watch was taken off
            if words[1] in self.watches:
                self.watches[words[1]].judge(int(words[2]), words[3] == "1", words[4:])
            self.note(line)
        elif words[0] == "state":
            watch = self.watches[words[1]]
            if (watch.err, watch.texts) != (int(words[2]), frozenset(words[4:])):
                raise Failure(f"{words[1]}: sdc_instancer_state is not the last event")
        elif words[0] == "stats":
            self.stats = {key: int(value) for key, value in (w.split("=") for w in words[1:])}
        elif words[0] == "left":
            self.left.add(words[1])
            self.note(line)

    async def tell(self, *words):
        if words[0] not in ("states", "stats"):
            self.note("told " + " ".join(words))
        self.process.stdin.write((" ".join(words) + "\n").encode())
        answer = await asyncio.wait_for(self.answers.get(), 30)
        if answer != "done":
            raise self.failure or Failure(f"{' '.join(words)}: {answer}")

    async def watch(self, name, service, passing=False):
        self.watches[name] = Watch(service, passing)
        await self.tell("watch", name, service.name, *(["passing"] if passing else []))

    async def unwatch(self, name):
        del self.watches[name]
        await self.tell("unwatch", name)

    async def end(self):
        """What is left then is a leak, which the exit status tells."""
        await self.tell("quit")
        if await asyncio.wait_for(self.process.wait(), 10) != 0:
            raise Failure("the program leaks")


Registrar = collections.namedtuple("Registrar", "name service id port ttl_ms")


class World:
    def __init__(self, name, folder, options):
        version, mode = name.split("-")
        self.name, self.options = name, options
        self.version, self.mode = version, mode
        self.agent = Agent(os.path.join(folder, name), version, mode)
        self.proxy = None
        self.program = Program()
        self.services = {n: Service(n) for n in ("many", "few", "last", "ghost")}
        self.services.update({n: Service(n, is_ours=False) for n in ("web", "api")})
        # A TTL that no fault outlasts: outside of kills a status is what was told.
        self.registrars = [Registrar("r1", "web", "web-1", 8001, 12000),
                           Registrar("r2", "web", "web-2", 8002, 0),
                           Registrar("r3", "api", "api-1", 8003, 9000)]
        self.ports = {}                 # of our instances, for registering them anew
        self.note, self.last_missing = "start", ""
        self.nudger, self.num_nudged = None, 0
        self.num_rounds = 0
        self.num_made = 0
        self.deck = []
        self.times = collections.defaultdict(list)
        self.hits = collections.Counter()

    # -- what is there at the start, and again whenever the soak measures

    async def begin(self, program):
        await self.agent.start()
        self.proxy = Proxy(self.agent.port)
        await self.proxy.start()
        await self.program.start(program, self.proxy.port)
        await self.go_home()
        for name in ("many", "few", "last", "ghost", "web", "api"):
            await self.program.watch(name, self.services[name])
        await self.program.watch("many-passing", self.services["many"], passing=True)
        await self.program.watch("many-again", self.services["many"])
        for registrar in self.registrars:
            await self.join(registrar)
        await self.converge()

    async def go_home(self):
        base = {"many": 9, "few": 2, "last": 1}
        for name, num in base.items():
            service = self.services[name]
            wanted = [f"{name}-{i}" for i in range(num)]
            for one in set(service.instances) - set(wanted):
                await self.deregister(service, one)
            for i, one in enumerate(wanted):
                await self.register(service, one, 7000 + i, ["base"])
                await self.flip(service, one, "passing")
        for registrar in self.registrars if self.program.watches else []:
            await self.set_status(registrar, "passing")
            await self.program.tell("maintenance", registrar.name, "off")

    # -- changes

    async def register(self, service, one, port, tags):
        old = service.instances.get(one)
        status = old.split(" ")[2] if old is not None else "passing"
        self.ports[one] = (port, tags)
        service.put(one, port, status, tags)
        await self.agent.ask("PUT", "/v1/agent/service/register", {
            "ID": one, "Name": service.name, "Address": address_of(one), "Port": port,
            "Tags": tags, "Check": {"CheckID": f"service:{one}", "TTL": "24h", "Status": status}})

    async def deregister(self, service, one):
        service.remove(one)
        await self.agent.ask("PUT", f"/v1/agent/service/deregister/{one}")

    async def flip(self, service, one, status):
        port, tags = self.ports[one]
        service.put(one, port, status, tags)
        await self.agent.ask("PUT", f"/v1/agent/check/update/service:{one}",
                             {"Status": status, "Output": "told so"})

    async def join(self, registrar):
        self.services[registrar.service].put(registrar.id, registrar.port, "passing", [])
        await self.program.tell("register", registrar.name, registrar.service, registrar.id,
                                address_of(registrar.id), str(registrar.port),
                                str(registrar.ttl_ms))

    async def set_status(self, registrar, status):
        if registrar.ttl_ms != 0:
            self.services[registrar.service].put(registrar.id, registrar.port, status, [])
            await self.program.tell("status", registrar.name, status, "test")

    def change(self, rng, kind):
        """The one change of a round, as a coroutine, and its name."""
        if kind in ("cut_chunk", "cut_last"):       # only the answer of a long list has chunks
            return rng.choice([self.change_add, self.change_retag])(rng, self.services["many"])
        if kind == "cut_body":
            return self.change_retag(rng, self.services["few"])
        ours = self.services[rng.choice(["many", "many", "few"])]
        return rng.choice([
            lambda: self.change_add(rng, ours), lambda: self.change_remove(rng, ours),
            lambda: self.change_retag(rng, ours), lambda: self.change_flip(rng, ours),
            lambda: self.change_last(rng), lambda: self.change_status(rng),
            lambda: self.change_maintenance(rng), lambda: self.change_behind(rng),
            lambda: self.change_leave(rng), lambda: self.change_watch(rng)])()

    async def change_add(self, rng, service):
        self.num_made += 1
        if len(service.instances) > 14:
            return await self.change_remove(rng, service)
        await self.register(service, f"{service.name}-x{self.num_made % 50}",
                            rng.randrange(1024, 65536), rng.choice([[], ["x"], ["x", "y"]]))

    async def change_remove(self, rng, service):
        if len(service.instances) < 2:
            return await self.change_add(rng, service)
        await self.deregister(service, rng.choice(sorted(service.instances)))

    async def change_retag(self, rng, service):
        one = rng.choice(sorted(service.instances))
        await self.register(service, one, rng.randrange(1024, 65536), [f"t{rng.randrange(9)}"])

    async def change_flip(self, rng, service):
        one = rng.choice(sorted(service.instances))
        await self.flip(service, one, rng.choice(["passing", "warning", "critical"]))

    async def change_last(self, rng):
        service = self.services["last"]
        if service.instances:
            await self.deregister(service, "last-0")
        else:
            await self.register(service, "last-0", rng.randrange(1024, 65536), ["back"])

    async def change_status(self, rng):
        registrar = rng.choice([r for r in self.registrars if r.ttl_ms != 0])
        await self.set_status(registrar, rng.choice(["passing", "warning", "critical"]))

    async def change_maintenance(self, rng):
        registrar = rng.choice(self.registrars)
        service = self.services[registrar.service]
        before = service.instances[registrar.id]
        service.put(registrar.id, registrar.port, "maintenance", [])
        await self.program.tell("maintenance", registrar.name, "on")
        await asyncio.sleep(rng.uniform(0, 0.5))
        service.put(registrar.id, registrar.port, before.split(" ")[2], [])
        await self.program.tell("maintenance", registrar.name, "off")

    async def change_behind(self, rng):
        """Somebody else deregisters what a registrar keeps."""
        registrar = rng.choice(self.registrars)
        self.services[registrar.service].loosen(may_be_empty=registrar.service == "api")
        await self.agent.ask("PUT", f"/v1/agent/service/deregister/{registrar.id}")

    async def change_leave(self, rng):
        """A program ends and is started again."""
        registrar = rng.choice(self.registrars)
        self.services[registrar.service].loosen(may_be_empty=registrar.service == "api")
        self.program.left.discard(registrar.name)
        await self.program.tell("leave", registrar.name)
        await self.until(lambda: registrar.name in self.program.left, 5, "left")
        await self.join(registrar)

    async def change_watch(self, rng):
        name = rng.choice(sorted(self.program.watches))
        watch = self.program.watches[name]
        await self.program.unwatch(name)
        await self.program.watch(name, watch.service, watch.passing)

    # -- waiting, and the truth

    async def until(self, condition, seconds, what):
        end = time.monotonic() + seconds
        while not condition():
            if self.program.failure is not None:
                raise self.program.failure
            left = end - time.monotonic()
            if left <= 0:
                raise Failure(f"not within {seconds} s: {what}")
            self.program.news.clear()
            try:
                await asyncio.wait_for(self.program.news.wait(), min(left, 0.02))
            except asyncio.TimeoutError:
                pass
        if self.program.failure is not None:
            raise self.program.failure

    def is_seen(self, name):
        watch = self.program.watches[name]
        is_seen = watch.err == 0 and watch.is_known and (
            watch.texts == watch.view(watch.service.state))
        if not is_seen:
            self.last_missing = f"{name} (error {watch.err})"
        return is_seen

    def is_all_seen(self):
        """No connection is left silent for a later round, either."""
        return self.proxy.num_silent == 0 and all(map(self.is_seen, self.program.watches))

    def what_is_not_seen(self):
        silent = f"{self.proxy.num_silent} silent connections; " if self.proxy.num_silent else ""
        return silent + "; ".join(
            f"{name} has {sorted(watch.texts)} (error {watch.err}), wanted are "
            f"{sorted(watch.view(watch.service.state))}"
            for name, watch in self.program.watches.items() if not self.is_seen(name))

    async def what_is_not_true(self):
        truths = await asyncio.gather(*(self.agent.truth(name) for name in self.services))
        return "; ".join(f"{service.name}: the agent has {sorted(truth)}, wanted are "
                         f"{sorted(service.state)}"
                         for service, truth in zip(self.services.values(), truths)
                         if truth != service.state)

    async def converge(self):
        """Until each watch has what the agent itself says, and the agent what is wanted."""
        begin = time.monotonic()
        end = begin + BOUND_S
        while True:
            await self.until(self.is_all_seen, end - time.monotonic(), Lazy(self.what_is_not_seen))
            wrong = await self.what_is_not_true()
            if not wrong and self.is_all_seen():
                break
            self.last_missing = wrong or self.what_is_not_seen()
            if time.monotonic() > end:
                raise Failure(self.last_missing)
            await asyncio.sleep(0.02)
        seconds = time.monotonic() - begin
        if seconds > SLOW_S and not self.note.endswith("half_open"):
            print(f"slow: {self.name}, {self.note}, {seconds:.1f} s: {self.last_missing}",
                  flush=True)
        for service in self.services.values():
            service.settle()
        await self.program.tell("states")
        return seconds

    # -- rounds

    def next_kind(self, rng):
        if self.options.only:
            return self.options.only
        if self.num_rounds % KILL_EVERY == 0:
            return "kill"
        if not self.deck:
            self.deck = list(KINDS)
            rng.shuffle(self.deck)
        return self.deck.pop()

    async def round(self):
        self.num_rounds += 1
        rng = random.Random(f"{self.options.seed}/{self.name}/{self.num_rounds}")
        kind = self.next_kind(rng)
        self.note = f"round {self.num_rounds}, {kind}"
        if kind == "kill":
            await self.kill(rng)
        else:
            await self.spoil(kind, rng)
        self.times[kind].append(await self.converge())
        if self.nudger is not None:
            self.nudger.cancel()
            self.nudger = None

    async def spoil(self, kind, rng):
        share = rng.choice([1.0, 1.0, 0.5])
        await self.proxy.arm(kind, rng.random(), share)
        await self.change(rng, kind)
        await self.until(lambda: self.proxy.fault.num_hits > 0, 8, f"{kind} struck nothing")
        await asyncio.sleep(rng.uniform(0, 0.8))
        self.hits[kind] += await self.proxy.clear()

    async def kill(self, rng):
        await self.agent.control("kill")
        self.proxy.refuse()
        follower = asyncio.ensure_future(self.proxy.follow())
        for service in self.services.values():
            service.loosen(may_be_empty=self.mode == "dev")
        await asyncio.sleep(rng.uniform(0, 1.5))
        await self.agent.control("up")
        await follower
        self.hits["kill"] += 1
        self.nudger = asyncio.ensure_future(self.nudge())
        for service in self.services.values():
            for one in sorted(service.instances) if service.is_ours else []:
                await self.restore(service, one)

    async def restore(self, service, one):
        """A server finds services again, but checks that were never updated turn critical."""
        status = service.instances[one].split(" ")[2]
        if self.mode == "dev":
            await self.register(service, one, *self.ports[one])
        else:
            await self.flip(service, one, status)

    async def nudge(self):
        """An agent that starts puts checks into its catalog as critical. An update that comes
        while it does so can get lost there: the agent's own state has it, the catalog not until
        the next full synchronisation, minutes later. Another change of it brings it there."""
        while True:
            await asyncio.sleep(NUDGE_S)
            local = await self.agent.ask("GET", "/v1/agent/checks")
            for service in self.services.values():
                for text in await self.agent.truth(service.name) - service.state:
                    one, _, status, _ = text.split(" ")
                    wanted = service.instances.get(one, text).split(" ")[2]
                    mine = local.get(f"service:{one}", {}).get("Status")
                    if status != wanted and mine == wanted:
                        await self.nudge_one(service, one, wanted)

    async def nudge_one(self, service, one, wanted):
        self.num_nudged += 1
        for status in ("warning" if wanted != "warning" else "passing", wanted):
            if service.is_ours:
                await self.flip(service, one, status)
            else:
                await self.set_status(next(r for r in self.registrars if r.id == one), status)
            await asyncio.sleep(0.5)

    async def measure(self):
        await self.go_home()
        await self.converge()
        await asyncio.sleep(REST_S)
        end = time.monotonic() + PAUSE_MAX_S
        while True:
            await self.program.tell("stats")
            stats = self.program.stats
            if (stats["connected"] == stats["tasks"] and
                    stats["registered"] == len(self.registrars)):
                return dict(stats, rounds=self.num_rounds)
            if time.monotonic() > end:
                raise Failure(f"not all tasks are connected and registered: {stats}")
            await asyncio.sleep(0.1)

    async def end(self):
        await self.program.end()

    async def clean(self):
        if self.nudger is not None:
            self.nudger.cancel()
        if self.program.process is not None and self.program.process.returncode is None:
            self.program.process.kill()
            await self.program.process.wait()
        if self.proxy is not None:
            self.proxy.close()
        if os.path.isdir(self.agent.folder):
            await self.agent.control("stop")


class Lazy:
    """A text that is made only when it is shown."""

    def __init__(self, make):
        self.make = make

    def __str__(self):
        return self.make()


# ---- the two programs ----------------------------------------------------------------------------

async def run_rounds(world, num):
    while world.num_rounds < num:
        await world.round()
    await world.end()


def sample_text(stats):
    return (f"RSS {stats['rss_kib']} KiB, {stats['anon_kib']} of it anonymous, "
            f"{stats['descriptors']} descriptors, {stats['live_bytes']} live bytes in "
            f"{stats['live_blocks']} blocks")


def compare(world, first, last):
    margins = {"descriptors": 0, "live_blocks": BLOCK_MARGIN, "live_bytes": LIVE_MARGIN_BYTES,
               "anon_kib": ANON_MARGIN_KIB, "rss_kib": RSS_MARGIN_KIB}
    for label, stats in (("after the first minute", first), ("at the end", last)):
        print(f"{world.name:10} {label:22} {sample_text(stats)}", flush=True)
    grown = [f"{key} from {first[key]} to {last[key]}, {margin} are allowed"
             for key, margin in margins.items()
             if last[key] - first[key] > margin or (margin == 0 and last[key] != first[key])]
    if grown:
        raise Failure("; ".join(grown))


async def run_soak(world, minutes):
    begin = time.monotonic()
    samples = []
    while len(samples) < minutes:
        while time.monotonic() < begin + 60 * (len(samples) + 1):
            await world.round()
        samples.append(await world.measure())
        now = samples[-1]
        print(f"{world.name:10} minute {len(samples):3}: {now['rounds']} rounds, "
              f"{sample_text(now)}, {now['requests']} requests, {now['failures']} failures",
              flush=True)
    compare(world, samples[0], samples[-1])
    await world.end()


async def run_world(world, options, num_rounds):
    """Whether all was well. Says how to repeat it when not."""
    try:
        await world.begin(options.program)
        if options.minutes:
            await run_soak(world, options.minutes)
        else:
            await run_rounds(world, num_rounds)
        return True
    except (Failure, OSError, asyncio.TimeoutError) as failure:
        seen = world.proxy.recent if world.proxy is not None else []
        print(f"FAILED {world.name}, {world.note}: {failure or type(failure).__name__}\n"
              f"  now {time.monotonic():.3f}; what the program said, and what the proxy saw:\n    "
              + "\n    ".join(sorted([*world.program.recent, *seen]))
              + f"\n  again: make test-faults SEED={options.seed} WORLDS={world.name} "
                f"ROUNDS={world.num_rounds}", flush=True)
        return False
    finally:
        await world.clean()


def report(worlds):
    """A line for each kind of fault: how long after its end all was well again."""
    versions = [v for v in BINARIES if any(w.version == v for w in worlds)]
    print(f"{'fault':12} {'rounds':>6} {'struck':>6}  until all is well, p50 / max in ms:"
          + "".join(f"  {BINARIES[v]:>15}" for v in versions))
    for kind in KINDS + ("kill",):
        line = (f"{kind:12} {sum(len(w.times[kind]) for w in worlds):6} "
                f"{sum(w.hits[kind] for w in worlds):6}  {'':37}")
        for version in versions:
            times = [1000 * t for w in worlds if w.version == version for t in w.times[kind]]
            line += (f"  {statistics.median(times):6.0f} / {max(times):6.0f}" if times
                     else f"  {'-':>15}")
        print(line)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(1 << 32)))
    parser.add_argument("--worlds", default="18-dev,18-server,new-dev,new-server")
    parser.add_argument("--only", choices=KINDS + ("kill",))
    parser.add_argument("--minutes", type=int, default=0)
    options = parser.parse_args()
    begin = time.monotonic()
    names = []
    for name in options.worlds.split(","):
        if os.access(os.path.join(CACHE, BINARIES[name.split("-")[0]]), os.X_OK):
            names.append(name)
        else:
            print(f"skipped: {name}: no such agent; tests/consul/get.sh gets it")
    if not names:
        return 0
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="sdconsul.") as folder:
        worlds = [World(name, folder, options) for name in names]
        tasks = [asyncio.ensure_future(run_world(w, options, -(-options.rounds // len(worlds))))
                 for w in worlds]
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(
                sign, lambda: [task.cancel() for task in tasks])
        results = await asyncio.gather(*tasks, return_exceptions=True)
    report(worlds)
    num_failed = sum(1 for r in results if r is not True)
    for result in results:
        if isinstance(result, Exception):
            raise result
    num_nudged = sum(w.num_nudged for w in worlds)
    if num_nudged:
        print(f"{num_nudged} times a started agent's catalog lost an update that the agent had")
    print(f"{sum(w.num_rounds for w in worlds)} rounds in {len(worlds)} worlds, "
          f"{num_failed} worlds failed, {time.monotonic() - begin:.0f} s, seed {options.seed}")
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
