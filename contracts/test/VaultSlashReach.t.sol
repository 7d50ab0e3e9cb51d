// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ISettlement} from "../src/interfaces/ISettlement.sol";
import {IStakeVault} from "../src/interfaces/IStakeVault.sol";
import {StakeVaultParameters} from "../src/StakeVaultParameters.sol";
import {BrokenSettlement, ReenteringSettlement} from "./support/VaultDoubles.sol";
import {VaultFixture} from "./support/VaultFixture.sol";

/// @dev What a slash reaches, how much of it, and what it leaves alone.
contract VaultSlashReachTest is VaultFixture {
    function setUp() public {
        _deploy(18);
        _stake(1_000 * TOKEN);
    }

    // ---- stake on its way out

    function test_unbondingStakeIsReached() public {
        _unbond(1_000 * TOKEN);
        uint256 id = _propose("i", 200 * TOKEN);
        _later(DISPUTE + 1);
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.SlashExecuted(id, provider, 0, 200 * TOKEN);
        vault.finalizeSlash(id);
        _later(UNBONDING);
        _same(_withdraw(STAKER, 1), 800 * TOKEN, "the rest is paid");
    }

    function test_stakeThatHasMaturedIsReachedUntilItIsWithdrawn() public {
        uint32 ticket = _unbond(1_000 * TOKEN);
        _later(UNBONDING + 30 days);
        uint256 id = _proposeAny("i", 1_000 * TOKEN);
        vm.prank(STAKER);
        vm.expectRevert(IStakeVault.AllFrozen.selector);
        vault.withdraw(provider, ticket);
        _later(DISPUTE + 1);
        vault.finalizeSlash(id);
        _same(vault.providerOf(provider).unbonding, 0, "all of it");
        _same(_withdraw(STAKER, ticket), 0, "nothing is left to withdraw");
    }

    function test_whatIsNotFrozenIsPaidAndTheRestOfTheTicketStays() public {
        uint32 ticket = _unbond(1_000 * TOKEN);
        uint256 id = _propose("i", 200 * TOKEN);
        _dispute(id);
        _later(UNBONDING);
        _same(_withdraw(STAKER, ticket), 800 * TOKEN, "what is free");
        _same(vault.ticketsOf(provider, STAKER)[0].amount, 200 * TOKEN, "what is frozen");
        vm.prank(STAKER);
        vm.expectRevert(IStakeVault.AllFrozen.selector);
        vault.withdraw(provider, ticket);
        _resolve(id, 0);
        _same(_withdraw(STAKER, ticket), 200 * TOKEN, "free again");
        _same(vault.ticketsOf(provider, STAKER).length, 0, "done");
    }

    function test_bondedStakeBearsTheFreezeFirst() public {
        uint32 ticket = _unbond(400 * TOKEN);
        _propose("i", 200 * TOKEN);
        _later(UNBONDING);
        _same(_withdraw(STAKER, ticket), 400 * TOKEN, "600 are still bonded");
    }

    function test_delegatorsAreHeldBackOnlyByWhatTheProviderDoesNotCover() public {
        _delegate(DELEGATOR, 500 * TOKEN);
        uint32 ticket = _undelegate(DELEGATOR, 500 * TOKEN);
        _proposeAny("i", 1_200 * TOKEN);
        _later(UNBONDING);
        _same(_withdraw(DELEGATOR, ticket), 300 * TOKEN, "200 rest on delegated stake");
    }

    function test_oldSharesOfTicketsThatWereCutStayRight() public {
        uint32 first = _unbond(500 * TOKEN);
        _slash("i", 700 * TOKEN); // 500 bonded, 200 of the ticket
        vm.prank(STAKER);
        vault.stake(provider, 400 * TOKEN);
        uint32 second = _unbond(300 * TOKEN);
        _slash("j", 250 * TOKEN); // 100 bonded, 150 of 600 unbonding
        _later(UNBONDING);
        uint128 paid = _withdraw(STAKER, first);
        _true(paid <= 225 * TOKEN && paid >= 225 * TOKEN - 1, "three quarters of 300");
        paid = _withdraw(STAKER, second);
        _true(paid <= 225 * TOKEN && paid >= 225 * TOKEN - 1, "three quarters of 300");
    }

    // ---- whose stake

    function test_ownStakeIsTakenBeforeDelegators() public {
        _delegate(DELEGATOR, 500 * TOKEN);
        _unbond(400 * TOKEN);
        _slash("i", 900 * TOKEN);
        _same(_own(), 0, "bonded first");
        _same(vault.providerOf(provider).unbonding, 100 * TOKEN, "then the provider's unbonding stake");
        _same(_worth(DELEGATOR), 500 * TOKEN, "delegators not yet");
    }

    function test_whoLeavesAfterTheOffenceBearsAsMuchAsWhoStays() public {
        _delegate(DELEGATOR, 300 * TOKEN);
        _delegate(LATE, 300 * TOKEN);
        uint256 id = _proposeAny("i", 1_200 * TOKEN);
        uint32 ticket = _undelegate(LATE, 300 * TOKEN);
        _later(DISPUTE + 1);
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.SlashExecuted(id, provider, 1_100 * TOKEN, 100 * TOKEN);
        vault.finalizeSlash(id);
        _same(_worth(DELEGATOR), 200 * TOKEN, "who stayed");
        _later(UNBONDING);
        _same(_withdraw(LATE, ticket), 200 * TOKEN, "who left");
    }

    function test_anotherProviderIsNotTouched() public {
        uint32 other = _register();
        vm.prank(STAKER);
        vault.stake(other, 500 * TOKEN);
        _slash("i", 5_000 * TOKEN);
        _same(vault.providerOf(other).own, 500 * TOKEN, "untouched");
        _same(_own(), 0, "only this one");
    }

    // ---- amounts

    function test_moreThanThereIsTakesWhatThereIs() public {
        _delegate(DELEGATOR, 100 * TOKEN);
        _unbond(1 * TOKEN);
        _undelegate(DELEGATOR, 3 * TOKEN);
        uint256 id = _proposeAny("i", type(uint128).max);
        _same(_frozen(), 1_100 * TOKEN, "all there is");
        _later(DISPUTE + 1);
        vault.finalizeSlash(id);
        (uint128 principal,, uint128 slashed) = vault.liabilities();
        _same(principal, 0, "nothing left");
        _same(slashed, 1_100 * TOKEN, "all of it was taken");
    }

    function test_twoSlashesNeverFreezeTheSameStake() public {
        _proposeAny("i", 700 * TOKEN);
        uint256 id = _proposeAny("j", 700 * TOKEN);
        _same(vault.slashOf(id).frozen, 300 * TOKEN, "what the first left");
        uint256 third = _proposeAny("k", 1);
        _sameState(third, IStakeVault.SlashState.Cancelled);
        _true(vault.slashOf(third).why == IStakeVault.CancelWhy.NothingAtStake, "nothing left, and no revert");
        _later(DISPUTE + 1);
        vault.finalizeSlash(id);
        vault.finalizeSlash(1);
        _same(_own(), 0, "both");
    }

    function test_aSlashOfNobodysStakeIsCancelledAtOnce() public {
        provider = _register();
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.SlashCancelled(1, provider, IStakeVault.CancelWhy.NothingAtStake);
        _propose("i", TOKEN);
    }

    /// @dev A vault that knows no settlement yet.
    function _anotherVault() private {
        vault = _newVault(address(token), ADMIN, TREASURY);
        bytes32 arbiter = vault.ARBITER_ROLE();
        bytes32 laneAdmin = vault.LANE_ADMIN_ROLE();
        vm.startPrank(ADMIN);
        vault.grantRole(arbiter, ARBITER);
        vault.grantRole(laneAdmin, LANE_ADMIN);
        vm.stopPrank();
        vm.prank(LANE_ADMIN);
        vault.setSlashSigner(LANE, vm.addr(SLASH_KEY));
    }

    function test_aSettlementThatFailsBlocksNeitherExitsNorSlashes() public {
        _anotherVault();
        ISettlement broken = new BrokenSettlement(address(vault), address(token)).asSettlement();
        provider = _register();
        _fund(STAKER);
        _fund(DELEGATOR);
        _stake(100 * TOKEN);
        _delegate(DELEGATOR, 100 * TOKEN);
        vm.prank(ADMIN);
        vault.setSettlement(broken);
        vm.prank(STAKER);
        vm.expectRevert(bytes("broken"));
        vault.stake(provider, TOKEN);
        uint32 own = _unbond(100 * TOKEN);
        uint32 delegated = _undelegate(DELEGATOR, 100 * TOKEN);
        _slash("i", 150 * TOKEN);
        _later(UNBONDING);
        _same(_withdraw(STAKER, own), 0, "own stake first");
        _same(_withdraw(DELEGATOR, delegated), 50 * TOKEN, "the rest");
    }

    /// The settlement is staker, arbiter and guardian at once, and has two slashes, one of which is upheld: what a slash that
    /// executes twice would take is there.
    function test_aSettlementThatCallsBackFindsASlashThatIsOverAndTakesNothingThatIsFrozen() public {
        _anotherVault();
        ReenteringSettlement double = new ReenteringSettlement(address(vault), address(token));
        ISettlement settlement_ = double.asSettlement();
        bytes32 arbiter = vault.ARBITER_ROLE();
        bytes32 guardian = vault.GUARDIAN_ROLE();
        vm.startPrank(ADMIN);
        vault.setSettlement(settlement_);
        vault.grantRole(arbiter, address(double));
        vault.grantRole(guardian, address(double));
        vm.stopPrank();
        _fund(address(double));
        vm.startPrank(address(double));
        provider = vault.register(OPERATOR, BENEFICIARY);
        vault.stake(provider, 1_000 * TOKEN);
        uint32 ticket = vault.requestUnbond(provider, 1_000 * TOKEN);
        vm.stopPrank();
        _later(UNBONDING);
        uint256 first = _proposeAny("i", 300 * TOKEN);
        uint256 second = _proposeAny("j", 400 * TOKEN);
        _dispute(first);
        _resolve(first, 300 * TOKEN);

        bytes[] memory calls = new bytes[](4);
        calls[0] = abi.encodeCall(IStakeVault.finalizeSlash, first);
        calls[1] = abi.encodeCall(IStakeVault.cancelSlash, first);
        calls[2] = abi.encodeCall(IStakeVault.resolveSlash, (first, 1));
        calls[3] = abi.encodeCall(IStakeVault.withdraw, (provider, ticket));
        double.onDivide(first, calls);
        uint256 before = _held(address(double));
        vault.finalizeSlash(first);

        _same(double.asked(), 1, "asked to divide once");
        _true(double.seen() == IStakeVault.SlashState.Executed, "over before anybody was called");
        _same(double.succeeded(), 1, "the withdrawal alone");
        _same(_held(address(double)) - before, 300 * TOKEN, "of what is not frozen");
        (uint128 principal,, uint128 slashed) = vault.liabilities();
        _same(slashed, 300 * TOKEN, "taken once");
        _same(principal, 400 * TOKEN, "what the other slash holds");
        _same(_frozen(), 400 * TOKEN, "and it still does");
        _later(DISPUTE + 1);
        vault.finalizeSlash(second);
        (,, slashed) = vault.liabilities();
        _same(slashed, 700 * TOKEN, "each once");
    }

    function testFuzz_aSlashTakesWhatIsAskedOrWhatThereIs(
        uint64 own,
        uint64 unbonding,
        uint64 delegated,
        uint64 leaving,
        uint128 asked
    ) public {
        own = uint64(own % (1e6 * TOKEN));
        if (own != 0) _stake(own);
        unbonding = uint64(1 + unbonding % _own());
        _unbond(unbonding);
        delegated = uint64(TOKEN + delegated % (1e6 * TOKEN));
        _delegate(DELEGATOR, delegated);
        _undelegate(DELEGATOR, uint128(1 + leaving % delegated));
        (uint128 all,,) = vault.liabilities();
        asked = uint128(1 + asked % (2 * uint256(all)));
        _slash("i", asked);
        (uint128 principal,, uint128 slashed) = vault.liabilities();
        _same(slashed, asked < all ? asked : all, "taken");
        _same(principal, all - slashed, "left");
        IStakeVault.Provider memory p = vault.providerOf(provider);
        _same(uint256(p.own) + p.delegated + p.unbonding, principal, "the parts are the whole");
    }

    // ---- freeze cap

    function test_theSlashKeyAloneFreezesAFifthInSevenDays() public {
        uint256 id = _propose("i", 500 * TOKEN);
        _same(vault.slashOf(id).frozen, 200 * TOKEN, "20 % of 1,000");
        uint64 begun = _now();
        (bytes32 r, bytes32 vs) = _sign(SLASH_KEY, _slashDigest(LANE, "j", provider, TOKEN, "evidence", type(uint64).max));
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.FreezeCapReached.selector, begun + 14 days));
        vault.proposeSlash(LANE, "j", provider, TOKEN, "evidence", type(uint64).max, r, vs);
        _later(8 days);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.FreezeCapReached.selector, begun + 14 days));
        vault.proposeSlash(LANE, "j", provider, TOKEN, "evidence", type(uint64).max, r, vs);
        vm.warp(begun + 14 days - 1);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.FreezeCapReached.selector, begun + 14 days));
        vault.proposeSlash(LANE, "j", provider, TOKEN, "evidence", type(uint64).max, r, vs);
        vm.warp(begun + 14 days);
        vault.proposeSlash(LANE, "j", provider, TOKEN, "evidence", type(uint64).max, r, vs);
    }

    function test_aWindowThatIsNotFullLeavesRoomAfterIt() public {
        _propose("i", 150 * TOKEN);
        uint64 begun = _now();
        _later(1 days);
        _same(vault.slashOf(_propose("j", 500 * TOKEN)).frozen, 50 * TOKEN, "what is left of the fifth");
        vm.warp(begun + 14 days);
        _propose("k", 120 * TOKEN);
        vm.warp(begun + 21 days);
        _same(vault.slashOf(_propose("l", 500 * TOKEN)).frozen, 80 * TOKEN, "the window before counts");
    }

    function test_cancellingDoesNotGiveTheSlashKeyMoreToFreeze() public {
        uint256 id = _propose("i", 200 * TOKEN);
        vm.prank(GUARDIAN);
        vault.cancelSlash(id);
        (bytes32 r, bytes32 vs) = _sign(SLASH_KEY, _slashDigest(LANE, "j", provider, TOKEN, "evidence", _now()));
        uint64 until = _now();
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.FreezeCapReached.selector, until + 14 days));
        vault.proposeSlash(LANE, "j", provider, TOKEN, "evidence", until, r, vs);
    }

    function test_withTheArbiterTheCapDoesNotHold() public {
        _propose("i", 200 * TOKEN);
        uint256 id = _proposeAny("j", 600 * TOKEN);
        _same(vault.slashOf(id).frozen, 600 * TOKEN, "as asked");
    }

    function test_aCapOfAllIsNone() public {
        _set(StakeVaultParameters.Parameter.FreezeCapBps, 10_000);
        _same(vault.slashOf(_propose("i", 900 * TOKEN)).frozen, 900 * TOKEN, "as asked");
        _same(vault.slashOf(_propose("j", 900 * TOKEN)).frozen, 100 * TOKEN, "what is left");
    }

    function test_theSmallestStakeCanBeFrozen() public {
        provider = _register();
        _stake(1);
        _same(vault.slashOf(_propose("i", 1)).frozen, 1, "the cap is rounded up");
    }

    function testFuzz_noSevenDaysFreezeMoreThanTheCap(uint32[12] memory waits, uint64[12] memory amounts) public {
        uint64[12] memory times;
        uint128[12] memory frozen;
        for (uint256 i = 0; i < 12; i++) {
            _later(waits[i] % 5 days);
            uint128 asked = 1 + amounts[i] % (150 * TOKEN);
            bytes32 incident = bytes32(i + 1);
            (bytes32 r, bytes32 vs) =
                _sign(SLASH_KEY, _slashDigest(LANE, incident, provider, asked, "evidence", type(uint64).max));
            try vault.proposeSlash(LANE, incident, provider, asked, "evidence", type(uint64).max, r, vs) returns (
                uint256 id
            ) {
                times[i] = _now();
                frozen[i] = vault.slashOf(id).frozen;
                vm.prank(GUARDIAN);
                vault.cancelSlash(id);
            } catch (bytes memory reason) {
                _true(bytes4(reason) == IStakeVault.FreezeCapReached.selector, "no other reason");
            }
            uint256 within;
            for (uint256 k = 0; k <= i; k++) {
                if (times[k] + 7 days > _now()) within += frozen[k];
            }
            _true(within <= 200 * TOKEN, "a fifth");
        }
    }
}
