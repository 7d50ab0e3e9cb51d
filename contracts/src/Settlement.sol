// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {Accounts, LIVE, PROVIDERS} from "./settlement/Accounts.sol";
import {Earnings} from "./settlement/Earnings.sol";
import {Holdings} from "./settlement/Holdings.sol";
import {Lanes} from "./settlement/Lanes.sol";
import {PackedBatch, WORD_BITS} from "./settlement/PackedBatch.sol";
import {Parameters} from "./settlement/Parameters.sol";

/// @title Settlement: pays what lanes report, exactly once.
/// @notice Two things make a double payment impossible, each by itself: a lane's batches are numbered and chained, so a
/// batch executes once and in order; and each job number has one bit, so a job is paid once even if two batches hold it.
/// An entry that cannot be paid is left out with a reason; the rest of the batch is paid.
/// A batch can also carry statements of the lane's signer, which become events and change nothing here; so they are made once
/// and in order, as the batch is.
contract Settlement is EIP712, Lanes, Earnings {
    using PackedBatch for PackedBatch.Batch;

    bytes32 public constant BATCH_TYPEHASH =
        keccak256("Batch(uint32 lane,uint64 seq,bytes32 prev,bytes32 usageRoot,bytes32 dataHash,uint64 validUntil)");

    /// @dev A price is in 1e-18 token, an amount in 1e-9.
    uint256 private constant PRICE_PER_NANO = 1_000_000_000;
    /// @dev In `amounts` of BatchSettled: the group was left out.
    uint256 private constant SKIPPED = 1 << 63;
    /// @dev More than the vault can count: it is asked at most once a batch, and only where a provider is not active.
    uint256 private constant NOT_ASKED = type(uint256).max;

    /// @param seq number of the batch
    /// @param total nano-tokens paid
    /// @param skipped jobs that were not paid
    /// @param amounts memory offset of a big-endian uint64 a group
    struct Outcome {
        uint32 lane;
        uint64 seq;
        uint256 total;
        uint256 skipped;
        uint256 amounts;
    }

    constructor(Setup memory setup)
        EIP712("Gridstake Settlement", "1")
        Parameters(setup)
        Holdings(setup.token, setup.vault)
    {}

    function settle(
        uint32 lane,
        uint64 seq,
        bytes32 prev,
        bytes32 usageRoot,
        uint64 validUntil,
        bytes32 r,
        bytes32 vs,
        bytes calldata data
    ) external {
        _requireNotPaused(Path.Settle);
        bytes32 chainHash;
        {
            LaneData memory known = _lanes[lane];
            if (known.state != ACTIVE) revert LaneNotActive(lane);
            if (seq != uint256(known.seq) + 1) revert BadSeq(uint64(known.seq) + 1);
            if (prev != known.chainHash) revert BadPrev(known.chainHash);
            if (block.timestamp > validUntil) revert Expired();
            bytes32 dataHash = keccak256(data);
            bytes32 content = keccak256(abi.encode(BATCH_TYPEHASH, lane, seq, prev, usageRoot, dataHash, validUntil));
            (address signer,,) = ECDSA.tryRecover(_hashTypedDataV4(content), r, vs);
            if (signer != known.signer) revert BadSignature();
            chainHash = _link(prev, lane, seq, usageRoot, dataHash);
        }

        Outcome memory outcome;
        outcome.lane = lane;
        outcome.seq = seq;
        PackedBatch.Batch memory batch = PackedBatch.parse(data);
        bool duplicates = _findFresh(batch, lane);
        batch.sumUnits();
        if (duplicates) _dropDuplicates(batch, outcome);
        if (_payGroups(batch, outcome)) {
            _explainGroups(batch, outcome);
            _dropUnpaid(batch, outcome);
        }
        _markPaid(batch, lane);

        _lanes[lane].seq = uint48(seq);
        _lanes[lane].chainHash = chainHash;
        _emitSettled(batch, outcome, chainHash, usageRoot);
        _emitStatements(batch, lane, seq);
    }

    function isPaid(uint32 lane, uint64 jobNo) external view returns (bool) {
        uint256 wordNo = jobNo / PackedBatch.BITS;
        if (wordNo > type(uint32).max) return false;
        return (_paidBits(_paidTable(lane) + wordNo) >> (jobNo % PackedBatch.BITS)) & 1 == 1;
    }

    /// @notice Whether `leaf` lies under the usage root of the first of `links`, which run from the batch after `prev`
    /// to the lane's head.
    function receiptInChain(uint32 lane, bytes32 prev, Link[] calldata links, bytes32 leaf, bytes32[] calldata proof)
        external
        view
        returns (bool)
    {
        if (links.length == 0) return false;
        bytes32 chainHash = prev;
        for (uint256 i = 0; i < links.length; ++i) {
            chainHash = _link(chainHash, lane, links[i].seq, links[i].usageRoot, links[i].dataHash);
        }
        return chainHash == _lanes[lane].chainHash && MerkleProof.verifyCalldata(proof, links[0].usageRoot, leaf);
    }

    /// @notice EIP-712 domain separator, for signers that want to compare.
    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    function _link(bytes32 prev, uint32 lane, uint64 seq, bytes32 usageRoot, bytes32 dataHash)
        private
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(prev, lane, seq, usageRoot, dataHash));
    }

    // ---- which jobs are paid: one bit a job, 224 in a slot

    function _paidTable(uint32 lane) private pure returns (uint256) {
        return Accounts.PAID + (uint256(lane) << 32);
    }

    function _paidBits(uint256 slot) private view returns (uint256 bits) {
        assembly ("memory-safe") {
            bits := sload(slot)
        }
    }

    /// @dev Stores for each word the bits that are not paid yet. Returns whether some are.
    function _findFresh(PackedBatch.Batch memory batch, uint32 lane) private view returns (bool duplicates) {
        unchecked {
            uint256 table = _paidTable(lane);
            uint256 fresh = batch.fresh;
            uint256 paid;
            for (uint256 p = batch.words; p < batch.groups; (p += 32, fresh += 32)) {
                assembly ("memory-safe") {
                    let word := calldataload(p)
                    let bits := and(word, WORD_BITS)
                    let again := and(bits, sload(add(table, shr(224, word))))
                    paid := or(paid, again)
                    mstore(fresh, xor(bits, again))
                }
            }
            duplicates = paid != 0;
        }
    }

    function _markPaid(PackedBatch.Batch memory batch, uint32 lane) private {
        unchecked {
            uint256 table = _paidTable(lane);
            uint256 fresh = batch.fresh;
            for (uint256 p = batch.words; p < batch.groups; (p += 32, fresh += 32)) {
                assembly ("memory-safe") {
                    let bits := mload(fresh)
                    if bits {
                        let slot := add(table, shr(224, calldataload(p)))
                        sstore(slot, or(sload(slot), bits))
                    }
                }
            }
        }
    }

    /// @dev Rare: takes jobs that are paid already out of the sums.
    function _dropDuplicates(PackedBatch.Batch memory batch, Outcome memory outcome) private {
        unchecked {
            uint256 first; // index of the word's first record
            uint256 fresh = batch.fresh;
            for (uint256 p = batch.words; p < batch.groups; (p += 32, fresh += 32)) {
                uint256 word;
                uint256 paid;
                assembly ("memory-safe") {
                    word := calldataload(p)
                    paid := xor(and(word, WORD_BITS), mload(fresh))
                }
                uint256 bits = word & WORD_BITS;
                if (paid != 0) {
                    emit JobsSkipped(outcome.lane, outcome.seq, uint32(word >> 224), uint224(paid), Why.Duplicate);
                    outcome.skipped += PackedBatch.popcount(paid);
                    while (paid != 0) {
                        uint256 bit = paid & (~paid + 1);
                        paid ^= bit;
                        batch.removeRecord(first + PackedBatch.popcount(bits & (bit - 1)));
                    }
                }
                first += PackedBatch.popcount(bits);
            }
        }
    }

    // ---- payment: no call and no revert in it

    /// @dev Moves each group's amount from its payer to its provider. Returns whether a group was left out.
    function _payGroups(PackedBatch.Batch memory batch, Outcome memory outcome) private returns (bool) {
        // Room for 2^g entries, because records may name groups that are not there; and for a whole word at the end.
        uint256 size = (8 << batch.groupBits) + 64;
        uint256 amounts;
        assembly ("memory-safe") {
            amounts := mload(0x40)
            mstore(0x40, add(amounts, size))
        }
        outcome.amounts = amounts;

        uint256 total;
        uint256 left;
        uint256 p = batch.groups;
        uint256 end = batch.records;
        uint256 units = batch.units;
        uint256 payers = Accounts.payers(outcome.lane);
        assembly ("memory-safe") {
            for {} lt(p, end) {
                p := add(p, 16)
                units := add(units, 32)
                amounts := add(amounts, 8)
            } {
                let group := calldataload(p) // payer: 32 | provider: 32 | price: 64 | of the next: 128
                let amount :=
                    div(
                        mul(and(mload(units), 0xffffffffffffffff), and(shr(128, group), 0xffffffffffffffff)),
                        PRICE_PER_NANO
                    )
                let providerSlot := add(PROVIDERS, and(shr(194, group), 0x3fffffff))
                let providerShift := and(shr(186, group), 0xc0)
                let providers := sload(providerSlot)
                let payerSlot := add(payers, shr(226, group))
                let payerShift := and(shr(218, group), 0xc0)
                let payerField := sload(payerSlot)
                // The payer is live and has the amount: its field is LIVE + balance.
                switch or(
                    iszero(and(shr(providerShift, providers), LIVE)),
                    gt(add(amount, LIVE), and(shr(payerShift, payerField), 0xffffffffffffffff))
                )
                case 0 {
                    sstore(providerSlot, add(providers, shl(providerShift, amount)))
                    sstore(payerSlot, sub(payerField, shl(payerShift, amount)))
                    total := add(total, amount)
                    mstore(amounts, shl(192, amount))
                }
                default {
                    left := 1
                    mstore(amounts, shl(255, 1))
                }
            }
            mstore(amounts, 0)
        }
        outcome.total = total;
        return left != 0;
    }

    /// @dev Rare: one event a group that was left out. The reasons are still true after the other groups were paid: no
    /// account became live, and a payer's balance only fell.
    function _explainGroups(PackedBatch.Batch memory batch, Outcome memory outcome) private {
        unchecked {
            uint256 amounts = outcome.amounts;
            uint256 registered = NOT_ASKED;
            for (uint256 p = batch.groups; p < batch.records; (p += 16, amounts += 8)) {
                uint256 group;
                uint256 amount;
                assembly ("memory-safe") {
                    group := calldataload(p)
                    amount := shr(192, mload(amounts))
                }
                if (amount != SKIPPED) continue;
                uint32 payer = uint32(group >> 224);
                uint32 provider = uint32(group >> 192);
                Why why = Why.Insufficient;
                if (!isActive(provider)) {
                    if (registered == NOT_ASKED) registered = _vault.providerCount();
                    why = provider != 0 && provider <= registered ? Why.ProviderCooling : Why.UnknownProvider;
                } else if (!Accounts.isLive(Accounts.payers(outcome.lane), payer)) {
                    why = Why.UnknownPayer;
                }
                emit GroupSkipped(outcome.lane, outcome.seq, provider, payer, why);
            }
        }
    }

    /// @dev Rare: jobs of groups that were left out stay payable, so their bits are not set.
    function _dropUnpaid(PackedBatch.Batch memory batch, Outcome memory outcome) private pure {
        unchecked {
            uint256 record = batch.records;
            uint256 width = batch.width;
            uint256 fresh = batch.fresh;
            uint256 amounts = outcome.amounts;
            uint256 shift = 253 - batch.groupBits; // the group number times 8
            uint256 groupMask = ((1 << batch.groupBits) - 1) << 3;
            {
                // Groups that are not there (their records have no units) do not count as left out.
                uint256 known = 8 * batch.groupCount;
                uint256 rest = (8 << batch.groupBits) + 32 - known;
                assembly ("memory-safe") {
                    calldatacopy(add(amounts, known), calldatasize(), rest)
                }
            }
            for (uint256 p = batch.words; p < batch.groups; (p += 32, fresh += 32)) {
                uint256 dropped;
                assembly ("memory-safe") {
                    for { let bits := and(calldataload(p), WORD_BITS) } bits {} {
                        let bit := and(bits, sub(0, bits))
                        // SKIPPED is the top bit of the entry.
                        if slt(mload(add(amounts, and(shr(shift, calldataload(record)), groupMask))), 0) {
                            dropped := or(dropped, bit)
                        }
                        bits := xor(bits, bit)
                        record := add(record, width)
                    }
                    let bits := mload(fresh)
                    dropped := and(dropped, bits)
                    mstore(fresh, xor(bits, dropped))
                }
                outcome.skipped += PackedBatch.popcount(dropped);
            }
        }
    }

    /// @dev The log of `emit BatchSettled(...)` without a copy of `amounts` into a `bytes`.
    function _emitSettled(PackedBatch.Batch memory batch, Outcome memory outcome, bytes32 chainHash, bytes32 usageRoot)
        private
    {
        unchecked {
            uint256 lane = outcome.lane;
            uint256 seq = outcome.seq;
            uint256 amounts = outcome.amounts;
            uint256 length = 8 * batch.groupCount;
            uint256 summary = outcome.total << 64 | (batch.jobs - outcome.skipped) << 32 | outcome.skipped;
            bytes32 selector = BatchSettled.selector;
            assembly ("memory-safe") {
                let log := mload(0x40)
                let padded := and(add(length, 31), not(31))
                mstore(log, chainHash)
                mstore(add(log, 32), usageRoot)
                mstore(add(log, 64), summary)
                mstore(add(log, 96), 128)
                mstore(add(log, 128), length)
                mcopy(add(log, 160), amounts, padded)
                log3(log, add(160, padded), selector, lane, seq)
            }
        }
    }

    // ---- statements: nothing is stored, and nothing is made of what they say

    function _emitStatements(PackedBatch.Batch memory batch, uint32 lane, uint64 seq) private {
        unchecked {
            uint256 end = batch.end;
            for (uint256 p = batch.statements; p < end; p += PackedBatch.STATEMENT_SIZE) {
                (uint8 kind, uint32 number, bytes32 subject, bytes32 content) = PackedBatch.statementAt(p);
                emit Stated(lane, kind, subject, seq, number, content);
            }
        }
    }
}
