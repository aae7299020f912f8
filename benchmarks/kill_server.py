"""Kill servers and their clients: a sampling run over servers ends in exactly the answers of an undisturbed one.

    python benchmarks/kill_server.py               # 100 kills, writes results/kill_server.json
    python benchmarks/kill_server.py --kills 2     # the short form

Two servers without a model (`fake_server`) and one or two ranks of the correctness pipeline with --engine server, all
of them processes forked from this one. At random moments a server or a rank is killed with SIGKILL, and servers throw
in errors, cut answers and 429s. A killed server starts again after a while on its port, killed ranks when all have
ended. When a run is complete, its merged file and its rejects must equal those of the undisturbed run byte for byte: no
answer lost, none twice, no prompt given up.
"""

from __future__ import annotations

import random
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from fake_server import FakeServer, Fault, Habits
from killed_ranks import FORK, Kills, spend_kills

from internvl_chat.run.process import free_port

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "tests" / "golden" / "ckpt" / "tiny-qwen2"
SERVERS, SAMPLES = 2, 8
FAULTS = (Fault("status", 500), Fault("status", 429), Fault("cut"), Fault("garbage"))


def serve(port: int, delay: float, seed: int) -> None:
    """A server process that throws in a fault now and then, until it is killed."""
    chance = random.Random(seed)

    class Faulty(FakeServer):
        def choices(self, body: dict[str, Any], ids: list[int]) -> list[dict[str, Any]]:
            if delay and chance.random() < 0.03:
                self.faults.append(chance.choice(FAULTS))
            return super().choices(body, ids)

    Faulty(CHECKPOINT, habits=Habits(delay=delay), port=port).serve_forever()


@dataclass
class ServerKills(Kills):
    """Kills servers, and ranks that ask them.

    Attributes:
        ports: of the servers.
        servers: their processes.
    """

    ports: list[int] = field(default_factory=lambda: [free_port() for _ in range(SERVERS)])
    servers: list[BaseProcess] = field(default_factory=list)

    @property
    def spent(self) -> int:
        """Servers and ranks killed."""
        return self.counts["servers killed"] + self.counts["ranks killed"]

    def start_server(self, index: int, delay: float) -> BaseProcess:
        """Start a server on its port."""
        process = FORK.Process(target=serve, args=(self.ports[index], delay, self.chance.getrandbits(32)), daemon=True)
        process.start()
        return process

    @contextmanager
    def serving(self, delay: float) -> Any:
        """All servers, for as long as it lasts."""
        self.servers = [self.start_server(index, delay) for index in range(SERVERS)]
        for port in self.ports:
            wait_for(port)
        try:
            yield
        finally:
            for server in self.servers:
                server.kill()
                server.join()

    def start(self, out_dir: Path, world_size: int) -> list[BaseProcess]:
        """Start all ranks of one launch."""
        self.counts["rank starts"] += world_size
        flags = ["--engine", "server", "--checkpoint", str(CHECKPOINT), "--num-return-sequences", str(SAMPLES)]
        flags += ["--patience", "30", "--in-flight", "16"]
        flags += ["--server", *(f"http://127.0.0.1:{port}" for port in self.ports)]
        return self.start_ranks(out_dir, world_size, flags)

    def kill_one(self, ranks: list[BaseProcess], delay: float) -> None:
        """Kill a server, which starts again soon, or a rank."""
        living = [rank for rank in ranks if rank.is_alive()]
        if self.chance.random() < 0.6 or not living:
            index = self.chance.randrange(SERVERS)
            self.servers[index].kill()
            self.servers[index].join()
            self.counts["servers killed"] += 1
            time.sleep(self.chance.uniform(0, 0.5))
            self.servers[index] = self.start_server(index, delay)
            wait_for(self.ports[index])
        else:
            self.chance.choice(living).kill()
            self.counts["ranks killed"] += 1

    def run(self, wanted: int) -> None:
        """One sampling run with kills, to its end; ValueError if its answers differ."""
        out_dir, delay = self.folder / f"run-{self.counts['runs']}", 0.15
        with self.serving(delay):
            while not self.outcome(out_dir):
                ranks = self.start(out_dir, self.chance.randint(1, 2))
                while any(rank.is_alive() for rank in ranks) and self.spent < wanted:
                    time.sleep(self.chance.uniform(0.1, 1.0))
                    if any(rank.is_alive() for rank in ranks):
                        self.kill_one(ranks, delay)
                for rank in ranks:
                    rank.join()
        self.check(out_dir)

    def undisturbed(self) -> None:
        """The run that all others are measured by."""
        with self.serving(0.0):
            [rank] = self.start(self.folder / "calm", 1)
            rank.join()
        found = self.outcome(self.folder / "calm")
        if found is None:
            raise ValueError(f"the undisturbed run ended with {rank.exitcode}")
        self.expected = found


def wait_for(port: int) -> None:
    """Until somebody listens on a port; TimeoutError after a minute."""
    for _ in range(6000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise TimeoutError(f"nobody listens on port {port}")


if __name__ == "__main__":
    spend_kills(ServerKills, 100, about=__doc__)
