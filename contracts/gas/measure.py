#!/usr/bin/env python3
"""Gas per job, from receipts of a local chain (anvil's default rules, EIP-7623's floor for calldata included).

The committed contracts are deployed as in production; batches are signed and in sequence, every job number is new (so
the bitmap grows by new slots), and all accounts have been used before. The figure is the mean of batches that follow each
other. Beside them, in the same run, what a transaction a job and a batch of plain structs cost. Exits with 1 if a figure
is above its target. Called by gas.sh; needs Python's standard library and the programs in .build/bin.
"""

import json
import math
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

CONTRACTS = pathlib.Path(__file__).resolve().parent.parent
BIN = CONTRACTS.parent / ".build/bin"
SIGNER_KEY = "0x" + "51" * 32
LANE = 7
GROUPS = 20
# Batches of each size, one after the other: where a batch begins and ends within a word of the bitmap moves its gas by a
# new slot (44 gas per job at 500 jobs).
BATCHES = 7
WORD_BITS = 224
VALID_UNTIL = 1 << 40
DAY = 86_400
# 720,000 nano-tokens per GPU-second, as it stands in a batch.
PRICE = 720_000 * 10**6
# Gas per job: neighbouring account numbers, and one account to a storage slot.
TARGETS = {
    "neighbouring": {500: 500, 1_000: 380, 2_000: 300},
    "scattered": {500: 780, 1_000: 500, 2_000: 370},
}


def program(name: str, *arguments: str) -> str:
    """Runs a program of Foundry's and gives what it prints."""
    return subprocess.run([BIN / name, *arguments], check=True, capture_output=True, text=True).stdout.strip()


class Chain:
    """A local chain and its first account, whose transactions are mined at once."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.anvil = subprocess.Popen(
            [BIN / "anvil", "--port", str(port), "--gas-limit", "60000000", "--silent"], stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                self.account = self.call("eth_accounts")[0]
                return
            except OSError:
                if self.anvil.poll() is not None or time.monotonic() > deadline:
                    sys.exit("gas: anvil did not start")
                time.sleep(0.05)

    def call(self, method: str, *parameters: object) -> object:
        """Calls the chain and gives the result."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.load(response)
        if "error" in answer:
            sys.exit(f"gas: {method}: {answer['error']}")
        return answer["result"]

    def send(self, data: str, to: str | None = None) -> dict:
        """Sends a transaction and gives its receipt; it must succeed."""
        transaction = {"from": self.account, "data": data, "gas": hex(16_000_000)}
        if to:
            transaction["to"] = to
        sent = self.call("eth_sendTransaction", transaction)
        deadline = time.monotonic() + 30
        while not (receipt := self.call("eth_getTransactionReceipt", sent)):
            if time.monotonic() > deadline:
                sys.exit(f"gas: transaction {sent} was not mined")
            time.sleep(0.005)
        if receipt["status"] != "0x1":
            sys.exit(f"gas: transaction {sent} failed: {receipt}")
        return receipt

    def deploy(self, bytecode: str, types: str = "", *arguments: str) -> str:
        """Deploys a contract and gives its address."""
        encoded = program("cast", "abi-encode", f"f({types})", *arguments)[2:] if types else ""
        return self.send(bytecode + encoded)["contractAddress"]

    def invoke(self, contract: str, signature: str, *arguments: str) -> int:
        """Calls a function in a transaction and gives its gas."""
        return int(self.send(program("cast", "calldata", signature, *arguments), contract)["gasUsed"], 16)


def committed(name: str) -> str:
    """The bytecode that abi.sh keeps true to the sources."""
    return json.loads((CONTRACTS / f"abi/{name}.json").read_text())["bytecode"]


def baselines() -> dict:
    """Compiles Baselines.sol: contract name to bytecode."""
    files = [CONTRACTS / "gas/Baselines.sol", *(CONTRACTS / "node_modules/@openzeppelin/contracts").rglob("*.sol")]
    root = CONTRACTS / "node_modules"
    sources = {
        (str(f.relative_to(root)) if root in f.parents else f.name): {"content": f.read_text()} for f in files
    }
    wanted = {"Baselines.sol": {"*": ["evm.bytecode.object"]}}
    settings = {
        "optimizer": {"enabled": True, "runs": 10_000},
        "evmVersion": "cancun",
        "outputSelection": wanted,
    }
    question = json.dumps({"language": "Solidity", "sources": sources, "settings": settings})
    answer = subprocess.run(
        [CONTRACTS / "bin/solc", "--standard-json"], input=question, check=True, capture_output=True, text=True
    ).stdout
    output = json.loads(answer)
    errors = [e["formattedMessage"] for e in output.get("errors", []) if e["severity"] == "error"]
    if errors:
        sys.exit("".join(errors))
    return {n: "0x" + c["evm"]["bytecode"]["object"] for n, c in output["contracts"]["Baselines.sol"].items()}


class Lane:
    """The lane of a deployed settlement, and the next batch on it."""

    def __init__(self, chain: Chain, accounts: int) -> None:
        self.chain = chain
        admin = chain.account
        token = chain.deploy(committed("GridToken"), "string,string,uint8,uint256", "Grid", "GRID", "18", str(10**29))
        vault = chain.deploy(
            committed("StakeVault"), "address,address,uint48,address", token, admin, str(DAY), admin
        )
        setup = f"({token},{vault},{admin},{DAY},{admin},{admin},{admin},500,{DAY})"
        self.settlement = chain.deploy(
            committed("Settlement"),
            "(address,address,address,uint48,address,address,address,uint16,uint64)",
            setup,
        )
        chain.invoke(vault, "setSettlement(address)", self.settlement)
        signer = program("cast", "wallet", "address", SIGNER_KEY)
        chain.invoke(self.settlement, "openLane(uint32,address,address)", str(LANE), signer, admin)
        chain.invoke(token, "approve(address,uint256)", self.settlement, str(2**256 - 1))
        someone = "0x" + "77" * 20
        for _ in range(accounts):
            chain.invoke(vault, "register(address,address)", someone, admin)
            chain.invoke(self.settlement, "registerPayer(uint32)", str(LANE))
        chain.call("evm_increaseTime", DAY)
        chain.call("evm_mine")
        for number in range(1, accounts + 1):
            chain.invoke(self.settlement, "activateProvider(uint32)", str(number))
            chain.invoke(self.settlement, "deposit(uint32,uint32,uint64)", str(LANE), str(number), str(10**16))
        self.seq, self.prev, self.next_job = 0, "0x" + "00" * 32, 0
        chain_id = int(chain.call("eth_chainId"), 16)
        kind = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
        self.domain = keccak_of(
            "bytes32,bytes32,bytes32,uint256,address",
            keccak(kind),
            keccak("Gridstake Settlement"),
            keccak("1"),
            str(chain_id),
            self.settlement,
        )

    def settle(self, jobs: int, accounts: list[int], load: random.Random) -> int:
        """Settles a batch of `jobs` new numbers, job by job of one of the groups; gives the transaction's gas."""
        entries = [(self.next_job + n, load.randrange(len(accounts)), gpu_millis(load)) for n in range(jobs)]
        data = "0x" + encode(entries, [(a, a, PRICE) for a in accounts]).hex()
        seq, root = self.seq + 1, keccak(f"usage root {self.seq}")
        kind = "Batch(uint32 lane,uint64 seq,bytes32 prev,bytes32 usageRoot,bytes32 dataHash,uint64 validUntil)"
        content = keccak_of(
            "bytes32,uint32,uint64,bytes32,bytes32,bytes32,uint64",
            *(keccak(kind), str(LANE), str(seq), self.prev, root, keccak(data), str(VALID_UNTIL)),
        )
        digest = keccak("0x1901" + self.domain[2:] + content[2:])
        signature = program("cast", "wallet", "sign", "--no-hash", "--private-key", SIGNER_KEY, digest)[2:]
        r, s, v = signature[:64], int(signature[64:128], 16), int(signature[128:], 16)
        gas = self.chain.invoke(
            self.settlement,
            "settle(uint32,uint64,bytes32,bytes32,uint64,bytes32,bytes32,bytes)",
            *(str(LANE), str(seq), self.prev, root, str(VALID_UNTIL)),
            *("0x" + r, f"0x{s | (v - 27) << 255:064x}", data),
        )
        self.prev = keccak_of(
            "bytes32,uint32,uint64,bytes32,bytes32", *(self.prev, str(LANE), str(seq), root, keccak(data))
        )
        self.seq, self.next_job = seq, self.next_job + jobs
        return gas


def keccak(text: str) -> str:
    """keccak256 of a text, or of bytes in hexadecimal."""
    return program("cast", "keccak", text)


def keccak_of(types: str, *arguments: str) -> str:
    """keccak256 of ABI-encoded values."""
    return keccak(program("cast", "abi-encode", f"f({types})", *arguments))


def gpu_millis(load: random.Random) -> int:
    """GPU-milliseconds of a job: 1 second to 32 hours, each order of magnitude as likely as another."""
    return int(1_000 * math.exp(load.random() * math.log(115_200)))


def encode(entries: list[tuple[int, int, int]], groups: list[tuple[int, int, int]]) -> bytes:
    """The wire format of contracts/src/settlement/PackedBatch.sol: entries are (number, group, units)."""
    group_bits = (len(groups) - 1).bit_length()
    unit_bits = max(units for _, _, units in entries).bit_length()
    width = max(1, -(-(group_bits + unit_bits) // 8))
    words: dict[int, int] = {}
    for number, _, _ in entries:
        words[number // WORD_BITS] = words.get(number // WORD_BITS, 0) | 1 << number % WORD_BITS
    data = bytes([width, group_bits]) + len(groups).to_bytes(2, "big") + len(words).to_bytes(2, "big")
    data += b"".join((word << WORD_BITS | mask).to_bytes(32, "big") for word, mask in sorted(words.items()))
    data += b"".join(
        payer.to_bytes(4, "big") + provider.to_bytes(4, "big") + price.to_bytes(8, "big")
        for payer, provider, price in groups
    )
    shift = 8 * width - group_bits
    return data + b"".join((group << shift | units).to_bytes(width, "big") for _, group, units in entries)


def per_transaction(chain: Chain, code: dict, load: random.Random) -> float:
    """Gas of one payment in a transaction of its own, to a provider that has been paid before."""
    token = chain.deploy(code["PlainToken"])
    payments = chain.deploy(code["PaymentPerJob"], "address", token)
    chain.invoke(token, "transfer(address,uint256)", payments, str(10**29))
    provider = f"0x{load.getrandbits(160):040x}"
    gas = [
        chain.invoke(
            payments,
            "pay(bytes32,address,uint256)",
            *(f"0x{load.getrandbits(256):064x}", provider, str(PRICE // 10**9 * gpu_millis(load) * 10**9)),
        )
        for _ in range(11)
    ]
    return sum(gas[1:]) / 10


def per_struct(chain: Chain, code: dict, jobs: int, load: random.Random) -> float:
    """Gas per job of a batch of plain structs, to providers that have been paid before."""
    batches = chain.deploy(code["BatchOfStructs"])
    providers = [f"0x{load.getrandbits(160):040x}" for _ in range(GROUPS)]

    def settle(seq: int, count: int) -> int:
        entries = ",".join(
            f"(0x{load.getrandbits(256):064x},{providers[n % GROUPS]},{PRICE // 10**9 * gpu_millis(load) * 10**9})"
            for n in range(count)
        )
        return chain.invoke(
            batches, "settle(uint64,(bytes32,address,uint128)[])", str(seq), f"[{entries}]"
        )

    settle(1, GROUPS)
    return settle(2, jobs) / jobs


def main() -> int:
    if shutil.which("node") is None:
        sys.exit("gas: no node. Install Node.js 20 or newer")
    load = random.Random(20_261_128)
    chain = Chain()
    try:
        code = baselines()
        single = per_transaction(chain, code, load)
        structs = per_struct(chain, code, 500, load)
        ids = {
            "neighbouring": list(range(1, GROUPS + 1)),
            "scattered": list(range(4, 4 * GROUPS + 1, 4)),
        }
        lane = Lane(chain, 4 * GROUPS)
        rows = []
        for kind, accounts in ids.items():
            lane.settle(GROUPS, accounts, load)  # every account was used before
            for jobs in TARGETS[kind]:
                gas = [lane.settle(jobs, accounts, load) / jobs for _ in range(BATCHES)]
                rows.append((kind, jobs, sum(gas) / BATCHES, max(gas)))
        head = program("cast", "call", lane.settlement, "head(uint32)(uint64,bytes32)", str(LANE), "--rpc-url", chain.url)
        if head.splitlines()[1] != lane.prev:
            sys.exit("gas: the lane's head is not the hash of what was sent")
    finally:
        chain.anvil.terminate()
        chain.anvil.wait()

    print("| what | jobs | gas per job | dearest batch | at most | ratio | of a transaction a job | of plain structs |")
    print("|---|---|---|---|---|---|---|---|")
    print(f"| a transaction a job | 1 | {single:,.0f} | - | - | - | 1 | - |")
    print(f"| a batch of plain structs | 500 | {structs:,.0f} | - | - | - | 1/{single / structs:.0f} | 1 |")
    for kind, jobs, gas, dearest in rows:
        most = TARGETS[kind][jobs]
        print(
            f"| signed, once, {GROUPS} pairs with {kind} numbers | {jobs:,} | {gas:.0f} | {dearest:.0f} | {most} "
            f"| {gas / most:.2f} | 1/{single / gas:.0f} | 1/{structs / gas:.1f} |"
        )
    print()
    for kind, jobs, gas, _ in rows:
        note = "" if kind == "neighbouring" else f" ids={kind}"
        print(f"gas jobs={jobs} groups={GROUPS} per_job={gas:.0f}{note}")
    return int(any(gas > TARGETS[kind][jobs] for kind, jobs, gas, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
