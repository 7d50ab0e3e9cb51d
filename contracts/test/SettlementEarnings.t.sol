// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ISettlement} from "../src/interfaces/ISettlement.sol";
import {TokenWithHooks} from "./support/SettlementDoubles.sol";
import {SettlementFixture} from "./support/SettlementFixture.sol";

contract SettlementEarningsTest is SettlementFixture {
    uint32 internal payer;
    uint32 internal provider;

    function setUp() public {
        _deploy(18);
        payer = _payer(1_000_000);
        provider = _provider();
    }

    function _earn(uint64 amount) private {
        _settle(_single(seq, payer, provider, amount));
    }

    // ---- activation

    function test_aProviderIsActivatedWhenItsCoolingIsOver() public {
        uint64 payableAt = _now() + 1 days;
        uint32 cooling = vault.register(BENEFICIARY, payableAt);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.ProviderIsCooling.selector, cooling, payableAt));
        settlement.activateProvider(cooling);
        _later(1 days);
        settlement.activateProvider(cooling);
        _true(settlement.isActive(cooling), "active");
        vm.expectRevert(ISettlement.NothingToDo.selector);
        settlement.activateProvider(cooling);
    }

    function test_aProviderThatTheVaultDoesNotKnowIsNotActivated() public {
        vm.expectRevert(abi.encodeWithSelector(ISettlement.UnknownProvider.selector, uint32(99)));
        settlement.activateProvider(99);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.UnknownProvider.selector, uint32(0)));
        settlement.activateProvider(0);
    }

    // ---- division

    function test_dividesFeeDelegatorsAndProvider() public {
        vault.setDelegatorsBps(provider, 2_000);
        _earn(10_000);
        vm.expectEmit(true, true, true, true, address(settlement));
        emit ISettlement.Divided(provider, 10_000, 500, 1_900, 7_600);
        settlement.divide(provider);
        _same(settlement.creditOf(provider), 0, "credit");
        _same(settlement.feesDue(), 500, "fee: 5 %");
        _same(settlement.earnedOf(provider), 7_600, "provider");
        _same(token.balanceOf(address(vault)), _units(1_900), "delegators: 20 % of the rest");
        _same(settlement.held(), 1_000_000 - 1_900, "held");
    }

    function test_dividingNothingIsNoError() public {
        settlement.divide(provider);
        settlement.divide(99); // the vault calls it for providers that were never active
        vm.prank(GUARDIAN);
        settlement.pause(ISettlement.Path.Claim);
        _earn(100);
        settlement.divide(provider);
        _same(settlement.earnedOf(provider), 95, "a pause does not stop it");
    }

    function test_refusesAVaultThatTakesMoreThanThereIs() public {
        _earn(1_000);
        vault.setGreedy();
        vm.expectRevert(abi.encodeWithSelector(ISettlement.BadDivision.selector, uint64(950), uint64(951)));
        settlement.divide(provider);
    }

    function testFuzz_nothingIsLostInADivision(uint64 amount, uint16 feeBps, uint16 delegatorsBps, uint8 decimals)
        public
    {
        _deploy(6 + decimals % 5);
        payer = _payer(1e15);
        provider = _provider();
        amount = amount % 1e12;
        vm.prank(ADMIN);
        settlement.setFeeBps(feeBps % 2_001);
        vault.setDelegatorsBps(provider, delegatorsBps % 10_001);
        seq = 0;
        chain = 0;
        _earn(amount);
        settlement.divide(provider);
        uint256 sent = token.balanceOf(address(vault)) * NANO_PER_TOKEN / 10 ** token.decimals();
        _true(sent >= vault.owed() && sent < vault.owed() + settlement.granularity(), "the vault is never short");
        _same(
            uint256(settlement.creditOf(provider)) + settlement.earnedOf(provider) + settlement.feesDue() + sent,
            amount,
            "sum"
        );
        _same(settlement.held(), 1e15 - sent, "held");
        _true(settlement.creditOf(provider) < settlement.granularity(), "what is left cannot be moved");
    }

    // ---- claims

    function test_paysAClaimToTheBeneficiaryAfterTheDelay() public {
        _earn(1_000);
        uint64 due = _now() + 1 days;
        vm.expectEmit(true, true, true, true, address(settlement));
        emit ISettlement.ClaimRequested(provider, 950, due);
        settlement.requestClaim(provider);
        ISettlement.Claim memory open = settlement.claimOf(provider);
        _same(open.amount, 950, "amount");
        _same(open.due, due, "due");
        _later(1 days - 1);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.NotDue.selector, due));
        settlement.claim(provider);
        _later(1);
        vm.expectEmit(true, true, true, true, address(settlement));
        emit ISettlement.Claimed(provider, BENEFICIARY, 950);
        _same(settlement.claim(provider), 950, "paid");
        _same(token.balanceOf(BENEFICIARY), _units(950), "tokens");
        vm.expectRevert(ISettlement.NothingToDo.selector);
        settlement.claim(provider);
    }

    function test_oneClaimIsOpenAtATime() public {
        _earn(1_000);
        settlement.requestClaim(provider);
        _earn(1_000);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.ClaimOpen.selector, _now() + 1 days));
        settlement.requestClaim(provider);
        _later(1 days);
        settlement.claim(provider);
        settlement.requestClaim(provider);
        _same(settlement.claimOf(provider).amount, 950, "the second");
        _same(settlement.earnedOf(provider), 0, "all of it");
    }

    function test_thereIsNoClaimOfNothing() public {
        vm.expectRevert(ISettlement.NothingToDo.selector);
        settlement.requestClaim(provider);
    }

    function test_anOpenClaimKeepsItsDueTime() public {
        _earn(1_000);
        settlement.requestClaim(provider);
        vm.prank(ADMIN);
        settlement.setClaimDelay(30 days);
        _later(1 days);
        settlement.claim(provider);
    }

    function test_claimsPauseAlone() public {
        _earn(1_000);
        settlement.requestClaim(provider);
        _later(1 days);
        vm.prank(GUARDIAN);
        settlement.pause(ISettlement.Path.Claim);
        vm.expectRevert(ISettlement.Paused.selector);
        settlement.claim(provider);
        vm.expectRevert(ISettlement.Paused.selector);
        settlement.collectFees();
        _earn(1_000);
        vm.prank(GUARDIAN);
        settlement.unpause(ISettlement.Path.Claim);
        settlement.claim(provider);
    }

    function test_aRecipientThatIsRefusedStopsItsOwnClaimOnly() public {
        TokenWithHooks hooks = new TokenWithHooks(1e40);
        _deployFor(address(hooks));
        hooks.approve(address(settlement), type(uint256).max);
        payer = _payer(1_000_000);
        provider = _provider();
        uint32 other = vault.register(STRANGER, 0);
        settlement.activateProvider(other);
        seq = 0;
        chain = 0;
        _earn(1_000);
        _settle(_single(1_000, payer, other, 1_000));
        settlement.requestClaim(provider);
        settlement.requestClaim(other);
        _later(1 days);
        hooks.refuse(BENEFICIARY);
        vm.expectRevert(bytes("refused"));
        settlement.claim(provider);
        settlement.claim(other);
        _same(hooks.balanceOf(STRANGER), 950e9, "paid");
        vault.setBeneficiary(provider, ADMIN);
        settlement.claim(provider);
        _same(hooks.balanceOf(ADMIN), 950e9, "paid to the new beneficiary");
    }

    function test_feesGoToTheTreasury() public {
        _earn(1_000);
        settlement.divide(provider);
        _same(settlement.collectFees(), 50, "amount");
        _same(token.balanceOf(TREASURY), _units(50), "tokens");
        vm.expectRevert(ISettlement.NothingToDo.selector);
        settlement.collectFees();
    }
}
