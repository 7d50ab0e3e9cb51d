// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ISettlement} from "../interfaces/ISettlement.sol";

/// @dev The bits of a word; above them stands its number. (Assembly takes constants of a file, not of a library.)
uint256 constant WORD_BITS = 0x00000000ffffffffffffffffffffffffffffffffffffffffffffffffffffffff;

/// @title The wire format of a batch, read in place.
/// @notice All numbers big-endian; nothing may follow the last statement:
///
///     0       u8   W         bytes of a record, 1..6
///     1       u8   g         bits of the group number at the top of each record, 0..10, at most 8 W
///     2       u16  G         groups, at most 2^g
///     4       u16  K         words
///     6       u8   S         statements
///     7       K x 32         wordNo: u32 | mask: 224 bits; wordNo strictly ascending; job number = wordNo * 224 + bit
///     7+32K   G x 16         payer: u32 | provider: u32 | price: u64 (1e-18 token per unit)
///     ...     J x W          group: g bits | units: 8W - g bits, in ascending order of job numbers;
///                            J = number of bits set in all masks, at most 65,535
///     ...     S x 69         kind: u8 | number: u32 | subject: bytes32 | content: bytes32
///
/// A record whose group number is G or more must have no units; its job is marked as paid and nothing is owed for it.
/// @dev Units of a group add up to less than 2^64: 65,535 records below 2^48.
library PackedBatch {
    uint256 internal constant BITS = 224;
    uint256 private constant MAX_WIDTH = 6;
    uint256 private constant MAX_GROUP_BITS = 10;
    uint256 private constant MAX_JOBS = 65_535;
    uint256 private constant FIRST_WORD = 7;
    uint256 private constant WORD_SIZE = 32;
    uint256 private constant GROUP_SIZE = 16;
    uint256 internal constant STATEMENT_SIZE = 69;
    uint256 private constant LOW_64 = (1 << 64) - 1;
    /// @dev One in each 32-bit lane, and in each 64-bit lane, of a word.
    uint256 private constant LANES_32 = 0x0000000100000001000000010000000100000001000000010000000100000001;
    uint256 private constant LANES_64 = 0x0000000000000001000000000000000100000000000000010000000000000001;

    /// @param width W
    /// @param groupBits g
    /// @param groupCount G
    /// @param words calldata offset of the words
    /// @param groups calldata offset of the groups: the end of the words
    /// @param records calldata offset of the records: the end of the groups
    /// @param statements calldata offset of the statements: the end of the records
    /// @param end calldata offset of the end of the statements
    /// @param units memory offset of 2^g words: the units of each group in the low 64 bits, anything above
    /// @param fresh memory offset of K words: the bits of each word that are to be paid
    /// @param jobs J
    struct Batch {
        uint256 width;
        uint256 groupBits;
        uint256 groupCount;
        uint256 words;
        uint256 groups;
        uint256 records;
        uint256 statements;
        uint256 end;
        uint256 units;
        uint256 fresh;
        uint256 jobs;
    }

    /// @notice Reads the frame and counts the jobs; `fresh` is still to be filled, `units` too.
    function parse(bytes calldata data) internal pure returns (Batch memory batch) {
        unchecked {
            uint256 start;
            uint256 header;
            assembly ("memory-safe") {
                start := data.offset
                header := calldataload(start)
            }
            uint256 width = header >> 248;
            uint256 groupBits = (header >> 240) & 0xff;
            uint256 groupCount = (header >> 224) & 0xffff;
            uint256 wordCount = (header >> 208) & 0xffff;
            if (
                width == 0 || width > MAX_WIDTH || groupBits > MAX_GROUP_BITS || groupBits > 8 * width
                    || groupCount > 1 << groupBits
            ) revert ISettlement.BadEncoding();

            batch.width = width;
            batch.groupBits = groupBits;
            batch.groupCount = groupCount;
            batch.words = start + FIRST_WORD;
            batch.groups = batch.words + WORD_SIZE * wordCount;
            batch.records = batch.groups + GROUP_SIZE * groupCount;
            // Before anything is read, so that no loop runs past the data.
            batch.end = start + data.length;
            if (batch.records > batch.end) revert ISettlement.BadEncoding();
            batch.jobs = _countJobs(batch.words, batch.groups);
            batch.statements = batch.records + batch.jobs * width;
            if (batch.jobs > MAX_JOBS || batch.statements + STATEMENT_SIZE * ((header >> 200) & 0xff) != batch.end) {
                revert ISettlement.BadEncoding();
            }

            uint256 units;
            uint256 fresh;
            uint256 unitsSize = 32 << groupBits;
            uint256 freshSize = 32 * wordCount;
            assembly ("memory-safe") {
                units := mload(0x40)
                fresh := add(units, unitsSize)
                mstore(0x40, add(fresh, freshSize))
                calldatacopy(units, calldatasize(), unitsSize) // zeroes
            }
            batch.units = units;
            batch.fresh = fresh;
        }
    }

    /// @notice Adds each record's units to its group.
    function sumUnits(Batch memory batch) internal pure {
        uint256 next = batch.width == 4 ? _sumOctets(batch) : batch.records;
        _sumRecords(batch, next);
        _requireNoUnitsOutside(batch);
    }

    /// @notice Group number and units of a record.
    function recordAt(Batch memory batch, uint256 index) internal pure returns (uint256 group, uint256 units) {
        unchecked {
            uint256 offset = batch.records + index * batch.width;
            uint256 unitBits = 8 * batch.width - batch.groupBits;
            uint256 word;
            assembly ("memory-safe") {
                word := calldataload(offset)
            }
            word >>= 256 - 8 * batch.width;
            group = word >> unitBits;
            units = word & ((1 << unitBits) - 1);
        }
    }

    /// @notice Takes a record's units out of its group again.
    function removeRecord(Batch memory batch, uint256 index) internal pure {
        unchecked {
            (uint256 group, uint256 units) = recordAt(batch, index);
            uint256 entry = batch.units + 32 * group;
            assembly ("memory-safe") {
                mstore(entry, sub(mload(entry), units))
            }
        }
    }

    /// @notice The statement at a calldata offset.
    function statementAt(uint256 offset)
        internal
        pure
        returns (uint8 kind, uint32 number, bytes32 subject, bytes32 content)
    {
        uint256 word;
        assembly ("memory-safe") {
            word := calldataload(offset)
            subject := calldataload(add(offset, 5))
            content := calldataload(add(offset, 37))
        }
        kind = uint8(word >> 248);
        number = uint32(word >> 216);
    }

    /// @notice Number of bits set; of at most 255.
    function popcount(uint256 x) internal pure returns (uint256 n) {
        assembly ("memory-safe") {
            x := sub(x, and(shr(1, x), 0x5555555555555555555555555555555555555555555555555555555555555555))
            x := add(
                and(x, 0x3333333333333333333333333333333333333333333333333333333333333333),
                and(shr(2, x), 0x3333333333333333333333333333333333333333333333333333333333333333)
            )
            x := and(add(x, shr(4, x)), 0x0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f)
            n := shr(248, mul(x, 0x0101010101010101010101010101010101010101010101010101010101010101))
        }
    }

    function _countJobs(uint256 words, uint256 end) private pure returns (uint256 jobs) {
        unchecked {
            uint256 least;
            for (uint256 p = words; p < end; p += WORD_SIZE) {
                uint256 word;
                assembly ("memory-safe") {
                    word := calldataload(p)
                }
                uint256 wordNo = word >> BITS;
                if (wordNo < least) revert ISettlement.BadEncoding();
                least = wordNo + 1;
                jobs += popcount(word & WORD_BITS);
            }
        }
    }

    /// @dev The hot loop: eight records of four bytes in a calldata word, no branch in it. Two words are made of each:
    /// `entries`, the eight memory offsets of the groups in 32-bit lanes, and `low`/`high`, the units of the odd and even
    /// records in 64-bit lanes. A lane is added with whatever lies above it, which only spoils the bits above 64 of
    /// the sum. Returns the offset of the first record that it left.
    function _sumOctets(Batch memory batch) private pure returns (uint256 next) {
        unchecked {
            next = batch.records;
            uint256 end = next + (batch.jobs & ~uint256(7)) * 4;
            uint256 g = batch.groupBits;
            uint256 shift = 27 - g; // the group number times 32
            uint256 groupMask = (((1 << g) - 1) << 5) * LANES_32;
            uint256 base = batch.units * LANES_32;
            uint256 unitMask = ((1 << (32 - g)) - 1) * LANES_64;
            assembly ("memory-safe") {
                for {} lt(next, end) { next := add(next, 32) } {
                    let high := calldataload(next)
                    let entries := add(and(shr(shift, high), groupMask), base)
                    let low := and(high, unitMask)
                    let entry := shr(224, entries)
                    high := and(shr(32, high), unitMask)
                    mstore(entry, add(mload(entry), shr(192, high)))
                    entry := and(shr(192, entries), 0xffffffff)
                    mstore(entry, add(mload(entry), shr(192, low)))
                    entry := and(shr(160, entries), 0xffffffff)
                    mstore(entry, add(mload(entry), shr(128, high)))
                    entry := and(shr(128, entries), 0xffffffff)
                    mstore(entry, add(mload(entry), shr(128, low)))
                    entry := and(shr(96, entries), 0xffffffff)
                    mstore(entry, add(mload(entry), shr(64, high)))
                    entry := and(shr(64, entries), 0xffffffff)
                    mstore(entry, add(mload(entry), shr(64, low)))
                    entry := and(shr(32, entries), 0xffffffff)
                    mstore(entry, add(mload(entry), high))
                    entry := and(entries, 0xffffffff)
                    mstore(entry, add(mload(entry), low))
                }
            }
        }
    }

    /// @dev Records of any width from `next` to the end.
    function _sumRecords(Batch memory batch, uint256 next) private pure {
        unchecked {
            uint256 width = batch.width;
            // That is `statements`; but with that the compiler makes the loop above dearer, by 10 gas a job (measured).
            uint256 end = batch.records + batch.jobs * width;
            uint256 table = batch.units;
            uint256 groupShift = 251 - batch.groupBits; // the group number times 32
            uint256 groupMask = ((1 << batch.groupBits) - 1) << 5;
            uint256 unitShift = 256 - 8 * width;
            uint256 unitMask = (1 << (8 * width - batch.groupBits)) - 1;
            assembly ("memory-safe") {
                for {} lt(next, end) { next := add(next, width) } {
                    let word := calldataload(next)
                    let entry := add(table, and(shr(groupShift, word), groupMask))
                    mstore(entry, add(mload(entry), and(shr(unitShift, word), unitMask)))
                }
            }
        }
    }

    function _requireNoUnitsOutside(Batch memory batch) private pure {
        unchecked {
            uint256 any;
            uint256 end = batch.units + (32 << batch.groupBits);
            for (uint256 entry = batch.units + 32 * batch.groupCount; entry < end; entry += 32) {
                assembly ("memory-safe") {
                    any := or(any, mload(entry))
                }
            }
            if (any & LOW_64 != 0) revert ISettlement.BadEncoding();
        }
    }
}
