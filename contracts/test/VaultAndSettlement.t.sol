// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ISettlement} from "../src/interfaces/ISettlement.sol";
import {Content, Group, Job} from "./support/BatchFormat.sol";
import {VaultFixture} from "./support/VaultFixture.sol";

/// @dev The two contracts as they are deployed together.
contract VaultAndSettlementTest is VaultFixture {
    uint32 private payer;

    function setUp() public {
        _deploy(18);
        _stake(300 * TOKEN);
        _delegate(DELEGATOR, 100 * TOKEN);
        payer = _earning();
    }

    function test_aJobsPriceIsFoundInItsPartsToTheWei() public {
        uint256 before = token.balanceOf(DELEGATOR);
        Content memory c = _single(0, payer, provider, 3_600_000); // one GPU for an hour, in milliseconds
        c.groups[0].price = 720_000 * 1e6; // 720,000 nano-tokens a second
        _settle(c);
        _same(settlement.creditOf(provider), 2_592_000_000, "units times price");
        _same(_balance(payer), 1e18 - 2_592_000_000, "the payer's debit");
        settlement.requestClaim(provider);
        vm.prank(DELEGATOR);
        vault.requestRewards(provider);
        _later(1 days);
        settlement.claim(provider);
        vault.claimRewards(provider, DELEGATOR);
        settlement.collectFees();
        _same(token.balanceOf(TREASURY), 129_600_000e9, "5 % fee");
        _same(token.balanceOf(DELEGATOR) - before, 615_600_000e9, "a quarter of the stake, a quarter of the rest");
        _same(token.balanceOf(BENEFICIARY), 1_846_800_000e9, "the rest");
        _same(_held(address(vault)), 400 * TOKEN, "the vault keeps stake only");
    }

    function test_creditIsDividedBeforeSharesChange() public {
        _earn(payer, 100_000); // 71,250 and 23,750 by the shares of now
        _stake(100 * TOKEN);
        _same(settlement.earnedOf(provider), 71_250, "before stake comes in");
        _earn(payer, 100_000); // 400 and 100: 76,000 and 19,000
        _unbond(300 * TOKEN);
        _same(settlement.earnedOf(provider), 71_250 + 76_000, "before stake leaves");
        _earn(payer, 100_000); // 100 and 100
        _delegate(LATE, 200 * TOKEN);
        _same(vault.rewardsOf(provider, LATE), 0, "before a delegator comes");
        _earn(payer, 100_000); // 100 and 300: 23,750; 23,750 and 47,500
        _undelegate(DELEGATOR, 100 * TOKEN);
        _same(vault.rewardsOf(provider, DELEGATOR), 23_750 + 19_000 + 47_500 + 23_750, "before one leaves");
        _earn(payer, 100_000); // 100 and 200: 63,333 to the other
        uint256 id = _proposeAny("i", 500 * TOKEN);
        _later(DISPUTE + 1);
        vault.finalizeSlash(id);
        _same(vault.rewardsOf(provider, LATE), 47_500 + 63_333, "before a slash");
        _same(settlement.creditOf(provider), 0, "all of it");
    }

    function test_noPauseOfTheSettlementBlocksStake() public {
        _earn(payer, 100_000);
        vm.startPrank(GUARDIAN);
        settlement.pause(ISettlement.Path.Settle);
        settlement.pause(ISettlement.Path.Claim);
        settlement.pause(ISettlement.Path.Withdraw);
        settlement.closeLane(LANE);
        vm.stopPrank();
        _stake(TOKEN);
        _delegate(DELEGATOR, TOKEN);
        uint32 own = _unbond(TOKEN);
        uint32 delegated = _undelegate(DELEGATOR, TOKEN);
        _slash("i", TOKEN);
        _later(UNBONDING);
        _withdraw(STAKER, own);
        _withdraw(DELEGATOR, delegated);
        vm.prank(DELEGATOR);
        vault.requestRewards(provider);
        _later(1 days);
        _same(vault.claimRewards(provider, DELEGATOR), 23_750, "rewards of before");
    }

    /// Payer, staker and delegator are one person. What the lane pays on top is at most the fee, as the operator caps it.
    function testFuzz_whoPaysHimselfNeverGains(uint64 amount, uint16 feeBps, uint16 commission, uint64 own, uint64 delegated)
        public
    {
        amount = 1 + amount % 1e14;
        vm.prank(ADMIN);
        settlement.setFeeBps(feeBps % 2_001);
        provider = _register();
        _stake(uint128(1 + own % (1e6 * TOKEN)));
        vm.startPrank(STAKER);
        vault.setCommission(provider, commission % 2_001);
        vault.delegate(provider, uint128(TOKEN + delegated % (1e6 * TOKEN)));
        vm.stopPrank();
        _later(UNBONDING);
        settlement.activateProvider(provider);

        uint64 emission = uint64(uint256(amount) * settlement.feeBps() / 10_000);
        settlement.deposit(LANE, 0, 1 + emission);
        Content memory c = _single(0, payer, provider, amount);
        c.groups = new Group[](2);
        c.groups[0] = Group(payer, provider, PRICE_NANO);
        c.groups[1] = Group(0, provider, PRICE_NANO);
        c.jobs = new Job[](2);
        c.jobs[0] = Job(0, 0, amount);
        c.jobs[1] = Job(1, 1, emission);
        _settle(c);
        settlement.divide(provider);
        uint256 back = uint256(settlement.earnedOf(provider)) + vault.rewardsOf(provider, STAKER);
        _true(back <= amount, "no more than he paid");
    }

    function test_aSelfPaymentCostsTheFee() public {
        _earn(payer, 1_000_000);
        settlement.divide(provider);
        uint256 back = uint256(settlement.earnedOf(provider)) + vault.rewardsOf(provider, DELEGATOR);
        _same(back, 950_000, "5 % are gone");
    }
}
