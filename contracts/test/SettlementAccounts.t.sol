// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ISettlement} from "../src/interfaces/ISettlement.sol";
import {TokenWithFee, TokenWithHooks} from "./support/SettlementDoubles.sol";
import {SettlementFixture} from "./support/SettlementFixture.sol";

contract SettlementAccountsTest is SettlementFixture {
    function setUp() public {
        _deploy(18);
    }

    function test_payersAreCountedPerLaneFromOne() public {
        _openLane(8);
        _same(settlement.registerPayer(LANE), 1, "first");
        _same(settlement.registerPayer(LANE), 2, "second");
        _same(settlement.registerPayer(8), 1, "of another lane");
        _same(settlement.payerCount(LANE), 2, "count");
        _same(settlement.payerOwner(LANE, 2), address(this), "owner");
        _same(settlement.payerOwner(LANE, 0), REWARDS_OWNER, "owner of the rewards");
    }

    function test_anyoneDepositsForAnyPayer() public {
        uint32 payer = _payer(0);
        token.transfer(STRANGER, _units(5));
        vm.startPrank(STRANGER);
        token.approve(address(settlement), _units(5));
        vm.expectEmit(true, true, true, true, address(settlement));
        emit ISettlement.Deposited(LANE, payer, STRANGER, 5);
        settlement.deposit(LANE, payer, 5);
        vm.stopPrank();
        _same(_balance(payer), 5, "balance");
        _same(token.balanceOf(address(settlement)), _units(5), "tokens: 10^9 units a nano-token");
    }

    function test_depositsByPermitInOneTransaction() public {
        uint256 key = 0x9E4;
        address owner = vm.addr(key);
        uint32 payer = _payer(0);
        token.transfer(owner, _units(9));
        bytes32 permit = keccak256(
            abi.encode(
                keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"),
                owner,
                address(settlement),
                _units(9),
                0,
                type(uint256).max
            )
        );
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(key, keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), permit)));
        vm.prank(owner);
        settlement.depositWithPermit(LANE, payer, 9, type(uint256).max, v, r, s);
        _same(_balance(payer), 9, "balance");
    }

    function test_aPermitThatWasSentBeforeDoesNotStopTheDeposit() public {
        uint32 payer = _payer(0);
        settlement.depositWithPermit(LANE, payer, 9, 0, 27, 0, 0); // worthless, but the allowance is there
        _same(_balance(payer), 9, "balance");
    }

    function test_refusesDepositsThatNobodyCouldUse() public {
        vm.expectRevert(abi.encodeWithSelector(ISettlement.UnknownPayer.selector, LANE, uint32(3)));
        settlement.deposit(LANE, 3, 1);
        vm.expectRevert(ISettlement.NothingToDo.selector);
        settlement.deposit(LANE, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.LaneNotActive.selector, uint32(9)));
        settlement.deposit(9, 0, 1);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.LaneNotActive.selector, uint32(9)));
        settlement.registerPayer(9);
        vm.prank(GUARDIAN);
        settlement.closeLane(LANE);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.LaneNotActive.selector, LANE));
        settlement.deposit(LANE, 0, 1);
    }

    function test_refusesATokenWithAFeeOnTransfer() public {
        TokenWithFee fee = new TokenWithFee(1e30);
        _deployFor(address(fee));
        fee.approve(address(settlement), type(uint256).max);
        vm.expectRevert(ISettlement.UnsupportedToken.selector);
        settlement.deposit(LANE, 0, 100);
        _same(settlement.held(), 0, "nothing is held");
    }

    function test_aTokenThatCallsBackFindsTheDoorShut() public {
        TokenWithHooks hooks = new TokenWithHooks(1e30);
        _deployFor(address(hooks));
        hooks.approve(address(settlement), type(uint256).max);
        hooks.onTransfer(address(settlement), abi.encodeCall(ISettlement.deposit, (LANE, 0, 7)));
        settlement.deposit(LANE, 0, 100);
        _true(!hooks.succeeded(), "no deposit within a deposit");
        _same(settlement.held(), 100, "held");
    }

    // ---- thaw and withdrawal

    function test_paysAWithdrawalAfterSevenDaysAndNotBefore() public {
        uint32 payer = _payer(100);
        uint64 due = _now() + 604_800;
        vm.expectEmit(true, true, true, true, address(settlement));
        emit ISettlement.ThawRequested(LANE, payer, 60, due);
        settlement.thaw(LANE, payer, 60);
        _later(604_799);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.NotDue.selector, due));
        settlement.withdraw(LANE, payer);
        _later(1);
        uint256 before = token.balanceOf(address(this));
        _same(settlement.withdraw(LANE, payer), 60, "paid");
        _same(token.balanceOf(address(this)) - before, _units(60), "tokens");
        _same(_balance(payer), 40, "left");
        _same(settlement.held(), 40, "held");
        vm.expectRevert(ISettlement.NothingToDo.selector);
        settlement.withdraw(LANE, payer);
    }

    function test_whatTheLaneSpendsMeanwhileIsNotWithdrawn() public {
        uint32 payer = _payer(100);
        uint32 provider = _provider();
        settlement.thaw(LANE, payer, 100);
        _settle(_single(1, payer, provider, 70));
        _later(7 days);
        _same(settlement.withdraw(LANE, payer), 30, "the rest");
    }

    function test_aNewRequestReplacesTheOldOneAndBeginsAnew() public {
        uint32 payer = _payer(100);
        settlement.thaw(LANE, payer, 100);
        _later(6 days);
        settlement.thaw(LANE, payer, 10);
        _later(6 days);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.NotDue.selector, _now() + 1 days));
        settlement.withdraw(LANE, payer);
        settlement.thaw(LANE, payer, 0);
        _later(30 days);
        vm.expectRevert(ISettlement.NothingToDo.selector);
        settlement.withdraw(LANE, payer);
    }

    function test_onlyTheOwnerThawsAndWithdraws() public {
        uint32 payer = _payer(100);
        vm.startPrank(STRANGER);
        vm.expectRevert(ISettlement.NotOwner.selector);
        settlement.thaw(LANE, payer, 1);
        vm.expectRevert(ISettlement.NotOwner.selector);
        settlement.withdraw(LANE, payer);
        vm.stopPrank();
    }

    function test_theRewardsOwnerGetsRewardsBack() public {
        settlement.deposit(LANE, 0, 50);
        vm.prank(REWARDS_OWNER);
        settlement.thaw(LANE, 0, 50);
        _later(7 days);
        vm.prank(REWARDS_OWNER);
        settlement.withdraw(LANE, 0);
        _same(token.balanceOf(REWARDS_OWNER), _units(50), "tokens");
    }

    function test_rewardsWithoutAnOwnerStay() public {
        vm.prank(LANE_ADMIN);
        settlement.openLane(8, vm.addr(SIGNER_KEY), address(0));
        settlement.deposit(8, 0, 50);
        vm.expectRevert(ISettlement.NotOwner.selector);
        settlement.thaw(8, 0, 50);
    }

    function test_payersOfAClosedLaneGetTheirMoneyBack() public {
        uint32 payer = _payer(100);
        vm.prank(GUARDIAN);
        settlement.closeLane(LANE);
        settlement.thaw(LANE, payer, 100);
        _later(7 days);
        _same(settlement.withdraw(LANE, payer), 100, "paid");
    }

    function test_withdrawalsPauseAlone() public {
        uint32 payer = _payer(100);
        settlement.thaw(LANE, payer, 100);
        _later(7 days);
        vm.prank(GUARDIAN);
        settlement.pause(ISettlement.Path.Withdraw);
        vm.expectRevert(ISettlement.Paused.selector);
        settlement.withdraw(LANE, payer);
        vm.prank(ADMIN);
        settlement.unpause(ISettlement.Path.Withdraw);
        settlement.withdraw(LANE, payer);
    }

    // ---- tokens of other decimals

    function test_aTokenOfSixDecimalsMovesInThousandsOfNano() public {
        _deploy(6);
        _same(settlement.granularity(), 1_000, "granularity");
        vm.expectRevert(abi.encodeWithSelector(ISettlement.BelowGranularity.selector, uint64(1_000)));
        settlement.deposit(LANE, 0, 1_500);
        uint32 payer = _payer(5_000);
        _same(token.balanceOf(address(settlement)), 5, "tokens: 1,000 nano-tokens a unit");
        uint32 provider = _provider();
        _settle(_single(1, payer, provider, 1_200));
        settlement.thaw(LANE, payer, 5_000);
        _later(7 days);
        _same(settlement.withdraw(LANE, payer), 3_000, "what the token can move");
        _same(_balance(payer), 800, "the rest stays");
    }

    function test_aTokenOfNineDecimalsMovesNano() public {
        _deploy(9);
        _payer(5);
        _same(token.balanceOf(address(settlement)), 5, "tokens");
        _same(settlement.granularity(), 1, "granularity");
    }

    function test_refusesATokenOfAbsurdDecimals() public {
        address odd = address(_newToken(37, 0));
        vm.expectRevert(ISettlement.UnsupportedToken.selector);
        _newSettlement(_setup(odd));
    }
}
