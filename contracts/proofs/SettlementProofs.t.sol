// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ProofFixture} from "./ProofFixture.sol";

/// @dev Proved by halmos for every value of the arguments, signatures included: whoever signs and whatever is paid. The shape
/// of a batch (which job numbers, how many groups) is fixed in each proof, since halmos does not follow symbolic offsets.
contract SettlementProofs is ProofFixture {
    /// @dev One price a group and one signature a batch.
    struct Signed {
        bytes32 r;
        bytes32 vs;
    }

    uint32 private payer;
    uint32 private other;

    function setUp() public {
        _deploy();
        _activate();
        payer = settlement.registerPayer(LANE);
        other = settlement.registerPayer(LANE);
    }

    // ---- batches: records of 6 bytes, of which 40 bits are units; the group in the top bit

    function _record(uint8 group, uint40 units) private pure returns (bytes memory) {
        return abi.encodePacked(group << 7, units);
    }

    /// @dev Jobs of one word of the bitmap, `mask` says which, and one group.
    function _oneGroup(uint32 wordNo, uint224 mask, uint32 payer_, uint64 price, bytes memory records)
        private
        view
        returns (bytes memory)
    {
        return abi.encodePacked(
            hex"06010001000100", wordNo, mask, payer_, provider, price, records
        );
    }

    function _settle(uint64 seq, bytes32 prev, bytes memory data, Signed memory by) private returns (bytes32) {
        settlement.settle(LANE, seq, prev, "root", type(uint64).max, by.r, by.vs, data);
        return keccak256(abi.encode(prev, LANE, seq, bytes32("root"), keccak256(data)));
    }

    /// @dev By a call, so that no optimizer swaps the factors. (See _owed.)
    function product(uint256 a, uint256 b) external pure returns (uint256) {
        unchecked {
            return a * b;
        }
    }

    /// @dev What the rules say that a group of `units` is owed. The solver is told two things, because to it multiplication and
    /// division are opaque: a product does not depend on the order of its factors, and units below 2^48 at a price below 2^64
    /// are worth less than 2^83.
    function _owed(uint256 units, uint64 price) private returns (uint256 amount) {
        uint256 value = this.product(units, price);
        vm.assume(value == this.product(price, units));
        amount = value / 1_000_000_000;
        vm.assume(amount < 1 << 83);
    }

    // ---- no double payment

    /// A job that was paid is paid nothing by a later batch, whatever that batch says of units, price and payer.
    function check_aJobThatIsPaidIsNotPaidAgain(
        uint64 deposit,
        uint64 otherDeposit,
        uint40 units,
        uint40 unitsAgain,
        uint64 price,
        uint64 priceAgain,
        Signed memory first,
        Signed memory second
    ) public {
        settlement.deposit(LANE, payer, deposit);
        settlement.deposit(LANE, other, otherDeposit);
        bytes32 prev = _settle(1, 0, _oneGroup(0, 1 << 42, payer, price, _record(0, units)), first);
        bool paid = settlement.isPaid(LANE, 42);
        uint64 credit = settlement.creditOf(provider);
        _settle(2, prev, _oneGroup(0, 1 << 42, other, priceAgain, _record(0, unitsAgain)), second);
        if (!paid) return;
        assert(settlement.isPaid(LANE, 42));
        assert(settlement.creditOf(provider) == credit);
        assert(settlement.balanceOf(LANE, other) == otherDeposit);
    }

    /// Of a batch that holds a paid job and a new one, the new one is paid as if the other were not in it.
    function check_aDuplicateTakesNothingFromItsNeighbour(
        uint64 deposit,
        uint40 units,
        uint40 unitsAgain,
        uint40 fresh,
        uint64 price,
        Signed memory first,
        Signed memory second
    ) public {
        settlement.deposit(LANE, payer, deposit);
        bytes32 prev = _settle(1, 0, _oneGroup(5, 1 << 223, payer, 0, _record(0, units)), first);
        bytes memory data =
            _oneGroup(5, 1 << 223 | 1, payer, price, bytes.concat(_record(0, fresh), _record(0, unitsAgain)));
        _settle(2, prev, data, second);
        uint256 owed = _owed(fresh, price);
        bool paid = owed <= deposit;
        assert(settlement.isPaid(LANE, 5 * 224) == paid);
        assert(settlement.creditOf(provider) == (paid ? owed : 0));
        assert(settlement.balanceOf(LANE, payer) == deposit - (paid ? owed : 0));
    }

    // ---- conservation

    /// A group pays what the rules say from its payer to its provider, or nothing at all and then its job stays payable; an
    /// account beside it in the slot does not change.
    function check_whatThePayerLosesTheProviderGets(
        uint64 deposit,
        uint64 otherDeposit,
        uint40 units,
        uint40 more,
        uint64 price,
        Signed memory by
    ) public {
        settlement.deposit(LANE, payer, deposit);
        settlement.deposit(LANE, other, otherDeposit);
        uint64 held = settlement.held();
        bytes memory records = bytes.concat(_record(0, units), _record(0, more));
        _settle(1, 0, _oneGroup(0, 1 << 3 | 1 << 200, payer, price, records), by);
        uint256 owed;
        unchecked {
            owed = _owed(uint256(units) + more, price);
        }
        uint256 moved = owed <= deposit ? owed : 0;
        assert(settlement.creditOf(provider) == moved);
        assert(settlement.balanceOf(LANE, payer) == deposit - moved);
        assert(settlement.balanceOf(LANE, other) == otherDeposit);
        assert(settlement.held() == held);
        assert(settlement.isPaid(LANE, 3) == (owed <= deposit));
        assert(settlement.isPaid(LANE, 200) == (owed <= deposit));
        assert(!settlement.isPaid(LANE, 4));
    }

    /// A group whose provider nobody knows moves nothing and leaves its job payable; the other group is paid.
    function check_aPoisonedGroupMovesNothing(
        uint64 deposit,
        uint64 otherDeposit,
        uint40 units,
        uint40 poisoned,
        uint64 price,
        uint64 poisonedPrice,
        Signed memory by
    ) public {
        settlement.deposit(LANE, payer, deposit);
        settlement.deposit(LANE, other, otherDeposit);
        bytes memory groups = abi.encodePacked(payer, provider, price, other, uint32(9), poisonedPrice);
        bytes memory data = abi.encodePacked(
            hex"06010002000100", uint32(0), uint224(3), groups, _record(0, units), _record(1, poisoned)
        );
        _settle(1, 0, data, by);
        uint256 owed = _owed(units, price);
        assert(settlement.creditOf(provider) == (owed <= deposit ? owed : 0));
        assert(settlement.balanceOf(LANE, other) == otherDeposit);
        assert(settlement.creditOf(9) == 0);
        assert(!settlement.isPaid(LANE, 1));
    }

    /// A credit that is divided is the fee, the delegators' part (sent to the vault, and owed there) and the provider's.
    function check_aDivisionLosesNothing(
        uint64 deposit,
        uint40 units,
        uint64 price,
        uint64 own,
        uint64 delegated,
        Signed memory by
    ) public {
        settlement.deposit(LANE, payer, deposit);
        vault.stake(provider, own);
        vault.delegate(provider, delegated);
        _settle(1, 0, _oneGroup(0, 1, payer, price, _record(0, units)), by);
        uint64 credit = settlement.creditOf(provider);
        uint64 held = settlement.held();
        settlement.divide(provider);
        (uint128 principal, uint128 rewards,) = vault.liabilities();
        assert(settlement.creditOf(provider) == 0);
        assert(uint256(settlement.feesDue()) + settlement.earnedOf(provider) + rewards == credit);
        assert(settlement.held() + rewards == held);
        assert(principal == uint256(own) + delegated);
        assert(token.balanceOf(address(vault)) == uint256(principal) + rewards);
        assert(token.balanceOf(address(settlement)) == settlement.held());
    }

    // ---- order and authority

    /// Only batch 1 on top of nothing executes on a fresh lane, and then only batch 2 on top of that.
    function check_onlyTheNextBatchExecutes(
        uint64 seq,
        bytes32 prev,
        uint64 nextSeq,
        bytes32 nextPrev,
        Signed memory first,
        Signed memory second
    ) public {
        bytes memory empty = hex"01000000000000";
        bytes32 head = _settle(seq, prev, empty, first);
        assert(seq == 1 && prev == 0);
        _settle(nextSeq, nextPrev, empty, second);
        assert(nextSeq == 2 && nextPrev == head);
    }

    /// What is settled was signed by the lane's signer, word for word, and has not expired.
    function check_onlyWhatTheSignerSignedIsSettled(bytes32 usageRoot, uint64 validUntil, bytes32 r, bytes32 vs) public {
        bytes memory empty = hex"01000000000000";
        settlement.settle(LANE, 1, 0, usageRoot, validUntil, r, vs, empty);
        bytes32 content = keccak256(
            abi.encode(
                settlement.BATCH_TYPEHASH(), LANE, uint64(1), bytes32(0), usageRoot, keccak256(empty), validUntil
            )
        );
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", settlement.domainSeparator(), content));
        bytes32 s = vs & bytes32(type(uint256).max >> 1);
        assert(ecrecover(digest, uint8(uint256(vs) >> 255) + 27, r, s) == SIGNER);
        assert(block.timestamp <= validUntil);
    }

    // ---- deposits

    /// A deposit comes back whole, after the thaw and not before, and only to its owner.
    function check_aDepositComesBackWhole(uint64 deposit, uint64 asked, uint32 wait) public {
        settlement.deposit(LANE, payer, deposit);
        settlement.thaw(LANE, payer, asked);
        uint256 before = token.balanceOf(address(this));
        vm.warp(START + 1 days + uint256(wait));
        uint64 paid = settlement.withdraw(LANE, payer);
        assert(wait >= 7 days);
        assert(paid == (asked < deposit ? asked : deposit));
        assert(token.balanceOf(address(this)) == before + paid);
        assert(settlement.balanceOf(LANE, payer) == deposit - paid);
        assert(settlement.held() == deposit - paid);
    }
}
