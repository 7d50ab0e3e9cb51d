// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IStakeVault} from "../src/interfaces/IStakeVault.sol";
import {StakeVaultParameters} from "../src/StakeVaultParameters.sol";
import {TokenWithFee, TokenWithHooks} from "./support/SettlementDoubles.sol";
import {VaultFixture} from "./support/VaultFixture.sol";

contract VaultStakesTest is VaultFixture {
    bytes4 private constant REENTRANT = bytes4(keccak256("ReentrancyGuardReentrantCall()"));

    function setUp() public {
        _deploy(18);
    }

    // ---- in

    function test_stakeComesFromTheStaker() public {
        uint256 before = _held(STAKER);
        vm.prank(STAKER);
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.Staked(provider, 30 * TOKEN);
        vault.stake(provider, 30 * TOKEN);
        _same(_own(), 30 * TOKEN, "own");
        _same(_held(STAKER), before - 30 * TOKEN, "staker");
        _same(token.balanceOf(address(vault)), 30e18, "10^9 units a nano-token");
        (uint128 principal,,) = vault.liabilities();
        _same(principal, 30 * TOKEN, "owed");
    }

    function test_onlyTheStakerStakes() public {
        vm.prank(DELEGATOR);
        vm.expectRevert(IStakeVault.NotStaker.selector);
        vault.stake(provider, TOKEN);
    }

    function test_refusesNothing() public {
        vm.startPrank(STAKER);
        vm.expectRevert(IStakeVault.AmountZero.selector);
        vault.stake(provider, 0);
        vm.expectRevert(IStakeVault.AmountZero.selector);
        vault.requestUnbond(provider, 0);
        vm.expectRevert(IStakeVault.AmountZero.selector);
        vault.requestUndelegate(provider, 0);
        vm.stopPrank();
    }

    function test_refusesATokenWithAFeeOnTransfer() public {
        TokenWithFee fee = new TokenWithFee(1e30);
        vault = _newVault(address(fee), ADMIN, TREASURY);
        uint32 mine = vault.register(OPERATOR, BENEFICIARY);
        fee.approve(address(vault), type(uint256).max);
        vm.expectRevert(IStakeVault.UnsupportedToken.selector);
        vault.stake(mine, 100 * TOKEN);
        vm.expectRevert(IStakeVault.UnsupportedToken.selector);
        vault.delegate(mine, 100 * TOKEN);
    }

    function test_refusesATokenThatCountsTooFine() public {
        address odd = address(_newToken(37, 0));
        vm.expectRevert(IStakeVault.UnsupportedToken.selector);
        _newVault(odd, ADMIN, TREASURY);
    }

    function test_refusesMoreThanItCanCount() public {
        address huge = address(_newToken(9, type(uint128).max));
        vault = _newVault(huge, ADMIN, TREASURY);
        uint32 mine = vault.register(OPERATOR, BENEFICIARY);
        (, bytes memory approved) = huge.call(abi.encodeWithSignature("approve(address,uint256)", vault, 1e38));
        _true(abi.decode(approved, (bool)), "approved");
        vault.stake(mine, 1e28 - 5);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.AmountTooLarge.selector, uint128(5)));
        vault.stake(mine, 6);
        vault.stake(mine, 5);
    }

    // ---- what bonds

    function test_bondedMeansStrictlyMoreThanTheMinimum() public {
        _stake(20_000 * TOKEN);
        _true(!vault.isBonded(provider, IStakeVault.Role.Miner), "exactly the minimum is too little");
        _stake(1);
        _true(vault.isBonded(provider, IStakeVault.Role.Miner), "a nano-token more is enough");
        _true(!vault.isBonded(provider, IStakeVault.Role.Coordinator), "not for a coordinator");
        _stake(1_980_000 * TOKEN - 1);
        _true(!vault.isBonded(provider, IStakeVault.Role.Coordinator), "exactly 2,000,000");
        _stake(1);
        _true(vault.isBonded(provider, IStakeVault.Role.Coordinator), "more than 2,000,000");
    }

    function test_delegatedStakeCountsUpToItsLimit() public {
        _stake(10_000 * TOKEN);
        _delegate(DELEGATOR, 15_000 * TOKEN);
        _same(vault.effectiveStake(provider), 20_000 * TOKEN, "as much as the own");
        _set(StakeVaultParameters.Parameter.DelegationLimitBps, 20_000);
        _same(vault.effectiveStake(provider), 25_000 * TOKEN, "up to twice the own");
        _set(StakeVaultParameters.Parameter.DelegationLimitBps, 0);
        _same(vault.effectiveStake(provider), 10_000 * TOKEN, "none of it");
    }

    function test_frozenAndUnbondingStakeDoNotBond() public {
        _stake(21_000 * TOKEN);
        uint256 id = _propose("i", 2_000 * TOKEN);
        _true(!vault.isBonded(provider, IStakeVault.Role.Miner), "frozen");
        vm.prank(GUARDIAN);
        vault.cancelSlash(id);
        uint32 ticket = _unbond(2_000 * TOKEN);
        _true(!vault.isBonded(provider, IStakeVault.Role.Miner), "unbonding");
        vm.prank(STAKER);
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.Rebonded(provider, STAKER, ticket, 2_000 * TOKEN);
        vault.rebond(provider, ticket);
        _true(vault.isBonded(provider, IStakeVault.Role.Miner), "bonded again");
        _same(vault.ticketsOf(provider, STAKER).length, 0, "the ticket is used up");
    }

    // ---- out

    function test_stakeIsRefusedAt604799SecondsAndPaidAt604800() public {
        _stake(50 * TOKEN);
        uint64 unlockAt = _now() + 604_800;
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.UnbondRequested(provider, STAKER, 1, 20 * TOKEN, unlockAt);
        uint32 ticket = _unbond(20 * TOKEN);
        _same(_own(), 30 * TOKEN, "bonded");
        _same(vault.providerOf(provider).unbonding, 20 * TOKEN, "unbonding");
        _later(604_799);
        vm.prank(STAKER);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.StillLocked.selector, unlockAt));
        vault.withdraw(provider, ticket);
        _later(1);
        uint256 before = token.balanceOf(STAKER);
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.Withdrawn(provider, STAKER, ticket, 20 * TOKEN);
        _same(_withdraw(STAKER, ticket), 20 * TOKEN, "amount");
        _same(token.balanceOf(STAKER) - before, 20e18, "to the wei");
        _same(vault.providerOf(provider).unbonding, 0, "nothing left");
        vm.prank(STAKER);
        vm.expectRevert(IStakeVault.UnknownTicket.selector);
        vault.withdraw(provider, ticket);
    }

    function test_aTicketKeepsItsTimeWhenTheParameterChanges() public {
        _stake(50 * TOKEN);
        uint32 ticket = _unbond(20 * TOKEN);
        _set(StakeVaultParameters.Parameter.UnbondingTime, 90 days);
        _same(vault.unbondingTime(), 90 days, "for new ones");
        _later(UNBONDING);
        _same(_withdraw(STAKER, ticket), 20 * TOKEN, "paid");
        ticket = _unbond(20 * TOKEN);
        _later(90 days - 1);
        vm.prank(STAKER);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.StillLocked.selector, _now() + 1));
        vault.withdraw(provider, ticket);
    }

    function test_noMoreThanTheOwnStakeLeaves() public {
        _stake(50 * TOKEN);
        _delegate(DELEGATOR, 50 * TOKEN);
        vm.prank(STAKER);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.AmountTooLarge.selector, 50 * TOKEN));
        vault.requestUnbond(provider, 50 * TOKEN + 1);
        vm.prank(DELEGATOR);
        vm.expectRevert(IStakeVault.NotStaker.selector);
        vault.requestUnbond(provider, TOKEN);
    }

    function test_nobodyWithdrawsTheTicketOfAnother() public {
        _stake(50 * TOKEN);
        uint32 ticket = _unbond(20 * TOKEN);
        _later(UNBONDING);
        vm.prank(OPERATOR);
        vm.expectRevert(IStakeVault.UnknownTicket.selector);
        vault.withdraw(provider, ticket);
        vm.prank(DELEGATOR);
        vm.expectRevert(IStakeVault.UnknownTicket.selector);
        vault.rebond(provider, ticket);
    }

    function test_sixteenTicketsAreOpenAtMost() public {
        _stake(50 * TOKEN);
        for (uint256 i = 0; i < vault.MAX_TICKETS(); i++) {
            _same(_unbond(TOKEN), i + 1, "numbers");
        }
        vm.prank(STAKER);
        vm.expectRevert(IStakeVault.TooManyTickets.selector);
        vault.requestUnbond(provider, TOKEN);
        _later(UNBONDING);
        _withdraw(STAKER, 3);
        _same(_unbond(TOKEN), 17, "a number is never used again");
        IStakeVault.Ticket[] memory tickets = vault.ticketsOf(provider, STAKER);
        _same(tickets.length, 16, "open");
        uint256 sum;
        for (uint256 i = 0; i < tickets.length; i++) {
            _true(tickets[i].id != 3, "the paid one is gone");
            sum += tickets[i].amount;
        }
        _same(sum, 16 * TOKEN, "sum");
    }

    function test_ticketsArePaidInAnyOrder() public {
        _stake(60 * TOKEN);
        uint32 first = _unbond(10 * TOKEN);
        uint32 second = _unbond(20 * TOKEN);
        uint32 third = _unbond(30 * TOKEN);
        _later(UNBONDING);
        _same(_withdraw(STAKER, second), 20 * TOKEN, "second");
        _same(_withdraw(STAKER, third), 30 * TOKEN, "third");
        _same(_withdraw(STAKER, first), 10 * TOKEN, "first");
        _same(token.balanceOf(address(vault)), 0, "empty");
    }

    // ---- pauses

    function test_thePausesOfInflowAndWithdrawalsStopNothingElse() public {
        _stake(50 * TOKEN);
        uint32 ticket = _unbond(20 * TOKEN);
        vm.startPrank(GUARDIAN);
        vault.setPaused(StakeVaultParameters.Path.Inflow, true);
        vault.setPaused(StakeVaultParameters.Path.Withdrawals, true);
        vm.stopPrank();
        vm.startPrank(STAKER);
        vm.expectRevert(IStakeVault.Paused.selector);
        vault.register(OPERATOR, BENEFICIARY);
        vm.expectRevert(IStakeVault.Paused.selector);
        vault.stake(provider, TOKEN);
        vm.expectRevert(IStakeVault.Paused.selector);
        vault.delegate(provider, TOKEN);
        vm.expectRevert(IStakeVault.Paused.selector);
        vault.rebond(provider, ticket);
        vault.requestUnbond(provider, TOKEN);
        _later(UNBONDING);
        vm.expectRevert(IStakeVault.Paused.selector);
        vault.withdraw(provider, ticket);
        vm.stopPrank();
        vm.prank(ADMIN);
        vault.setPaused(StakeVaultParameters.Path.Withdrawals, false);
        _same(_withdraw(STAKER, ticket), 20 * TOKEN, "the admin opens it again");
    }

    // ---- tokens of another kind

    function test_aCoarseTokenMovesInWholeUnitsOnly() public {
        _deploy(6);
        bytes memory fraction = abi.encodeWithSelector(IStakeVault.NotWholeUnits.selector, uint128(1_000));
        vm.startPrank(STAKER);
        vm.expectRevert(fraction);
        vault.stake(provider, TOKEN + 1);
        vault.stake(provider, 5 * TOKEN);
        vm.expectRevert(fraction);
        vault.requestUnbond(provider, TOKEN + 1);
        vm.stopPrank();
        _same(token.balanceOf(address(vault)), 5e6, "a thousand nano-tokens a unit");
        uint32 ticket = _unbond(2 * TOKEN);
        _later(UNBONDING);
        uint256 before = token.balanceOf(STAKER);
        _withdraw(STAKER, ticket);
        _same(token.balanceOf(STAKER) - before, 2e6, "units");
    }

    function test_whatACoarseTokenCannotSayAfterASlashGoesToTheTreasury() public {
        _deploy(6);
        _stake(TOKEN);
        _slash("i", 500);
        uint32 ticket = _unbond(TOKEN - 500); // all of it may be a fraction
        _later(UNBONDING);
        _same(_withdraw(STAKER, ticket), TOKEN - 1_000, "whole units");
        _same(vault.paySlashedFunds(), 1_000, "the slash and the fraction");
        _same(token.balanceOf(address(vault)), 0, "nothing is left behind");
    }

    function test_aPartOfATicketIsPaidInWholeUnitsAndTheRestStays() public {
        _deploy(6);
        _stake(10_000);
        uint32 ticket = _unbond(10_000);
        uint256 id = _proposeAny("i", 3_500);
        _later(UNBONDING);
        _same(_withdraw(STAKER, ticket), 6_000, "6,500 are free");
        (, , uint128 slashed) = vault.liabilities();
        _same(slashed, 0, "the treasury gets nothing of it");
        vm.prank(GUARDIAN);
        vault.cancelSlash(id);
        _same(_withdraw(STAKER, ticket), 4_000, "the rest");
    }

    function test_aTransferThatCallsBackCannotWithdrawTwice() public {
        TokenWithHooks hooks = new TokenWithHooks(1e30);
        vault = _newVault(address(hooks), ADMIN, TREASURY);
        hooks.approve(address(vault), type(uint256).max);
        uint32 mine = vault.register(OPERATOR, BENEFICIARY);
        hooks.onTransfer(address(vault), abi.encodeCall(IStakeVault.requestUnbond, (mine, 1)));
        vault.stake(mine, 100 * TOKEN);
        _same(bytes32(hooks.answer()), bytes32(REENTRANT), "not while stake comes in");
        uint32 ticket = vault.requestUnbond(mine, 40 * TOKEN);
        _later(UNBONDING);
        hooks.onTransfer(address(vault), abi.encodeCall(IStakeVault.withdraw, (mine, ticket)));
        vault.withdraw(mine, ticket);
        _same(bytes32(hooks.answer()), bytes32(REENTRANT), "not while stake goes out");
        _same(hooks.balanceOf(address(vault)), 60e18, "paid once");
    }
}
