// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ISettlement} from "../src/interfaces/ISettlement.sol";
import {IStakeVault} from "../src/interfaces/IStakeVault.sol";
import {StakeVaultParameters} from "../src/StakeVaultParameters.sol";
import {EmptyPromises} from "./support/VaultDoubles.sol";
import {VaultFixture} from "./support/VaultFixture.sol";

contract VaultDelegationTest is VaultFixture {
    function setUp() public {
        _deploy(18);
        _stake(100 * TOKEN);
    }

    // ---- shares

    function test_delegatingGivesShares() public {
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.Delegated(provider, DELEGATOR, 40 * TOKEN, 40 * TOKEN);
        _same(_delegate(DELEGATOR, 40 * TOKEN), 40 * TOKEN, "shares");
        (uint128 shares, uint128 amount) = vault.delegationOf(provider, DELEGATOR);
        _same(shares, 40 * TOKEN, "shares");
        _same(amount, 40 * TOKEN, "worth");
        _same(vault.providerOf(provider).delegated, 40 * TOKEN, "delegated");
    }

    function test_lessThanTheMinimumIsNotDelegated() public {
        vm.prank(DELEGATOR);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.BelowMinimumDelegation.selector, TOKEN));
        vault.delegate(provider, TOKEN - 1);
        _delegate(DELEGATOR, TOKEN);
    }

    function test_aDelegatorLeavesAfterTheUnbondingTime() public {
        _delegate(DELEGATOR, 40 * TOKEN);
        vm.prank(DELEGATOR);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.AmountTooLarge.selector, 40 * TOKEN));
        vault.requestUndelegate(provider, 40 * TOKEN + 1);
        uint32 ticket = _undelegate(DELEGATOR, 40 * TOKEN);
        _later(UNBONDING - 1);
        vm.prank(DELEGATOR);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.StillLocked.selector, _now() + 1));
        vault.withdraw(provider, ticket);
        _later(1);
        uint256 before = _held(DELEGATOR);
        _withdraw(DELEGATOR, ticket);
        _same(_held(DELEGATOR) - before, 40 * TOKEN, "all of it");
    }

    function test_aDelegatorThinksBetterOfIt() public {
        _delegate(DELEGATOR, 40 * TOKEN);
        uint32 ticket = _undelegate(DELEGATOR, 30 * TOKEN);
        vm.prank(DELEGATOR);
        _same(vault.rebond(provider, ticket), 30 * TOKEN, "amount");
        _same(_worth(DELEGATOR), 40 * TOKEN, "delegated again");
    }

    // ---- rewards

    function test_aCreditIsDividedByStakeAndCommission() public {
        vm.prank(STAKER);
        vault.setCommission(provider, 1_000);
        _delegate(DELEGATOR, 60 * TOKEN);
        _delegate(LATE, 40 * TOKEN);
        _later(UNBONDING);
        uint32 payer = _earning();
        _earn(payer, 100_000);
        // Fee 5,000; half of the 95,000 is the delegated half, 10 % of it commission.
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.RewardsDivided(provider, 42_750);
        settlement.divide(provider);
        _same(vault.rewardsOf(provider, DELEGATOR), 25_650, "60 %");
        _same(vault.rewardsOf(provider, LATE), 17_100, "40 %");
        _same(settlement.earnedOf(provider), 52_250, "the provider");
        (, uint128 rewards,) = vault.liabilities();
        _same(rewards, 42_750, "owed");
    }

    function test_aLateDelegatorGetsNothingOfEarlierCredit() public {
        _delegate(DELEGATOR, 100 * TOKEN);
        uint32 payer = _earning();
        _earn(payer, 100_000); // nobody has divided it when the other comes
        _delegate(LATE, 200 * TOKEN);
        _same(vault.rewardsOf(provider, LATE), 0, "nothing of it");
        _same(vault.rewardsOf(provider, DELEGATOR), 47_500, "half, as it was");
        _earn(payer, 100_000);
        settlement.divide(provider);
        _same(vault.rewardsOf(provider, LATE), 47_500, "a half of what came after");
        _same(vault.rewardsOf(provider, DELEGATOR), 47_500 + 23_750, "a quarter of it");
    }

    function test_whoLeavesGetsWhatWasCreditedBefore() public {
        _delegate(DELEGATOR, 100 * TOKEN);
        uint32 payer = _earning();
        _earn(payer, 100_000);
        _undelegate(DELEGATOR, 100 * TOKEN);
        _same(vault.rewardsOf(provider, DELEGATOR), 47_500, "before");
        _earn(payer, 100_000);
        settlement.divide(provider);
        _same(vault.rewardsOf(provider, DELEGATOR), 47_500, "and not after");
        _same(settlement.earnedOf(provider), 47_500 + 95_000, "all of it is the provider's");
    }

    function test_rewardsArePaidAfterTheirDelay() public {
        _delegate(DELEGATOR, 100 * TOKEN);
        uint32 payer = _earning();
        _earn(payer, 100_000);
        vm.startPrank(DELEGATOR);
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.RewardsRequested(provider, DELEGATOR, 47_500, _now() + 1 days);
        vault.requestRewards(provider);
        _earn(payer, 100_000);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.ClaimOpen.selector, _now() + 1 days));
        vault.requestRewards(provider);
        vm.stopPrank();
        _later(1 days - 1);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.TooEarly.selector, _now() + 1));
        vault.claimRewards(provider, DELEGATOR);
        _later(1);
        uint256 before = _held(DELEGATOR);
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.RewardsPaid(provider, DELEGATOR, 47_500);
        vault.claimRewards(provider, DELEGATOR); // anyone may send it
        _same(_held(DELEGATOR) - before, 47_500, "paid");
        vm.expectRevert(IStakeVault.AmountZero.selector);
        vault.claimRewards(provider, DELEGATOR);
        vm.prank(DELEGATOR);
        vault.requestRewards(provider);
    }

    function test_thereAreNoRewardsOfNothing() public {
        vm.prank(LATE);
        vm.expectRevert(IStakeVault.AmountZero.selector);
        vault.requestRewards(provider);
    }

    function test_thePauseOfRewardsStopsTheirPaymentOnly() public {
        _delegate(DELEGATOR, 100 * TOKEN);
        uint32 payer = _earning();
        _earn(payer, 100_000);
        vm.prank(GUARDIAN);
        vault.setPaused(StakeVaultParameters.Path.Rewards, true);
        vm.prank(DELEGATOR);
        vault.requestRewards(provider);
        _later(1 days);
        vm.expectRevert(IStakeVault.Paused.selector);
        vault.claimRewards(provider, DELEGATOR);
        _undelegate(DELEGATOR, TOKEN);
        vm.prank(GUARDIAN);
        vault.setPaused(StakeVaultParameters.Path.Rewards, false);
        vault.claimRewards(provider, DELEGATOR);
    }

    function test_onlyTheSettlementDividesRewards() public {
        _delegate(DELEGATOR, 100 * TOKEN);
        vm.prank(ADMIN);
        vm.expectRevert(IStakeVault.NotSettlement.selector);
        vault.divideRewards(provider, 1_000);
    }

    function test_rewardsAreNeverPaidFromStake() public {
        vault = _newVault(address(token), ADMIN, TREASURY);
        EmptyPromises promises = new EmptyPromises(address(vault), address(token));
        ISettlement partner = promises.asSettlement();
        vm.prank(ADMIN);
        vault.setSettlement(partner);
        provider = _register();
        _fund(STAKER);
        _fund(DELEGATOR);
        _stake(100 * TOKEN);
        _delegate(DELEGATOR, 100 * TOKEN);
        promises.divide(provider);
        _same(vault.rewardsOf(provider, DELEGATOR), 500, "promised, not sent");
        vm.prank(DELEGATOR);
        vault.requestRewards(provider);
        _later(1 days);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.AmountTooLarge.selector, uint128(0)));
        vault.claimRewards(provider, DELEGATOR);
        token.transfer(address(vault), _units(500));
        vault.claimRewards(provider, DELEGATOR);
        _same(_held(address(vault)), 200 * TOKEN, "all stake is there");
    }

    function testFuzz_delegatorsShareWhatIsDividedAndNoMore(uint64 credit, uint64 first, uint64 second, uint16 commission)
        public
    {
        credit = 1 + credit % 1e14;
        first = uint64(TOKEN + first % (1e6 * TOKEN));
        second = uint64(TOKEN + second % (1e6 * TOKEN));
        vm.prank(STAKER);
        vault.setCommission(provider, commission % 2_001);
        _later(UNBONDING);
        _delegate(DELEGATOR, first);
        uint32 payer = _earning();
        _earn(payer, credit);
        _delegate(LATE, second);
        _earn(payer, credit);
        settlement.divide(provider);
        uint256 earned = uint256(vault.rewardsOf(provider, DELEGATOR)) + vault.rewardsOf(provider, LATE);
        (, uint128 rewards,) = vault.liabilities();
        _true(earned <= rewards && rewards <= earned + 3, "what they earned is owed, but for what is rounded");
        uint256 all = rewards + settlement.feesDue() + settlement.earnedOf(provider) + settlement.creditOf(provider);
        _same(all, 2 * uint256(credit), "fee, delegators and provider are the credit");
    }

    // ---- shares and slashes

    function test_aSlashTakesFromAllDelegatorsAndFromNoneThatComesAfter() public {
        _delegate(DELEGATOR, 300 * TOKEN);
        _slash("i", 250 * TOKEN); // 100 own, 150 of theirs
        _same(_worth(DELEGATOR), 150 * TOKEN, "half of it");
        _delegate(LATE, 150 * TOKEN);
        _true(_worth(LATE) >= 150 * TOKEN - 1, "the newcomer bears nothing");
        _slash("j", 30 * TOKEN);
        _true(_worth(DELEGATOR) >= 135 * TOKEN - 1 && _worth(DELEGATOR) <= 135 * TOKEN, "a tenth of each");
        _true(_worth(LATE) >= 135 * TOKEN - 1 && _worth(LATE) <= 135 * TOKEN, "a tenth of each");
    }

    function test_aPoolThatWasTakenWholeBeginsAnew() public {
        _delegate(DELEGATOR, 100 * TOKEN);
        uint32 payer = _earning();
        _earn(payer, 100_000);
        uint32 ticket = _undelegate(DELEGATOR, 40 * TOKEN);
        _slash("i", 200 * TOKEN);
        _same(_worth(DELEGATOR), 0, "nothing left");
        _same(vault.rewardsOf(provider, DELEGATOR), 47_500, "what was earned before stays");
        _delegate(LATE, 50 * TOKEN);
        _same(_worth(LATE), 50 * TOKEN, "of the newcomer alone");
        _same(_worth(DELEGATOR), 0, "old shares stay void");
        _earn(payer, 100_000);
        settlement.divide(provider);
        _same(vault.rewardsOf(provider, DELEGATOR), 47_500, "and earn nothing more");
        _same(vault.rewardsOf(provider, LATE), 95_000, "all of it: nobody else has stake");
        _later(UNBONDING);
        _same(_withdraw(DELEGATOR, ticket), 0, "an empty ticket can be closed");
        _delegate(DELEGATOR, 70 * TOKEN);
        _same(_worth(DELEGATOR), 70 * TOKEN, "and who lost all may come again");
    }

    /// Each slash leaves a billionth, so that shares get cheap and eras end.
    function test_noSeriesOfSlashesBlocksAnExit() public {
        _unbond(100 * TOKEN);
        _slash("own", 100 * TOKEN);
        for (uint256 i = 0; i < 9; i++) {
            _delegate(DELEGATOR, 1_000_000 * TOKEN);
            uint128 all = vault.providerOf(provider).delegated;
            _slash(bytes32(i), all - 1);
            _same(vault.providerOf(provider).delegated, 1, "one nano-token is left");
        }
        _delegate(LATE, 1_000_000 * TOKEN);
        _true(_worth(LATE) >= 1_000_000 * TOKEN - 2, "the newcomer has what he brought");
        (uint128 shares,) = vault.delegationOf(provider, LATE);
        uint32 ticket = _undelegate(LATE, shares);
        _later(UNBONDING);
        _true(_withdraw(LATE, ticket) >= 1_000_000 * TOKEN - 3, "and takes it out again");
    }

    function testFuzz_nobodysWorthFallsWhenOthersComeAndGo(uint64 mine, uint64 theirs, uint64 slashed, uint64 leaving)
        public
    {
        mine = uint64(TOKEN + mine % (1e6 * TOKEN));
        theirs = uint64(TOKEN + theirs % (1e6 * TOKEN));
        _delegate(DELEGATOR, mine);
        _slash("i", 100 * TOKEN + slashed % mine);
        uint128 before = _worth(DELEGATOR);
        uint128 shares = _delegate(LATE, theirs);
        _true(_worth(DELEGATOR) >= before, "when somebody comes");
        _true(_worth(LATE) <= theirs, "who gets no more than he brought");
        _undelegate(LATE, uint128(1 + leaving % shares));
        _true(_worth(DELEGATOR) >= before, "when somebody leaves");
        (uint128 rest,) = vault.delegationOf(provider, LATE);
        if (rest != 0) _undelegate(LATE, rest);
        _true(_worth(DELEGATOR) >= before && _worth(DELEGATOR) <= before + 3, "and when all left");
    }
}
