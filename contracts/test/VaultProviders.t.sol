// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ISettlement} from "../src/interfaces/ISettlement.sol";
import {IStakeVault} from "../src/interfaces/IStakeVault.sol";
import {StakeVaultParameters} from "../src/StakeVaultParameters.sol";
import {VaultFixture} from "./support/VaultFixture.sol";

contract VaultProvidersTest is VaultFixture {
    function setUp() public {
        _deploy(18);
    }

    // ---- registration

    function test_providersAreCountedFromOne() public {
        _same(provider, 1, "first");
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.Registered(2, STAKER, OPERATOR, BENEFICIARY, _now() + 1 days);
        _same(_register(), 2, "second");
        _same(vault.providerCount(), 2, "count");
        IStakeVault.Provider memory known = vault.providerOf(2);
        _same(known.staker, STAKER, "staker");
        _same(known.operator, OPERATOR, "operator");
        _same(known.beneficiary, BENEFICIARY, "beneficiary");
        _same(known.registeredAt, _now(), "registered");
        _same(known.payableAt, _now() + 1 days, "payable after cooling");
    }

    function test_aProviderIsPaidOnlyAfterCooling() public {
        uint64 payableAt = _now() + 1 days;
        _later(1 days - 1);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.ProviderIsCooling.selector, provider, payableAt));
        settlement.activateProvider(provider);
        _later(1);
        settlement.activateProvider(provider);
        _true(settlement.isActive(provider), "active");
    }

    function test_coolingThatHasBegunKeepsItsEnd() public {
        _set(StakeVaultParameters.Parameter.CoolingTime, 30 days);
        _later(1 days);
        settlement.activateProvider(provider);
    }

    function test_refusesAProviderWithoutOperatorOrBeneficiary() public {
        vm.expectRevert(IStakeVault.ZeroAddress.selector);
        vault.register(address(0), BENEFICIARY);
        vm.expectRevert(IStakeVault.ZeroAddress.selector);
        vault.register(OPERATOR, address(0));
    }

    function test_theStakersKeyIsNeverTheOperators() public {
        vm.prank(STAKER);
        vm.expectRevert(IStakeVault.StakerIsOperator.selector);
        vault.register(STAKER, BENEFICIARY);
        vm.prank(STAKER);
        vm.expectRevert(IStakeVault.StakerIsOperator.selector);
        vault.setOperator(provider, STAKER);
    }

    function test_anUnknownProviderIsNamed() public {
        bytes memory unknown = abi.encodeWithSelector(IStakeVault.UnknownProvider.selector, uint32(9));
        vm.expectRevert(unknown);
        vault.providerOf(9);
        vm.expectRevert(unknown);
        vault.sessionEpoch(9);
        vm.expectRevert(unknown);
        vault.effectiveStake(9);
        vm.expectRevert(unknown);
        vault.stake(9, 1);
        vm.expectRevert(unknown);
        vault.delegate(9, TOKEN);
        vm.expectRevert(unknown);
        vault.revokeSessions(9);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.UnknownProvider.selector, uint32(0)));
        vault.providerOf(0);
    }

    // ---- what the staker and the operator change

    function test_onlyTheStakerChangesTerms() public {
        vm.startPrank(OPERATOR);
        vm.expectRevert(IStakeVault.NotStaker.selector);
        vault.setOperator(provider, STRANGER);
        vm.expectRevert(IStakeVault.NotStaker.selector);
        vault.setBeneficiary(provider, STRANGER);
        vm.expectRevert(IStakeVault.NotStaker.selector);
        vault.setCommission(provider, 1);
        vm.stopPrank();
        vm.startPrank(STAKER);
        vm.expectRevert(IStakeVault.ZeroAddress.selector);
        vault.setOperator(provider, address(0));
        vm.expectRevert(IStakeVault.ZeroAddress.selector);
        vault.setBeneficiary(provider, address(0));
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.OperatorChanged(provider, STRANGER);
        vault.setOperator(provider, STRANGER);
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.BeneficiaryChanged(provider, STAKER);
        vault.setBeneficiary(provider, STAKER);
        vm.stopPrank();
        _same(vault.providerOf(provider).operator, STRANGER, "operator");
        _same(vault.providerOf(provider).beneficiary, STAKER, "beneficiary");
    }

    function test_onlyTheOperatorSetsTheInventory() public {
        vm.prank(STAKER);
        vm.expectRevert(IStakeVault.NotOperator.selector);
        vault.setInventory(provider, "devices");
        vm.prank(OPERATOR);
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.InventorySet(provider, "devices");
        vault.setInventory(provider, "devices");
        _same(vault.providerOf(provider).inventoryHash, "devices", "hash");
    }

    function test_stakerAndOperatorRevokeAllSessions() public {
        _same(vault.sessionEpoch(provider), 0, "first epoch");
        vm.prank(OPERATOR);
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.SessionsRevoked(provider, 1);
        vault.revokeSessions(provider);
        vm.prank(STAKER);
        vault.revokeSessions(provider);
        _same(vault.sessionEpoch(provider), 2, "epoch");
        vm.prank(BENEFICIARY);
        vm.expectRevert(IStakeVault.NotAuthorised.selector);
        vault.revokeSessions(provider);
    }

    // ---- commission

    function _commission() private view returns (uint16) {
        return vault.providerOf(provider).commissionBps;
    }

    function _setCommission(uint16 bps) private {
        vm.prank(STAKER);
        vault.setCommission(provider, bps);
    }

    function test_aHigherCommissionHoldsAfterTheUnbondingTime() public {
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.CommissionChanged(provider, 1_000, _now() + UNBONDING);
        _setCommission(1_000);
        _later(UNBONDING - 1);
        _same(_commission(), 0, "a second before");
        _later(1);
        _same(_commission(), 1_000, "then");
    }

    function test_aLowerCommissionHoldsAtOnce() public {
        _setCommission(1_000);
        _later(UNBONDING);
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.CommissionChanged(provider, 400, _now());
        _setCommission(400);
        _same(_commission(), 400, "at once");
    }

    function test_anAnnouncedRiseIsReplacedAndItsNoticeBeginsAgain() public {
        _setCommission(1_000);
        _later(UNBONDING - 1);
        _setCommission(1_500);
        _later(UNBONDING - 1);
        _same(_commission(), 0, "neither of them");
        _later(1);
        _same(_commission(), 1_500, "the second");
    }

    function test_aCommissionAboveTheLimitIsRefused() public {
        vm.prank(STAKER);
        vm.expectRevert(IStakeVault.OutOfBounds.selector);
        vault.setCommission(provider, 2_001);
        _setCommission(2_000);
    }

    function test_whatWasCreditedBeforeIsDividedOnTheTermsOfBefore() public {
        _setCommission(2_000);
        _later(UNBONDING);
        _stake(100 * TOKEN);
        _delegate(DELEGATOR, 100 * TOKEN);
        uint32 payer = _earning();
        _earn(payer, 20_000);
        _setCommission(0);
        // 19,000 after the fee; half of it is the delegated half; 20 % of that is commission.
        _same(vault.rewardsOf(provider, DELEGATOR), 7_600, "old commission");
        _earn(payer, 20_000);
        settlement.divide(provider);
        _same(vault.rewardsOf(provider, DELEGATOR), 7_600 + 9_500, "and then the new one");
    }

    function test_noticeThatWasGivenDoesNotFollowTheParameter() public {
        _setCommission(1_000);
        _set(StakeVaultParameters.Parameter.UnbondingTime, 90 days);
        _later(UNBONDING);
        _same(_commission(), 1_000, "as announced");
    }
}
