// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @dev Set in an account once it may be paid from or credited. (Assembly takes constants of a file, not of a library.)
uint256 constant LIVE = 0x80000000_00000000;
/// @dev The table of providers' credits.
uint256 constant PROVIDERS = 0x2_00000000_00000000;

/// @title Tables of accounts, four in a storage slot.
/// @notice An account is 64 bits: LIVE | 63 bits of nano-tokens. Account n lies in slot `table + n / 4` at bit
/// `n % 4 * 64`, so a batch over neighbouring accounts touches few slots, and no access needs a hash.
/// An amount never carries into the neighbour: the sum of all accounts is kept below 2^63 (`Holdings.held`).
/// The tables begin at 1, 2 and 3 times 2^64: above every declared variable, far from every hashed slot.
library Accounts {
    uint256 internal constant PAYERS = 0x1_00000000_00000000;
    /// @dev Bitmaps of paid jobs; here so that all bases stand in one place.
    uint256 internal constant PAID = 0x3_00000000_00000000;

    uint256 internal constant MAX_AMOUNT = LIVE - 1;
    uint256 private constant FIELD = 0xffffffff_ffffffff;

    /// @notice The table of a lane's payers.
    function payers(uint32 lane) internal pure returns (uint256 table) {
        return PAYERS + (uint256(lane) << 30);
    }

    function isLive(uint256 table, uint32 id) internal view returns (bool) {
        return field(table, id) & LIVE != 0;
    }

    function amountOf(uint256 table, uint32 id) internal view returns (uint64) {
        return uint64(field(table, id) & MAX_AMOUNT);
    }

    /// @dev The account must not be live yet.
    function open(uint256 table, uint32 id) internal {
        _change(table, id, LIVE, 0);
    }

    /// @dev The caller keeps the sum of all accounts at most MAX_AMOUNT.
    function add(uint256 table, uint32 id, uint64 amount) internal {
        _change(table, id, amount, 0);
    }

    /// @dev The account must hold `amount`.
    function sub(uint256 table, uint32 id, uint64 amount) internal {
        _change(table, id, 0, amount);
    }

    function field(uint256 table, uint32 id) internal view returns (uint256 value) {
        (uint256 slot, uint256 shift) = _place(table, id);
        assembly ("memory-safe") {
            value := and(shr(shift, sload(slot)), FIELD)
        }
    }

    function _change(uint256 table, uint32 id, uint256 plus, uint256 minus) private {
        (uint256 slot, uint256 shift) = _place(table, id);
        assembly ("memory-safe") {
            sstore(slot, sub(add(sload(slot), shl(shift, plus)), shl(shift, minus)))
        }
    }

    function _place(uint256 table, uint32 id) private pure returns (uint256 slot, uint256 shift) {
        return (table + (id >> 2), (id & 3) << 6);
    }
}
