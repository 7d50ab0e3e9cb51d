// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {ISettlement} from "../src/interfaces/ISettlement.sol";
import {BatchFormat, Content} from "./support/BatchFormat.sol";
import {DeployedSettlement} from "./support/Deployment.sol";
import {Eip712Domain} from "./support/Eip712Domain.sol";
import {SettlementFixture} from "./support/SettlementFixture.sol";
import {StandInVault} from "./support/SettlementDoubles.sol";
import {Vm} from "./support/Test.sol";

/// @dev What the ledger crate writes (ledger/tests/vectors), checked against OpenZeppelin, a decoder of its own, and by
/// settling it.
contract VectorsFromLedgerTest is SettlementFixture {
    string private json;
    address private home;

    function setUp() public {
        json = vm.readFile("test/vectors/ledger.json");
        home = vm.parseJsonAddress(json, ".settlement");
        vm.chainId(_number(".chainId"));
        vm.warp(1_800_000_000);
    }

    function _number(string memory key) private view returns (uint256) {
        return vm.parseJsonUint(json, key);
    }

    function _numbers(string memory key) private view returns (uint256[] memory) {
        return vm.parseJsonUintArray(json, key);
    }

    function _hash(string memory key) private view returns (bytes32) {
        return vm.parseJsonBytes32(json, key);
    }

    function _text(string memory key) private view returns (bytes32) {
        return keccak256(bytes(vm.parseJsonString(json, key)));
    }

    function _batch(uint256 i, string memory field) private pure returns (string memory) {
        return string.concat(".batches[", vm.toString(i), "].", field);
    }

    /// @dev The digest of `content` by OpenZeppelin's EIP712 in a contract at `contract_`.
    function _digestAt(address contract_, string memory name, bytes32 content) private returns (bytes32) {
        vm.etch(contract_, address(new Eip712Domain(name)).code);
        return Eip712Domain(contract_).digest(content);
    }

    // ---- batches

    function test_theDataSaysWhatTheLedgerRead() public view {
        for (uint256 i = 0; vm.keyExistsJson(json, _batch(i, "data")); i++) {
            Content memory c = BatchFormat.decode(vm.parseJsonBytes(json, _batch(i, "data")));
            uint256[] memory jobNo = _numbers(_batch(i, "entries.jobNo"));
            uint256[] memory payer = _numbers(_batch(i, "entries.payer"));
            uint256[] memory provider = _numbers(_batch(i, "entries.provider"));
            uint256[] memory price = _numbers(_batch(i, "entries.price"));
            uint256[] memory units = _numbers(_batch(i, "entries.units"));
            _same(c.jobs.length, jobNo.length, "entries");
            for (uint256 k = 0; k < jobNo.length; k++) {
                _same(c.jobs[k].jobNo, jobNo[k], "number");
                _same(c.jobs[k].units, units[k], "units");
                _same(c.groups[c.jobs[k].group].payer, payer[k], "payer");
                _same(c.groups[c.jobs[k].group].provider, provider[k], "provider");
                _same(c.groups[c.jobs[k].group].price, price[k], "price");
            }
            _amounts(c, i);
            _statements(c, i);
            _same(keccak256(BatchFormat.encode(c)), _hash(_batch(i, "dataHash")), "encoded again");
        }
    }

    function _statements(Content memory c, uint256 i) private view {
        uint256[] memory kind = _numbers(_batch(i, "statements.kind"));
        uint256[] memory number = _numbers(_batch(i, "statements.number"));
        bytes32[] memory subject = vm.parseJsonBytes32Array(json, _batch(i, "statements.subject"));
        bytes32[] memory content = vm.parseJsonBytes32Array(json, _batch(i, "statements.content"));
        _same(c.statements.length, kind.length, "statements");
        for (uint256 k = 0; k < kind.length; k++) {
            _same(c.statements[k].kind, kind[k], "kind");
            _same(c.statements[k].number, number[k], "number");
            _same(c.statements[k].subject, subject[k], "subject");
            _same(c.statements[k].content, content[k], "content");
        }
    }

    function _amounts(Content memory c, uint256 i) private view {
        uint256[] memory units = _numbers(_batch(i, "groups.units"));
        uint256[] memory amount = _numbers(_batch(i, "groups.amount"));
        _same(c.groups.length, units.length, "groups");
        for (uint256 g = 0; g < units.length; g++) {
            uint256 sum;
            for (uint256 k = 0; k < c.jobs.length; k++) {
                if (c.jobs[k].group == g) sum += c.jobs[k].units;
            }
            _same(sum, units[g], "units of a group");
            _same(sum * c.groups[g].price / 1e9, amount[g], "amount of a group");
        }
    }

    function test_hashesAndDigestsOfBatchesAreOpenZeppelins() public {
        uint256 i;
        for (; vm.keyExistsJson(json, _batch(i, "data")); i++) {
            bytes32 dataHash = keccak256(vm.parseJsonBytes(json, _batch(i, "data")));
            _same(dataHash, _hash(_batch(i, "dataHash")), "data hash");
            bytes32 prev = _hash(_batch(i, "prev"));
            bytes32 root = _hash(_batch(i, "usageRoot"));
            bytes32 link = keccak256(abi.encode(prev, _number(".lane"), i + 1, root, dataHash));
            _same(link, _hash(_batch(i, "chainHash")), "chain hash");
            bytes32 content = keccak256(
                abi.encode(
                    keccak256(
                        "Batch(uint32 lane,uint64 seq,bytes32 prev,bytes32 usageRoot,bytes32 dataHash,uint64 validUntil)"
                    ),
                    _number(".lane"),
                    i + 1,
                    prev,
                    root,
                    dataHash,
                    _number(".validUntil")
                )
            );
            _same(_digestAt(home, "Gridstake Settlement", content), _hash(_batch(i, "digest")), "digest");
        }
        _same(i, 4, "batches");
    }

    /// The real contract, at the address for which the ledger signed.
    function test_theContractSettlesWhatTheLedgerSigned() public {
        token = _newToken(18, 1e29);
        vault = new StandInVault();
        vm.etch(home, abi.encodePacked(vm.getCode("Settlement.sol:Settlement"), abi.encode(_setup(address(token)))));
        (bool deployed, bytes memory code) = home.call("");
        _true(deployed, "deployed");
        vm.etch(home, code);
        settlement = DeployedSettlement(home);
        vm.prank(LANE_ADMIN);
        settlement.openLane(LANE, vm.parseJsonAddress(json, ".signer"), REWARDS_OWNER);
        token.approve(home, type(uint256).max);
        settlement.deposit(LANE, 0, 1e15);
        for (uint256 i = 0; i < 4; i++) {
            _payer(1e15);
            _provider();
        }
        for (uint256 i = 0; vm.keyExistsJson(json, _batch(i, "data")); i++) {
            _settleVector(i);
        }
        _same(settlement.laneOf(LANE).seq, 4, "all of them");
    }

    function _settleVector(uint256 i) private {
        vm.recordLogs();
        settlement.settle(
            LANE,
            uint64(i + 1),
            _hash(_batch(i, "prev")),
            _hash(_batch(i, "usageRoot")),
            uint64(_number(".validUntil")),
            _hash(_batch(i, "r")),
            _hash(_batch(i, "vs")),
            vm.parseJsonBytes(json, _batch(i, "data"))
        );
        Vm.Log[] memory logs = vm.getRecordedLogs();
        bytes32[] memory content = vm.parseJsonBytes32Array(json, _batch(i, "statements.content"));
        _same(logs.length, 1 + content.length, "nothing was left out, and all is stated");
        for (uint256 k = 0; k < content.length; k++) {
            (,, bytes32 stated) = abi.decode(logs[1 + k].data, (uint64, uint32, bytes32));
            _same(stated, content[k], "what was stated");
        }
        (bytes32 head,,, bytes memory paid) = abi.decode(logs[0].data, (bytes32, bytes32, uint256, bytes));
        _same(head, _hash(_batch(i, "chainHash")), "head");
        uint256[] memory amount = _numbers(_batch(i, "groups.amount"));
        bytes memory want;
        for (uint256 g = 0; g < amount.length; g++) {
            want = abi.encodePacked(want, uint64(amount[g]));
        }
        _same(keccak256(paid), keccak256(want), "what each group paid");
    }

    function test_amountsAreRoundedAlike() public view {
        uint256[] memory units = _numbers(".amounts.units");
        uint256[] memory price = _numbers(".amounts.price");
        uint256[] memory nano = _numbers(".amounts.nano");
        _same(nano.length, 7, "cases");
        for (uint256 i = 0; i < nano.length; i++) {
            _same(units[i] * price[i] / 1e9, nano[i], "amount");
        }
    }

    // ---- what people and keys sign

    function test_digestsOfConsentsKeysAndSlashesAreOpenZeppelins() public {
        bytes32 content = keccak256(
            abi.encode(
                keccak256(
                    "PayerConsent(uint32 lane,uint32 payer,string namespaceUid,uint64 dailyCap,uint64 expires)"
                ),
                _number(".lane"),
                _number(".typed.consent.payer"),
                _text(".typed.consent.namespaceUid"),
                _number(".typed.consent.dailyCap"),
                _number(".typed.consent.expires")
            )
        );
        _same(_digestAt(home, "Gridstake Settlement", content), _hash(".typed.consent.digest"), "consent");
        address vaultAt = vm.parseJsonAddress(json, ".vault");
        content = keccak256(
            abi.encode(
                keccak256("AgentKey(uint32 provider,string node,address key,uint64 epoch,uint64 notAfter)"),
                _number(".typed.agentKey.provider"),
                _text(".typed.agentKey.node"),
                vm.parseJsonAddress(json, ".typed.agentKey.key"),
                _number(".typed.agentKey.epoch"),
                _number(".typed.agentKey.notAfter")
            )
        );
        _same(_digestAt(vaultAt, "Gridstake StakeVault", content), _hash(".typed.agentKey.digest"), "agent key");
        content = keccak256(
            abi.encode(
                keccak256(
                    "Slash(uint32 lane,bytes32 incidentId,uint32 provider,uint128 amount,bytes32 evidence,uint64 validUntil)"
                ),
                _number(".lane"),
                _hash(".typed.slash.incidentId"),
                _number(".typed.slash.provider"),
                _number(".typed.slash.amount"),
                _hash(".typed.slash.evidence"),
                _number(".typed.slash.validUntil")
            )
        );
        _same(_digestAt(vaultAt, "Gridstake StakeVault", content), _hash(".typed.slash.digest"), "slash");
    }

    // ---- evidence

    struct Device {
        string uuid;
        string parentUuid;
        uint32 numerator;
        uint32 denominator;
    }

    function test_evidenceIsHashedAsItIsDescribed() public view {
        Device[] memory devices = new Device[](2);
        devices[0] = Device("GPU-b", "", 1, 1);
        devices[1] = Device("MIG-a", "GPU-a", 3, 7);
        _same(keccak256(abi.encode(devices)), _hash(".evidence.devices"), "devices");
        bytes32 counters = keccak256(abi.encode(true, 59_000, false, 0, true, 0, true, 4, true, 60));
        _same(counters, _hash(".evidence.counters"), "counters");
        bytes32 head = keccak256(
            abi.encode(
                keccak256(
                    "Checkpoint(string record,string podUid,uint64 epoch,uint64 seq,uint64 fromMs,uint64 toMs,bytes32 devices,bytes32 counters,bytes32 previous)"
                ),
                _text(".evidence.record"),
                _text(".evidence.podUid"),
                _number(".evidence.epoch"),
                _number(".evidence.seq"),
                _number(".evidence.fromMs"),
                _number(".evidence.toMs"),
                _hash(".evidence.devices"),
                counters,
                _hash(".evidence.previous")
            )
        );
        _same(head, _hash(".evidence.head"), "head of the chain");
        // Fields 1 and 2 of a domain: name and version.
        bytes32 domain = MessageHashUtils.toDomainSeparator(
            bytes1(0x03), keccak256("Gridstake Evidence"), keccak256("1"), 0, address(0), bytes32(0)
        );
        _same(MessageHashUtils.toTypedDataHash(domain, head), _hash(".evidence.digest"), "digest");
    }

    // ---- receipts

    function test_receiptsAreProvenByOpenZeppelinsMerkleProof() public view {
        bytes32[] memory leaves = vm.parseJsonBytes32Array(json, ".receipts.leaves");
        bytes32[] memory records = vm.parseJsonBytes32Array(json, ".receipts.recordHash");
        _same(records[0], _recordHash(), "record");
        _same(leaves.length, records.length + 1, "receipts and the decision log");
        bytes32 root = _hash(".receipts.usageRoot");
        for (uint256 i = 0; i < leaves.length; i++) {
            bytes32 leaf = i == records.length
                ? keccak256(abi.encode(keccak256(abi.encode(_hash(".receipts.decisionHead")))))
                : _leaf(i, records[i]);
            _same(leaf, leaves[i], "leaf");
            bytes32[] memory proof =
                vm.parseJsonBytes32Array(json, string.concat(".receipts.proofs[", vm.toString(i), "]"));
            _true(MerkleProof.verify(proof, root, leaf), "under the root");
            _true(!MerkleProof.verify(proof, root, keccak256(abi.encode(leaf))), "and nothing else");
        }
    }

    function _leaf(uint256 i, bytes32 record) private view returns (bytes32) {
        bytes memory content = abi.encode(
            _number(".lane"),
            _numbers(".receipts.jobNo")[i],
            _numbers(".receipts.payer")[i],
            _numbers(".receipts.provider")[i],
            _numbers(".receipts.units")[i],
            _numbers(".receipts.price")[i],
            record
        );
        return keccak256(abi.encode(keccak256(content)));
    }

    function _recordHash() private view returns (bytes32) {
        return keccak256(
            abi.encode(
                vm.parseJsonString(json, ".receipts.content.record"),
                vm.parseJsonString(json, ".receipts.content.podUid"),
                vm.parseJsonString(json, ".receipts.content.node"),
                _number(".receipts.content.startMs"),
                _number(".receipts.content.endMs"),
                _number(".receipts.content.gpuMillis"),
                vm.parseJsonString(json, ".receipts.content.cause"),
                vm.parseJsonString(json, ".receipts.content.verdict"),
                _hash(".receipts.content.evidenceHead")
            )
        );
    }
}
