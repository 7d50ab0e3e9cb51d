#!/usr/bin/env python3
"""Gas per job, from receipts of a local chain (anvil's default rules, EIP-7623's floor for calldata included).

The committed contracts are deployed as in production; batches are signed and in sequence, every job number is new (so
the bitmap grows by new slots), and all accounts have been used before. The figure is the mean of batches that follow each
other. Then the two that pay nobody: a batch sent a second time, which is refused, and a batch whose providers nobody knows,
which is settled with every group left out. Beside them, in the same run, what a transaction a job and a batch of plain
structs cost. Exits with 1 if a figure is above its target. Called by gas.sh; needs Python's standard library and the
programs in .build/bin.
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
# Of batches of 500 that pay nobody.
REFUSED_TARGET = 230
POISONED_TARGET = 650


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

    def revert_reason(self, data: str, to: str) -> str:
        """The data with which a call is refused; it must be."""
        body = {"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [{"from": self.account, "data": data, "to": to}]}
        request = urllib.request.Request(self.url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.load(response)
        if "error" not in answer:
            sys.exit(f"gas: a call that should be refused was not: {answer}")
        return answer["error"].get("data", "")

    def send(self, data: str, to: str | None = None, status: str = "0x1") -> dict:
        """Sends a transaction and gives its receipt, which must have that status (0x1: it succeeded, 0x0: it was refused)."""
        transaction = {"from": self.account, "data": data, "gas": hex(16_000_000)}
        if to:
            transaction["to"] = to
        sent = self.call("eth_sendTransaction", transaction)
        deadline = time.monotonic() + 30
        while not (receipt := self.call("eth_getTransactionReceipt", sent)):
            if time.monotonic() > deadline:
                sys.exit(f"gas: transaction {sent} was not mined")
            time.sleep(0.005)
        if receipt["status"] != status:
            sys.exit(f"gas: transaction {sent} has another status than {status}: {receipt}")
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

    def settle(self, jobs: int, groups: list[tuple[int, int, int]], load: random.Random) -> int:
        """Settles a batch of `jobs` new numbers, job by job of one of the groups (payer, provider, price); gives the
        transaction's gas."""
        entries = [(self.next_job + n, load.randrange(len(groups)), gpu_millis(load)) for n in range(jobs)]
        data = "0x" + encode(entries, groups).hex()
        seq, root = self.seq + 1, keccak(f"usage root {self.seq}")
        kind = "Batch(uint32 lane,uint64 seq,bytes32 prev,bytes32 usageRoot,bytes32 dataHash,uint64 validUntil)"
        content = keccak_of(
            "bytes32,uint32,uint64,bytes32,bytes32,bytes32,uint64",
            *(keccak(kind), str(LANE), str(seq), self.prev, root, keccak(data), str(VALID_UNTIL)),
        )
        digest = keccak("0x1901" + self.domain[2:] + content[2:])
        signature = program("cast", "wallet", "sign", "--no-hash", "--private-key", SIGNER_KEY, digest)[2:]
        r, s, v = signature[:64], int(signature[64:128], 16), int(signature[128:], 16)
        self.last = program(
            *("cast", "calldata", "settle(uint32,uint64,bytes32,bytes32,uint64,bytes32,bytes32,bytes)"),
            *(str(LANE), str(seq), self.prev, root, str(VALID_UNTIL)),
            *("0x" + r, f"0x{s | (v - 27) << 255:064x}", data),
        )
        self.receipt = self.chain.send(self.last, self.settlement)
        self.prev = keccak_of(
            "bytes32,uint32,uint64,bytes32,bytes32", *(self.prev, str(LANE), str(seq), root, keccak(data))
        )
        self.seq, self.next_job = seq, self.next_job + jobs
        return int(self.receipt["gasUsed"], 16)

    def settle_again(self) -> int:
        """Sends the last batch once more, as a second leader would; gives the gas of the transaction that is refused."""
        want = keccak("BadSeq(uint64)")[:10] + f"{self.seq + 1:064x}"
        if (reason := self.chain.revert_reason(self.last, self.settlement)) != want:
            sys.exit(f"gas: a batch that was sent again was refused with {reason}, not with {want}")
        return int(self.chain.send(self.last, self.settlement, status="0x0")["gasUsed"], 16)

    def paid_jobs(self) -> int:
        """How many jobs the last batch paid, from the summary in its event."""
        event = keccak("BatchSettled(uint32,uint64,bytes32,bytes32,uint256,bytes)")
        [log] = [log for log in self.receipt["logs"] if log["topics"][0] == event]
        return int(log["data"][2 + 128 : 2 + 192], 16) >> 32 & 0xFFFFFFFF


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
    data += bytes([0])  # statements
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
            groups = [(account, account, PRICE) for account in accounts]
            lane.settle(GROUPS, groups, load)  # every account was used before
            for jobs in TARGETS[kind]:
                gas = [lane.settle(jobs, groups, load) / jobs for _ in range(BATCHES)]
                rows.append((f"signed, once, {GROUPS} pairs with {kind} numbers", jobs, gas, TARGETS[kind][jobs], kind))
        groups = [(account, account, PRICE) for account in ids["neighbouring"]]
        refused = []
        for _ in range(BATCHES):
            lane.settle(500, groups, load)
            refused.append(lane.settle_again() / 500)
        rows.append((f"the same batch once more, refused ({GROUPS} pairs)", 500, refused, REFUSED_TARGET, "refused"))
        nobody = [(account, 1_000_000 + account, PRICE) for account in ids["neighbouring"]]
        poisoned = []
        for _ in range(BATCHES):
            poisoned.append(lane.settle(500, nobody, load) / 500)
            if lane.paid_jobs() != 0:
                sys.exit("gas: a job of a provider that nobody knows was paid")
        rows.append((f"all left out: {GROUPS} providers that nobody knows", 500, poisoned, POISONED_TARGET, "poisoned"))
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
    for what, jobs, gas, most, _ in rows:
        mean = sum(gas) / len(gas)
        print(
            f"| {what} | {jobs:,} | {mean:.0f} | {max(gas):.0f} | {most} "
            f"| {mean / most:.2f} | 1/{single / mean:.0f} | 1/{structs / mean:.1f} |"
        )
    print()
    notes = {"neighbouring": "", "scattered": " ids=scattered", "refused": " batch=refused", "poisoned": " batch=poisoned"}
    for _, jobs, gas, _, kind in rows:
        print(f"gas jobs={jobs} groups={GROUPS} per_job={sum(gas) / len(gas):.0f}{notes[kind]}")
    return int(any(sum(gas) / len(gas) > most for _, _, gas, most, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
